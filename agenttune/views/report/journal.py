"""All that a report tells, as data: a fold of the log that reads and never writes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from agenttune.protocol import events
from agenttune.protocol.commands import Impact, SaveCheckpoint
from agenttune.protocol.events import POLICY_FAILED, Decided, Event, Found
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import CommandRecord, Record, State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import Intervention, RunSummary
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.journal.run_summary import summarize
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import RunLog
from agenttune.views.event_lines import EventLine, lines_of

DecisionOutcome = Literal["applied", "kept", "reverted", "refused", "expired", "failed", "waiting"]
"""What came of a decision, in the words of a report. `expired` includes what was superseded."""
OUTCOMES: tuple[DecisionOutcome, ...] = ("applied", "kept", "reverted", "refused", "expired", "failed", "waiting")
OF_STATE: dict[State, DecisionOutcome] = {
    State.PROPOSED: "waiting",
    State.QUEUED: "waiting",
    State.REJECTED: "refused",
    State.SUPERSEDED: "expired",
    State.EXPIRED: "expired",
    State.FAILED: "failed",
    State.APPLIED: "applied",
    State.KEPT: "kept",
    State.REVERTED: "reverted",
}
CHANGED = frozenset({State.APPLIED, State.KEPT, State.REVERTED})


class Evidence(Record):
    """What a policy's decision rested on.

    Attributes:
        findings: The newest that detectors reported since the policy last asked for something.
        calls: Of language models, since the policy's decision before; without what was said.
    """

    policy: str
    woken_by: str
    reason: str = ""
    based_on_step: int | None = None
    findings: list[Finding] = Field(default_factory=list)
    calls: list[ModelCalled] = Field(default_factory=list)


class JournalEntry(Record):
    """One decision, from what it rests on to what came of it.

    Attributes:
        number: From 1, in order of proposal.
        evidence: None for people and for the trainer's own commands.
        events: The newest event of each kind that tells of this command, by kind.
    """

    number: int
    intervention: Intervention
    record: CommandRecord
    evidence: Evidence | None = None
    events: dict[str, Event] = Field(default_factory=dict)

    @property
    def is_abandoned(self) -> bool:
        """It happened on a part of the run that was left behind when the run went back."""
        return self.intervention.is_abandoned

    @property
    def outcome(self) -> DecisionOutcome:
        return OF_STATE[self.record.state]

    @property
    def is_change(self) -> bool:
        """Whether it changed the run, rather than look, note or save; also if that was undone later."""
        return self.record.state in CHANGED and self.record.command.impact is not Impact.NONE

    def at_s(self, kind: str) -> float | None:
        """When an event of that kind was recorded, in Unix time; None: it was not."""
        event = self.events.get(kind)
        return None if event is None else event.at_s

    @property
    def is_housekeeping(self) -> bool:
        """A snapshot that the trainer took by itself, to go back to if need be."""
        proposal = self.record.proposal  # by class: what the trainer takes back by itself is told
        return proposal.author.principal == "trainer" and isinstance(proposal.command, SaveCheckpoint)

    @property
    def step(self) -> int | None:
        ack = self.record.ack
        if ack is not None and ack.outcome == "applied":
            return ack.step
        return (
            self.record.submitted_step if self.record.submitted_step is not None else self.intervention.proposed_at_step
        )


class PolicyFailure(Record):
    """How often a policy failed, code of the user's own mostly.

    Attributes:
        count: Of its looks at the run.
        looks: How often it looked.
        step: Of the newest failure.
        error: The newest, as its decision tells it.
    """

    policy: str
    count: int
    looks: int
    step: int | None
    error: str


class Journal(Record):
    """All that a report shows.

    Attributes:
        happenings: What else the log tells: a status, a policy that came or left, a process that died, a note.
        process_is_gone: The run is not closed, and its process no longer lives on this machine.
        looks: How often policies looked at the run and decided, to act or not.
        holds: How often of these they asked for nothing.
        failures: How often of these a policy failed; by policy.
    """

    summary: RunSummary
    entries: list[JournalEntry]
    happenings: list[EventLine]
    looks: int = 0
    holds: int = 0
    failures: list[PolicyFailure] = Field(default_factory=list)
    last_seq: int = 0
    last_event_at_s: float | None = None
    process_is_gone: bool = False
    made_at_s: float

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended, as far as the log tells."""
        return self.summary.run.is_live


EVIDENCE_FINDINGS = 6
"""Of what was found since the last request, the newest; a guess at what a person reads."""
TOLD = (
    *(events.RunStarted, events.StatusChanged, events.AttemptStarted, events.AttemptEnded, events.BranchStarted),
    *(events.PolicyAttached, events.PolicyDetached, events.PolicyRequested, events.StandingChanged),
    *(events.LogGap, events.NoteAdded, events.Notified),
)
"""Events that are listed in the course of the run."""
OF_COMMAND = (events.Proposed, events.Judged, events.Acked, events.ReadBack, events.Settled)
"""Events that belong to one command."""
READ = (*TOLD, *OF_COMMAND, Found, ModelCalled, Decided)
KINDS = [str(body.model_fields["kind"].default) for body in READ]


def read_journal(log: RunLog, now_s: float | None = None) -> Journal:
    """Fold a run's log into its journal.

    Raises:
        StoreFault: The log is damaged, or was written by another version.
    """
    summary = summarize(log)
    reader = _Reader()
    for event in log.every_event(*KINDS):
        reader.take(event)
    return Journal(
        summary=summary,
        entries=_entries(log, summary, reader),
        happenings=reader.happenings,
        looks=reader.looks,
        holds=reader.holds,
        failures=[
            failed.model_copy(update={"looks": reader.by_policy[name]}) for name, failed in reader.failed.items()
        ],
        last_seq=log.last_seq(),
        last_event_at_s=next((event.at_s for event in log.events(limit=1, newest=True)), None),
        process_is_gone=_is_gone(summary.run),
        made_at_s=time.time() if now_s is None else now_s,
    )


def _is_gone(info: RunInfo) -> bool:
    return info.is_live and info.pid is not None and not is_alive(info.pid, info.pid_started_s)


@dataclass
class _Reader:
    """Collects what the report needs while the events are read, once and in order."""

    events: dict[str, dict[str, Event]] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    happenings: list[EventLine] = field(default_factory=list)
    looks: int = 0
    holds: int = 0
    by_policy: Counter[str] = field(default_factory=Counter)
    failed: dict[str, PolicyFailure] = field(default_factory=dict)
    _findings: list[Finding] = field(default_factory=list)
    _calls: list[ModelCalled] = field(default_factory=list)

    def take(self, event: Event) -> None:
        body = event.body
        if event.command_id is not None and isinstance(body, OF_COMMAND):
            self.events.setdefault(event.command_id, {})[body.kind] = event
        if isinstance(body, Found):
            self._findings = [*self._findings, body.finding][-EVIDENCE_FINDINGS:]
        elif isinstance(body, ModelCalled):
            self._calls.append(body.model_copy(update={"messages": [], "answer": None}))
        elif isinstance(body, Decided):
            self._take_decision(body, event.step)
        elif isinstance(body, TOLD):
            self.happenings += lines_of(event, lambda command_id: None)

    def _take_decision(self, body: Decided, step: int | None) -> None:
        self.looks += 1
        self.by_policy[body.policy] += 1
        self.holds += not body.command_ids
        if POLICY_FAILED in body.reason:
            count = self.failed[body.policy].count + 1 if body.policy in self.failed else 1
            error = body.reason.removeprefix(f"{POLICY_FAILED}: ")
            self.failed[body.policy] = PolicyFailure(policy=body.policy, count=count, looks=0, step=step, error=error)
        calls, self._calls = self._calls, []
        if not body.command_ids:
            return
        evidence = Evidence(
            policy=body.policy,
            woken_by=body.woken_by,
            reason=body.reason,
            based_on_step=body.based_on_step,
            findings=self._findings,
            calls=calls,
        )
        self._findings = []
        self.evidence |= dict.fromkeys(body.command_ids, evidence)


def _entries(log: RunLog, summary: RunSummary, reader: _Reader) -> list[JournalEntry]:
    known = {intervention.command_id: intervention for intervention in summary.interventions}
    # A live run goes on between two readings: only what both know.
    records = [record for record in log.commands(limit=EVERYTHING) if record.command_id in known]
    return [
        JournalEntry(
            number=number,
            intervention=known[record.command_id],
            record=record,
            evidence=reader.evidence.get(record.command_id),
            events=reader.events.get(record.command_id, {}),
        )
        for number, record in enumerate(records, 1)
    ]
