"""What can be done to runs, wherever they are: the agent loop, the page and the command line see nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import Field

from agenttune.protocol.commands import Command
from agenttune.protocol.events import (
    BranchStarted,
    CheckpointDeleted,
    CheckpointMoved,
    CheckpointSaved,
    Curve,
    DatasetRead,
    Decided,
    Event,
    Found,
    KnobState,
    ModuleInfo,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    RunInfo,
    SeriesInfo,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, Record, StandingApproval, State, Verdict
from agenttune.protocol.summary import Intervention

CHECKPOINT_KINDS = ("checkpoint_saved", "checkpoint_moved", "checkpoint_deleted")
MOST_CHECKPOINTS = 20_000
"""Events about checkpoints that are read of one run (guess: far more than a disk holds)."""

AgentRecord = Found | Decided | PolicyAttached | PolicyDetached | PolicyRequested | ModelCalled
"""What may be written into a log beside proposals: by an agent, and an operator's wish for another policy."""


class Decision(Record):
    """What somebody decided on a proposal that waits.

    Attributes:
        verdict: `escalate` leaves it to the next who is asked; if there is none, it is rejected.
        digest: Of the proposal, as shown: what was shown is what runs.
        command: `edit`: what is to run instead.
        always: `approve`: further commands of this kind that wait under the same rule are approved too, in this run.
        approver: Which approver of the rule this is. A person may decide at any time, a model when it is its turn.
    """

    verdict: Literal["approve", "edit", "reject", "escalate"]
    digest: str = Field(max_length=128)
    author: Author
    reason: str = Field("", max_length=2000)
    command: Command | None = None
    always: bool = False
    approver: Literal["human", "model"] = "human"


class Control(Protocol):
    """What can be done to runs, wherever they are.

    Raises:
        UnknownRun: Every method with a `run_id` that does not exist.
        ServerUnreachable: Every method, when there is a server in between and it does not answer.
    """

    def runs(self) -> list[RunInfo]:
        """All runs, newest first."""
        ...

    def info(self, run_id: str) -> RunInfo: ...

    def observe(self, run_id: str) -> Observation:
        """What a policy sees now; bounded however long the run is."""
        ...

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        """Events after `since`; with `wait_s`, waits that long for the first one."""
        ...

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command: it gets a verdict, and if approved is queued.

        Raises:
            RunEnded: The run takes no more commands.
            CommandIdReused: The id belongs to a different command.
        """
        ...

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        """The verdict that `submit` would give, without submitting; `approved` if it would wait for somebody."""
        ...

    def pending(self, run_id: str) -> list[CommandRecord]:
        """Proposals that wait for a decision, oldest first; those whose time is up are decided first."""
        ...

    def decide(self, run_id: str, command_id: str, decision: Decision) -> CommandRecord:
        """Decide on a proposal that waits; guardrails and staleness are checked again, and the first answer is final.

        Raises:
            AlreadyDecided: It does not wait (any more).
            UserError: The decision does not fit the proposal: another digest, an edit that the guardrails refuse.
        """
        ...

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        """Take back that a person has always allowed a kind of command; returns what was taken back.

        Raises:
            UserError: It was not allowed.
        """
        ...

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        ...

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        """The newest commands, oldest first."""
        ...

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        """Write a finding or a decision into the log; returns its `seq`."""
        ...

    def knobs(self, run_id: str) -> list[KnobState]:
        """Every live-tunable value as it stands."""
        ...

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]: ...

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        """A metric of one branch, thinned; raises UserError if that branch has none of that name."""
        ...

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        ...

    def branches(self, run_id: str) -> list[BranchStarted]:
        """Branches in order of their start; `main` is always the first."""
        ...

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        """The newest commands with their measured effect, oldest first."""
        ...

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        """The model's layers as last read; with `norms`, as the trainer measures them now, within `wait_s`.

        Raises:
            UserError: No such layer, or the trainer refuses to measure.
            SystemFault: It did not measure in time.
        """
        ...

    def dataset(self, run_id: str) -> DatasetRead | None:
        """The training dataset as last read."""
        ...

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        """Calls of language models, oldest first; without the messages and the answer."""
        ...


def existing_checkpoints(events: Sequence[Event]) -> list[Event]:
    """Of events of `CHECKPOINT_KINDS`, those that tell of a checkpoint which nobody has deleted since, where it is."""
    left: dict[str, Event] = {}
    for event in events:
        if isinstance(event.body, CheckpointSaved):
            left[event.body.checkpoint_id] = event
        elif isinstance(event.body, CheckpointDeleted):
            left.pop(event.body.checkpoint_id, None)
        elif isinstance(event.body, CheckpointMoved) and event.body.checkpoint_id in left:
            saved = left[event.body.checkpoint_id]
            body = saved.body.model_copy(update={"path": event.body.path})
            left[event.body.checkpoint_id] = saved.model_copy(update={"body": body})
    return list(left.values())
