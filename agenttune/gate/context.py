"""What a verdict rests on: the run at this moment, what agents did before, and the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agenttune.config import BudgetSettings, GateSettings, ProbationSettings
from agenttune.protocol.deadlines import Instant
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.proposals import CommandRecord, Proposal, Verdict
from agenttune.protocol.run_info import RunInfo


@dataclass(frozen=True)
class Moment:
    """The run as it stands when somebody asks.

    Attributes:
        info: The run.
        now: By both clocks.
        metric_value: The goal metric as last known.
    """

    info: RunInfo
    now: Instant
    metric_value: float | None = None


@dataclass(frozen=True)
class CommandHistory:
    """What agents did so far in a run.

    Attributes:
        commands: The newest that were let through and did not fail, oldest first.
        count_taken: Counts them all; asked only where a limit or a condition depends on it.
        count_returns: Counts those of them that went back to a checkpoint, in the same way.
        refused: The newest that were refused, oldest first.
        waiting: Those that wait for a decision.
        extra_steps: Training steps that probes have taken so far.
        queued: What the trainer will apply before, whoever asked for it.
        lineage: The branches that the run stands on; empty: nothing that was done has been left behind.
        approved_by: Who has let the proposal at hand through, as its verdict names them; empty: nobody yet.
    """

    commands: Sequence[CommandRecord] = ()
    count_taken: Callable[[], int] = int
    count_returns: Callable[[], int] = int
    refused: Sequence[CommandRecord] = ()
    waiting: Sequence[CommandRecord] = ()
    extra_steps: int = 0
    queued: Sequence[CommandRecord] = ()
    lineage: Lineage = field(default_factory=Lineage)
    approved_by: str = ""


@dataclass(frozen=True)
class World:
    """What a guardrail may look at.

    Attributes:
        info: The run as it stands.
        history: What agents did so far.
        settings: The run's limits.
        budgets: The run's budgets.
        probation: How changes are watched.
    """

    info: RunInfo
    history: CommandHistory
    settings: GateSettings
    budgets: BudgetSettings
    probation: ProbationSettings

    @cached_property
    def recent(self) -> list[CommandRecord]:
        """Commands that were taken within `gate.window.steps`, oldest first."""
        steps = self.settings.window.steps
        return [r for r in self.history.commands if (since := self.steps_since(r)) is not None and since < steps]

    def steps_since(self, record: CommandRecord) -> int | None:
        """Steps since a command, on the way that led here; None if a return to a checkpoint has left it behind."""
        branch = record.ack.branch if record.ack is not None else record.proposal.based_on_branch
        since = self.info.step - step_of(record)
        stands = branch is None or self.history.lineage.has(branch, step_of(record))
        return since if stands and since >= 0 else None


Guardrail = Callable[[Proposal, World], Verdict | None]


def step_of(record: CommandRecord) -> int:
    """The step at which a command was applied, or asked for."""
    return record.ack.step if record.ack else record.submitted_step or 0


def refused(guardrail: str, reason: str, nearest: dict[str, Any] | None = None) -> Verdict:
    """A guardrail's refusal."""
    return Verdict(decision="rejected", decided_by=f"guardrail:{guardrail}", reason=reason, nearest_allowed=nearest)
