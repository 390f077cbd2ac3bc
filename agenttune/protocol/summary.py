"""What a report tells of a run, as data. `store/journal/run_summary.py` folds a log into it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agenttune.protocol.effects import Effect as Effect
from agenttune.protocol.effects import MetricAt as MetricAt
from agenttune.protocol.events import BestState, CheckpointSaved
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import Cost
from agenttune.protocol.proposals import Ack, Change, CommandRecord, Record, State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import number

WHOLE = 4096
"""Characters of a value that is told uncut, such as a path."""
SCHEDULED_FRAC = 0.5
"""A schedule that takes more of the base rate leaves an effective one that alone would mislead (guess)."""


class Score(Record):
    """How a metric began, ended and stood at its best."""

    metric: str
    direction: str
    first: MetricAt
    last: MetricAt
    best: MetricAt


class Intervention(Record):
    """One command from proposal to consequence."""

    command_id: str
    kind: str
    arguments: dict[str, Any]
    author: str
    principal: str
    rationale: str
    proposed_at_step: int | None
    state: State
    decision: str = Field("", description="The verdict's word; empty if there was none.")
    decided_by: str = ""
    decision_reason: str = ""
    applied_at_step: int | None = None
    probation: str = Field("", description="Why the change was kept or reverted, once its probation is over.")
    edited: dict[str, Any] | None = Field(
        None, description="Arguments that ran instead, where the verdict changed them."
    )
    summary: str = Field(description="The change in one line: before -> after, or why there was none.")
    message: str = Field("", description="What the trainer said with its ack.")
    result: dict[str, Any] = Field(
        default_factory=dict, description="What the ack carries: metrics, a checkpoint's id, a probe's trials."
    )
    metric_before: MetricAt | None = Field(None, description="Goal metric, last value before it was applied.")
    metric_after: MetricAt | None = Field(
        None, description="Goal metric, last value of the window after it; the difference is no effect, see `effect`."
    )
    is_abandoned: bool = Field(
        False, description="It took effect on steps that were left behind when the run went back: it is not in force."
    )
    effect: Effect | None = Field(None, description="Against what was to be expected; None for what changed nothing.")

    @classmethod
    def of(
        cls,
        record: CommandRecord,
        before: MetricAt | None = None,
        after: MetricAt | None = None,
        effect: Effect | None = None,
    ) -> Intervention:
        """A command with what was measured around it."""
        proposal, verdict, ack = record.proposal, record.verdict, record.ack
        based_on = proposal.based_on_step
        return cls(
            command_id=proposal.command_id,
            kind=proposal.command.kind,
            arguments=proposal.command.arguments(),
            author=proposal.author.name,
            principal=proposal.author.principal,
            rationale=proposal.rationale,
            proposed_at_step=record.submitted_step if based_on is None else based_on,
            state=record.state,
            decision=verdict.decision if verdict else "",
            decided_by=verdict.decided_by if verdict else "",
            decision_reason=verdict.reason if verdict else "",
            applied_at_step=ack.step if ack is not None and ack.outcome == "applied" else None,
            edited=verdict.edited.arguments() if verdict is not None and verdict.edited is not None else None,
            summary=outcome_line(record),
            message="" if ack is None else ack.message,
            result=result_of(record),
            metric_before=before,
            metric_after=after,
            effect=effect,
        )


class FindingAt(Record):
    at_s: float
    finding: Finding
    judged_right: bool | None = Field(None, description="What a person said of it last; None: nobody did.")


class ProbeCost(Record):
    """What probes took beside the run's own steps.

    Attributes:
        extra_s: Time, in seconds, with going back.
        adopted: Probes after which something was changed.
    """

    probes: int = 0
    adopted: int = 0
    extra_steps: int = 0
    extra_s: float = 0.0


class DecisionCost(Record):
    """What one decision of a language model took and came to; `step` is that of the observation it rests on."""

    step: int | None
    policy: str
    cost: Cost
    faults: list[str] = Field(default_factory=list, description="What went wrong, or was done without.")
    unusable: bool = Field(False, description="Nothing of what the model said could be used.")


Hindsight = Literal["agreed", "opposed", "alone"]


class ShadowedProposal(Record):
    """What a policy in shadow would have asked for, beside what happened.

    Attributes:
        done: What others had applied within the window, of the same kind if there was any such; empty for nothing.
        hindsight: `agreed`: the same kind of change in the same direction; `opposed`: in the other; `alone`: no such.
        critical_after: Whether a detector reported something critical within the window.
    """

    step: int
    policy: str
    kind: str
    arguments: dict[str, Any]
    rationale: str
    done: str = ""
    hindsight: Hindsight
    metric_before: MetricAt | None = None
    metric_after: MetricAt | None = None
    critical_after: bool = False


class ShadowScore(Record):
    """How what a policy in shadow would have done compares to what was done."""

    window_steps: int
    proposals: list[ShadowedProposal]
    agreed: int
    opposed: int
    alone: int
    alone_before_critical: int = Field(description="Of `alone`: followed by a critical finding.")


class BranchSummary(Record):
    """A branch: where it began and how far it went.

    Attributes:
        stands_to: Last step of it that the run still stands on: None for all, -1 for none.
    """

    name: str
    parent: str | None = None
    from_step: int = 0
    checkpoint_id: str | None = None
    started_at_s: float | None = None
    last_step: int = 0
    stands_to: int | None = None
    is_current: bool = False


class RunSummary(Record):
    """What a report shows."""

    run: RunInfo
    duration_s: float
    score: Score | None = Field(None, description="None if the run logged no loss at all.")
    best_state: BestState | None = Field(None, description="A state that was better than the end, where one was kept.")
    on_disk: CheckpointSaved | None = Field(None, description="The newest checkpoint of its own that can be loaded.")
    on_disk_step: int | None = None
    interventions: list[Intervention]
    not_carried_out: list[str] = Field(default_factory=list, description="Entries of a plan, each with why not.")
    findings: list[FindingAt]
    policies: list[str]
    notes: list[str]
    branches: list[BranchSummary] = Field(default_factory=list, description="In order of their start.")
    cost: Cost = Field(default_factory=Cost)
    probing: ProbeCost = Field(default_factory=ProbeCost)
    decision_costs: list[DecisionCost] = Field(default_factory=list, description="Decisions that took calls.")
    shadow: ShadowScore | None = Field(None, description="None if no policy in shadow proposed anything.")


def outcome_line(record: CommandRecord) -> str:
    """What became of a command, in one line."""
    if record.ack is None:
        return record.verdict.reason if record.verdict and record.verdict.reason else record.state.value
    words = outcome_words(record.ack)
    return words if record.ack.outcome == "applied" else f"{record.ack.outcome}: {words}"


def outcome_words(ack: Ack) -> str:
    """What the trainer answered, in one line, where its outcome has been said already."""
    if ack.outcome != "applied":
        return ack.message
    parts = [f"{c.name} {number(c.previous)} -> {number(c.effective)}{_base(c)}" for c in ack.changes]
    # Tables, such as a probe's trials, are no part of a line.
    told = {name: value for name, value in ack.result.items() if not isinstance(value, (list, dict, type(None)))}
    parts += [f"{name} {number(value, WHOLE)}" for name, value in told.items()]
    line = ", ".join(parts) or ack.message or "applied"
    # A probe that adopts nothing has figures, and its reason is what matters.
    return f"{line}; {ack.message}" if parts and not ack.changes and ack.message else line


def _base(change: Change) -> str:
    """The base rate, where the effective one says little of it: in a warm-up, or late in a schedule."""
    effective, base = change.effective, change.base
    if base is None or not isinstance(effective, (int, float)) or abs(effective - base) <= SCHEDULED_FRAC * abs(base):
        return ""
    before = "" if change.previous_base is None else f"{number(change.previous_base)} -> "
    return f" (base {before}{number(base)})"


def result_of(record: CommandRecord) -> dict[str, Any]:
    """What a command's ack carries, but for a model's layers: those were the answer to whoever asked for them."""
    return {} if record.ack is None or record.command.is_read else dict(record.ack.result)
