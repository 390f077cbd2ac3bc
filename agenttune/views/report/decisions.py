"""What a written report tells, as data. `decision_journal.py` makes it of a log; the renderers only lay it out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.events import ReadBack, Settled
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import CommandRecord, Record, State
from agenttune.protocol.summary import Intervention, RunSummary

Outcome = Literal["applied", "kept", "reverted", "refused", "expired", "failed", "waiting"]
"""What came of a decision, in the words of a report. `expired` includes what was superseded."""
OUTCOMES: tuple[Outcome, ...] = ("applied", "kept", "reverted", "refused", "expired", "failed", "waiting")
OF_STATE: dict[State, Outcome] = {
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


class Times(Record):
    """When what happened to a command was recorded, in Unix time; None: it was not."""

    proposed_at_s: float | None = None
    judged_at_s: float | None = None
    acked_at_s: float | None = None


class Settlement(Record):
    """How a probation ended, and at which step."""

    settled: Settled
    step: int | None


class Check(Record):
    """The second reading of a change, some steps later."""

    read: ReadBack
    step: int | None


class Entry(Record):
    """One decision, from what it rests on to what came of it."""

    number: int = Field(description="From 1, in order of proposal.")
    effect: Intervention
    record: CommandRecord
    times: Times = Field(default_factory=Times)
    evidence: Evidence | None = Field(None, description="None for people and for the trainer's own commands.")
    check: Check | None = None
    settlement: Settlement | None = None
    is_abandoned: bool = Field(False, description="It happened on a stretch that the run went back behind.")

    @property
    def outcome(self) -> Outcome:
        return OF_STATE[self.record.state]

    @property
    def is_housekeeping(self) -> bool:
        """A snapshot that the trainer took by itself, to go back to if need be."""
        proposal = self.record.proposal
        return proposal.author.principal == "trainer" and proposal.command.kind == "save_checkpoint"

    @property
    def step(self) -> int | None:
        ack = self.record.ack
        if ack is not None and ack.outcome == "applied":
            return ack.step
        return self.record.submitted_step if self.record.submitted_step is not None else self.effect.proposed_at_step


class Happening(Record):
    """Something else that the log tells: a status, a policy that came or left, a process that died, a note."""

    at_s: float
    step: int | None
    mark: str
    text: str


class Journal(Record):
    """All that a report shows.

    Attributes:
        process_is_gone: The run is not closed, and its process no longer lives on this machine.
        looks: How often policies looked at the run and decided, to act or not.
        holds: How often of these they asked for nothing.
    """

    summary: RunSummary
    entries: list[Entry]
    happenings: list[Happening]
    looks: int = 0
    holds: int = 0
    last_seq: int = 0
    last_event_at_s: float | None = None
    process_is_gone: bool = False
    made_at_s: float

    @property
    def is_open(self) -> bool:
        """The log has no end (yet)."""
        return self.summary.run.is_live
