"""What can be read of a run: each read is declared once, as the model of its arguments and of its answer.

The control server's route, its client's request, the reader of one run and the tools derive from these classes. To add
a read, write its class here, put it into `QUERIES`, and write the function that answers it in `control/answers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agenttune.errors import UserError
from agenttune.protocol.events import EVENT_KINDS, BranchStarted, CheckpointSaved, DatasetRead, Event
from agenttune.protocol.metrics import Curve, Metric, SeriesInfo, StoredPoint
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord, Proposal, Record, State, Verdict
from agenttune.protocol.run_info import KnobState, ModuleInfo, RunInfo
from agenttune.protocol.summary import Intervention

MAX_STEP = 2**53
"""Largest step taken in: every JSON reader still counts exactly up to here."""
MAX_ROWS = 10_000
"""Of one answer."""
MAX_WAIT_S = 60.0
"""Of one read: proxies and clients commonly give up after 60 s or more."""

R = TypeVar("R", bound=BaseModel)
Cursor = Annotated[int, Field(ge=0, le=MAX_STEP, description="Only what follows this cursor.")]
Limit = Annotated[int, Field(ge=1, le=MAX_ROWS, description="At most so many.")]
StepBound = Annotated[int, Field(ge=0, le=MAX_STEP)]
BranchName = Annotated[str, Field(max_length=200)]
Wait = Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Wait so many seconds for it.")]


class RunQuery(BaseModel, Generic[R]):
    """A read of one run; `R` is its answer, and the body of the server's answer as it stands.

    Attributes:
        path: Below the run's own path in the REST API; names in braces are fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: ClassVar[str]

    @classmethod
    def answer_type(cls) -> type[BaseModel]:
        """The model of the answer."""
        for base in cls.__mro__:
            arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments:
                answer: type[BaseModel] = arguments[0]
                return answer
        raise TypeError(f"{cls.__name__} does not say what answers it")

    @classmethod
    def path_fields(cls) -> list[str]:
        """The fields that stand in the path; all others are query parameters."""
        return re.findall(r"\{(\w+)", cls.path)


class Series(Record):
    series: list[SeriesInfo]


class Points(Record):
    points: list[StoredPoint]
    next: int = Field(description="Cursor: pass it as `since` for what follows.")


class Events(Record):
    events: list[Event]
    next: int = Field(description="Cursor: pass it as `since` for what follows.")


class Knobs(Record):
    knobs: list[KnobState]

    def named(self, name: str) -> KnobState | None:
        return next((knob for knob in self.knobs if knob.name == name), None)


class Commands(Record):
    commands: list[CommandRecord] = Field(description="The newest ones, oldest first.")


class History(Record):
    history: list[Intervention] = Field(description="The newest commands with their effect, oldest first.")


class ModelCalls(Record):
    calls: list[ModelCalled] = Field(description="Oldest first, without messages and answers.")


class Checkpoint(Record):
    checkpoint_id: str
    path: str = Field(description="Its folder; empty for a snapshot in memory.")
    tag: str | None
    keep_in: Literal["disk", "memory"]
    size_bytes: int | None
    metric: Metric | None = Field(description="The goal metric as last evaluated before it.")
    pinned: bool = Field(description="Never deleted to keep within the disk cap.")
    is_before: bool = Field(description="It lay there when the run began, and is not for agents.")
    problem: str = Field(description="Why it cannot be loaded again; empty if it can.")
    step: int | None
    branch: str
    at_s: float = Field(description="Unix time.")
    command_id: str | None = Field(description="The command that asked for it, if one did.")
    seq: int = Field(description="The event that tells of it.")

    @classmethod
    def of(cls, event: Event) -> Checkpoint:
        """The checkpoint that a `checkpoint_saved` event tells of."""
        saved = event.body
        if not isinstance(saved, CheckpointSaved):
            raise TypeError(f"event {event.seq} is no checkpoint")
        return cls(
            **saved.model_dump(exclude={"kind", "command_id"}),
            step=event.step,
            branch=event.branch,
            at_s=event.at_s,
            command_id=saved.command_id or event.command_id,
            seq=event.seq,
        )


class Checkpoints(Record):
    checkpoints: list[Checkpoint] = Field(description="Those that still exist, oldest first.")


class Branch(Record):
    """A branch and those that go off it."""

    name: str
    parent: str | None
    from_step: int
    checkpoint_id: str | None = Field(description="The checkpoint it stands on.")
    is_current: bool
    children: list[Branch]


class Branches(Record):
    branches: list[BranchStarted] = Field(description="In order of their start; `main` is always the first.")
    current: str = Field(description="The branch that is being trained, or was last.")
    tree: list[Branch] = Field(description="The same branches as a tree; one root unless a run has several.")

    @classmethod
    def of(cls, started: Sequence[BranchStarted]) -> Branches:
        """All branches, of the events of their starts; the newest is the current one."""
        found = [*([] if any(b.name == "main" for b in started) else [BranchStarted(name="main")]), *started]
        current = found[-1].name
        return cls(branches=found, current=current, tree=_tree(found, current))


def _tree(branches: Sequence[BranchStarted], current: str) -> list[Branch]:
    """Branches under those they went off; one whose parent is not known is a root."""
    made: dict[str, Branch] = {}
    roots: list[Branch] = []
    for started in branches:
        told = started.model_dump(include={"name", "parent", "from_step", "checkpoint_id"})
        branch = Branch(**told, is_current=started.name == current, children=[])
        siblings = made[started.parent].children if started.parent in made else roots
        siblings.append(branch)
        made[started.name] = branch
    return roots


class Model(Record):
    """The model's layers as last read; all null if the trainer has not told."""

    step: int | None = None
    at_s: float | None = Field(None, description="Unix time at which it was read.")
    model: ModuleInfo | None = None
    message: str = Field("", description="What the trainer said of norms that it could not measure.")


class Dataset(Record):
    """The training dataset as last read; all null if the trainer has not told."""

    step: int | None = None
    at_s: float | None = Field(None, description="Unix time at which it was read.")
    dataset: DatasetRead | None = None


class InfoQuery(RunQuery[RunInfo]):
    """One run."""

    path = ""


class ObservationQuery(RunQuery[Observation]):
    """What a policy sees now; bounded however long the run is."""

    path = "/observation"


class SeriesQuery(RunQuery[Series]):
    """The metrics there are, with their extent."""

    path = "/metrics"
    branch: BranchName = "main"


class CurveQuery(RunQuery[Curve]):
    """One metric over steps, downsampled to at most `max_points`."""

    path = "/metrics/{name:path}"
    name: str
    branch: BranchName = "main"
    first_step: StepBound = 0
    last_step: StepBound | None = None
    max_points: Limit = 1000

    @model_validator(mode="after")
    def _steps_in_order(self) -> CurveQuery:
        if self.last_step is not None and self.last_step < self.first_step:
            message = f"last_step {self.last_step} is before first_step {self.first_step}"
            raise UserError(message, field="last_step")
        return self


class PointsQuery(RunQuery[Points]):
    """Whole metric rows, in order of writing."""

    path = "/points"
    since: Cursor = 0
    limit: Limit = 1000


class KnobsQuery(RunQuery[Knobs]):
    """Every live-tunable value as it stands."""

    path = "/knobs"


class CheckpointsQuery(RunQuery[Checkpoints]):
    """Checkpoints that still exist, in order of saving."""

    path = "/checkpoints"


class BranchesQuery(RunQuery[Branches]):
    """Every branch: which it went off, at which step, from which checkpoint; as a list and as a tree."""

    path = "/branches"


class ModelQuery(RunQuery[Model]):
    """The model's layers: parameter counts, what is trainable, what can be done to each.

    As last read by the trainer. With `norms` the trainer is asked to measure, and the answer waits for it up to
    `wait_s`; that takes time from training, so it wants a role that may propose commands.
    """

    path = "/model"
    norms: bool = Field(False, description="Ask the trainer for the norms of weights and last gradients.")
    layer: str = Field("", max_length=512, description="Only this layer and what is in it.")
    wait_s: Wait = 10.0


class DatasetQuery(RunQuery[Dataset]):
    """The training dataset and its parameters, as last read."""

    path = "/dataset"


class HistoryQuery(RunQuery[History]):
    """The newest commands, what became of them, and the goal metric before and after each."""

    path = "/history"
    limit: Limit = 50


class ModelCallsQuery(RunQuery[ModelCalls]):
    """Calls of language models with their tokens and cost, without what was said."""

    path = "/model-calls"


class EventsQuery(RunQuery[Events]):
    """Events after a cursor, oldest first; with `wait_s`, waits for the first one."""

    path = "/events"
    since: Cursor = 0
    limit: Limit = 1000
    kinds: list[str] = Field([], description="Only events of these kinds.")
    wait_s: Wait = 0.0

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        for kind in kinds:
            if kind not in EVENT_KINDS:
                known = list(EVENT_KINDS)
                message = f"unknown event kind {kind!r:.80}; known: {', '.join(known)}"
                raise UserError(message, field="kinds", allowed=known)
        return kinds


class CommandsQuery(RunQuery[Commands]):
    """The newest commands, oldest first."""

    path = "/commands"
    state: list[State] = Field([], description="Only commands in these states.")
    limit: Limit = 1000


class CommandQuery(RunQuery[CommandRecord]):
    """One command and all that is known of it; with `wait_s`, waits for the trainer's ack."""

    path = "/commands/{command_id}"
    command_id: str
    wait_s: Wait = 0.0


class PendingQuery(RunQuery[Commands]):
    """Proposals that wait for a decision, oldest first, each with its `request`."""

    path = "/approvals"


QUERIES: tuple[type[RunQuery[Any]], ...] = (
    InfoQuery,
    ObservationQuery,
    SeriesQuery,
    CurveQuery,
    PointsQuery,
    KnobsQuery,
    CheckpointsQuery,
    BranchesQuery,
    DatasetQuery,
    HistoryQuery,
    ModelCallsQuery,
    ModelQuery,
    CommandsQuery,
    CommandQuery,
    PendingQuery,
    EventsQuery,
)
"""Every read there is."""


class RunReader(Protocol):
    """One run, wherever it is, as policies and tools see it."""

    def read(self, query: RunQuery[R]) -> R:
        """Answer a read.

        Raises:
            UserError: There is no such metric, layer, ...
            ServerUnreachable: There is a server in between and it does not answer.
        """
        ...

    def dry_run(self, proposal: Proposal) -> Verdict:
        """What the gate would say of a proposal now."""
        ...
