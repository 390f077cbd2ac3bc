"""What can be read of a run: each read is declared once, as the model of its arguments and of its answer.

The control server's route, its client's request, the reader of one run and the tools derive from these classes. To add
a read, write its class here under `@register_read`, and the function that answers it in `control/local.py`.
With a `tool` it is one for language models, MCP clients and `agenttune show` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agenttune.errors import UserError
from agenttune.protocol.agent_status import AgentStatus
from agenttune.protocol.commands.value_types import Bool, Int, Text
from agenttune.protocol.decision import Approval, CommandDecision, FindingRead
from agenttune.protocol.events import EVENT_KINDS, BranchStarted, CheckpointSaved, DatasetRead, Event, KeptAs
from agenttune.protocol.guardrail_use import Guardrails
from agenttune.protocol.metrics import Axis, Curve, Curves, Metric, SeriesInfo, StoredPoint
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord, Proposal, Record, State, Verdict
from agenttune.protocol.run_info import KnobState, ModuleInfo, RunInfo, knob_named
from agenttune.protocol.summary import Intervention

MAX_STEP = 2**53
"""Largest step taken in: every JSON reader still counts exactly up to here."""
MAX_ROWS = 10_000
"""Of one answer."""
MAX_WAIT_S = 60.0
"""Of one read: proxies and clients commonly give up after 60 s or more."""

R = TypeVar("R", bound=BaseModel)
Q = TypeVar("Q", bound="RunQuery[Any]")
Cursor = Annotated[int, Field(ge=0, le=MAX_STEP, description="Only what follows this cursor.")]
Limit = Annotated[int, Field(ge=1, le=MAX_ROWS, description="At most so many.")]
StepBound = Annotated[int, Field(ge=0, le=MAX_STEP)]
BranchName = Annotated[str, Field(max_length=200)]
ToolStep = Annotated[Int, Field(ge=0, le=MAX_STEP)]
Newest = Annotated[Int, Field(ge=1, le=50, description="At most so many, the newest.")]
MOST_CURVES = 200
"""Of one answer, metrics and branches each."""
MetricNameText = Annotated[str, Field(min_length=1, max_length=1000)]
MetricName = Annotated[Text, Field(min_length=1, max_length=1000)]
LAYER = "Only this layer and what is in it. Default: the whole model."
NORMS = "Also the norms of weights and last gradients; asks the trainer."
Wait = Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Wait so many seconds for it.")]


@dataclass(frozen=True)
class AsTool:
    """How a read is offered as a tool.

    Attributes:
        name: For clients that are offered a tool for each read.
        word: What is read, for `read` of language models and `show` of the command line.
        arguments: By name, each a type and a default; None: the fields of the read.
        description: Empty: the first paragraph of the read's own.
        brief: What `read`, which has few words, says of an argument.
        keep_first: Of a list that is too long, leave out the last entries instead of the first ones.
    """

    name: str
    word: str
    arguments: Mapping[str, tuple[Any, Any]] | None = None
    description: str = ""
    brief: Mapping[str, str] = field(default_factory=dict)
    keep_first: bool = False


class RunQuery(BaseModel, Generic[R]):
    """A read of one run; `R` is its answer, and the body of the server's answer as it stands.

    Attributes:
        path: Below the run's own path in the REST API; names in braces are fields.
        tool: How programs and models are offered it; None: they are not.
        right: `read`, or `rules` for what shows an agent's limits or instructions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: ClassVar[str]
    tool: ClassVar[AsTool | None] = None
    right: ClassVar[Literal["read", "rules"]] = "read"

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


QUERIES: list[type[RunQuery[Any]]] = []
"""Every read there is. What is derived from them is derived when it is asked for, so that a new one is in it."""


def register_read(query: type[Q]) -> type[Q]:
    """Add a read to the list: a class decorator.

    Raises:
        TypeError: Another one has its path, or its tool's name or word.
    """
    for other in QUERIES:
        if taken := _claimed(query) & _claimed(other):
            raise TypeError(f"read {query.__name__}: {other.__name__} has {', '.join(sorted(taken))} already")
    QUERIES.append(query)
    return query


def _claimed(query: type[RunQuery[Any]]) -> set[str]:
    tool = query.tool
    return {f"the path {query.path!r}"} | (
        set() if tool is None else {f"the tool {tool.name}", f"the word {tool.word}"}
    )


class Series(Record):
    series: list[SeriesInfo]
    is_sample: bool = Field(
        False, description="Of single rows here and there, as this long log's curves are being prepared: ask again."
    )


class Points(Record):
    points: list[StoredPoint]
    next: int = Field(description="Cursor: pass it as `since` for what follows.")


class Events(Record):
    events: list[Event]
    next: int = Field(description="Cursor: pass it as `since` for what follows.")
    previous: int = Field(0, description="Pass it as `before` for what precedes; 0: nothing does.")


class EventCounts(Record):
    """How many events there are; `last_seq` is also the place of the last one, as none is missing in between."""

    kinds: dict[str, int] = Field(description="By kind.")
    last_seq: int


class Knobs(Record):
    knobs: list[KnobState]

    def named(self, name: str) -> KnobState | None:
        return knob_named(name, self.knobs)


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
    kept_as: KeptAs = Field(description="Kept by the run itself, and as what; empty: somebody's own.")
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


class Findings(Record):
    findings: list[FindingRead] = Field(description="The newest ones, oldest first, with what people said of them.")


class Transcript(Record):
    """One call of a language model with all that was said; texts that an earlier call had too are filled in."""

    seq: int
    step: int | None
    at_s: float
    call: ModelCalled


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


@register_read
class InfoQuery(RunQuery[RunInfo]):
    """One run."""

    path = ""


@register_read
class SeriesQuery(RunQuery[Series]):
    """The metrics there are, with their extent."""

    path = "/metrics"
    branch: BranchName = "main"


def _check_order(first_step: int, last_step: int | None) -> None:
    if last_step is not None and last_step < first_step:
        raise UserError(f"last_step {last_step} is before first_step {first_step}", field="last_step")


@register_read
class CurveQuery(RunQuery[Curve]):
    """One metric over steps, downsampled to at most `max_points`."""

    path = "/metrics/{name:path}"
    tool = AsTool(
        "get_metrics",
        "metrics",
        {
            "metric": (MetricName | None, Field(None, description="Its name.")),
            "first_step": (ToolStep, Field(0, description="From this step on.")),
            "last_step": (ToolStep | None, Field(None, description="Up to this step. Default: the newest.")),
            "max_points": (Int, Field(50, ge=1, le=200, description="At most so many rows.")),
        },
        description="Values of one metric over steps, downsampled to at most `max_points`; without `metric`, which "
        "metrics there are.\n\nA row is [last step of the bucket, mean, low, high]. Non-finite values are counted "
        "beside, not averaged.",
    )
    name: str
    branch: BranchName = "main"
    first_step: StepBound = 0
    last_step: StepBound | None = None
    max_points: Limit = 1000

    @model_validator(mode="after")
    def _steps_in_order(self) -> CurveQuery:
        _check_order(self.first_step, self.last_step)
        return self


@register_read
class CurvesQuery(RunQuery[Curves]):
    """Several metrics of several branches over steps, epochs, time or tokens, for one picture.

    Each branch is a line of its own, which begins where it left its parent. What is not finite is counted, and is NaN
    where nothing else is there; a metric that a branch does not have is left out of it.
    """

    path = "/curves"
    name: list[MetricNameText] = Field(min_length=1, max_length=MOST_CURVES, description="Names of metrics.")
    branch: list[BranchName] = Field([], max_length=MOST_CURVES, description="Default: the one that is trained.")
    axis: Axis = "step"
    first_step: StepBound = 0
    last_step: StepBound | None = None
    max_points: Annotated[int, Field(ge=1, le=MAX_ROWS, description="Of each curve, at most.")] = 1000

    @model_validator(mode="after")
    def _steps_in_order(self) -> CurvesQuery:
        _check_order(self.first_step, self.last_step)
        return self


@register_read
class PointsQuery(RunQuery[Points]):
    """Whole metric rows, in order of writing."""

    path = "/points"
    since: Cursor = 0
    limit: Limit = 1000


@register_read
class ObservationQuery(RunQuery[Observation]):
    """What a policy sees now; bounded however long the run is."""

    path = "/observation"
    tool = AsTool(
        "get_findings",
        "findings",
        {"limit": (Newest, 10)},
        "What the detectors saw, newest last: divergence, spikes, plateaus, non-finite values, overfitting.",
    )


@register_read
class KnobsQuery(RunQuery[Knobs]):
    """Every value that can be tuned: base (what the schedule scales) and effective, unit, bounds, and by what tool."""

    path = "/knobs"
    tool = AsTool("get_optimizer", "optimizer", keep_first=True)


@register_read
class ModelQuery(RunQuery[Model]):
    """The model's layers: parameters, how many are trained, what can be done to each; with `norms`, measured now.

    As last read by the trainer. With `norms` the trainer is asked to measure, and the answer waits for it up to
    `wait_s`; that takes time from training, so it wants a role that may propose commands.
    """

    path = "/model"
    tool = AsTool(
        "get_model_tree",
        "model",
        {
            "layer": (Text, Field("", max_length=512, description=LAYER)),
            "norms": (Bool, Field(False, description=NORMS)),
            "depth": (Int, Field(2, ge=0, le=8, description="Levels below `layer` that are shown.")),
        },
        brief={"norms": "model: measure norms of weights and gradients", "layer": "model: only this one"},
    )
    norms: bool = Field(False, description=NORMS)
    layer: str = Field("", max_length=512, description=LAYER)
    wait_s: Wait = 10.0


@register_read
class DatasetQuery(RunQuery[Dataset]):
    """The training dataset: type, size, and the parameters that can be changed."""

    path = "/dataset"
    tool = AsTool("get_dataset", "dataset")


@register_read
class CheckpointsQuery(RunQuery[Checkpoints]):
    """Checkpoints that still exist, newest last, with the goal metric as last evaluated before each."""

    path = "/checkpoints"
    tool = AsTool("list_checkpoints", "checkpoints", {"limit": (Newest, 20)})


@register_read
class BranchesQuery(RunQuery[Branches]):
    """The run's branches: each restored checkpoint began one."""

    path = "/branches"
    tool = AsTool("list_branches", "branches")


@register_read
class HistoryQuery(RunQuery[History]):
    """What was tried in this run and what came of it: state, verdict, change, effect against the forecast."""

    path = "/history"
    tool = AsTool("get_history", "history", {"limit": (Newest, 10)})
    limit: Limit = 50


@register_read
class ModelCallsQuery(RunQuery[ModelCalls]):
    """Calls of language models with their tokens and cost, without what was said."""

    path = "/model-calls"


@register_read
class EventsQuery(RunQuery[Events]):
    """Events after a cursor, oldest first; with `wait_s`, waits for the first one.

    With `before`, those that come last before it, still oldest first: a log is read in both directions.
    """

    path = "/events"
    since: Cursor = 0
    before: Annotated[int, Field(ge=1, le=MAX_STEP)] | None = Field(
        None, description="Only what precedes this cursor, and of that the newest."
    )
    limit: Limit = 1000
    kinds: list[str] = Field([], description="Only events of these kinds.")
    first_step: StepBound | None = Field(None, description="Only events from this step on.")
    last_step: StepBound | None = Field(None, description="Only events up to this step.")
    search: str = Field("", max_length=200, description="Only events that hold this text, in whatever field.")
    command_id: str | None = Field(None, max_length=64, description="Only events of this command.")
    texts: bool = Field(True, description="With what was said to models and what they answered; may be megabytes.")
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


@register_read
class EventCountsQuery(RunQuery[EventCounts]):
    """How many events there are of each kind."""

    path = "/event-counts"


@register_read
class CommandsQuery(RunQuery[Commands]):
    """The newest commands, oldest first."""

    path = "/commands"
    state: list[State] = Field([], description="Only commands in these states.")
    limit: Limit = 1000


@register_read
class CommandQuery(RunQuery[CommandRecord]):
    """One command and all that is known of it; with `wait_s`, waits for the trainer's ack."""

    path = "/commands/{command_id}"
    command_id: str
    wait_s: Wait = 0.0


@register_read
class DecisionQuery(RunQuery[CommandDecision]):
    """One command as a person follows it: what was seen, why, who allowed it, what was done, and whether it helped."""

    path = "/decisions/{command_id}"
    command_id: str


@register_read
class ApprovalQuery(RunQuery[Approval]):
    """A request for approval with what one should know before answering: the curves around it, what waiting costs."""

    path = "/approvals/{command_id}"
    command_id: str


@register_read
class FindingsQuery(RunQuery[Findings]):
    """Findings with their place in the log, and whether people said that they were right."""

    path = "/findings"
    limit: Limit = 100


@register_read
class AgentQuery(RunQuery[AgentStatus]):
    """What the agent beside the run is doing now, and what its models have cost."""

    path = "/agent"


@register_read
class GuardrailsQuery(RunQuery[Guardrails]):
    """What holds agents back in this run, with what is left of each limit."""

    path = "/guardrails"
    right = "rules"


@register_read
class TranscriptQuery(RunQuery[Transcript]):
    """All that was said to a language model in one call, and what it answered."""

    path = "/model-calls/{seq}"
    right = "rules"
    seq: Annotated[int, Field(ge=1, le=MAX_STEP)]


@register_read
class PendingQuery(RunQuery[Commands]):
    """Proposals that wait for a decision, oldest first, each with its `request`."""

    path = "/approvals"


class RunReader(Protocol):
    """One run, wherever it is, as policies and tools see it."""

    def read(self, query: RunQuery[R]) -> R:
        """Answer a read.

        Raises:
            UserError: There is no such metric, layer, ...
            ServerUnreachable: There is a server in between and it does not answer.
        """

    def dry_run(self, proposal: Proposal) -> Verdict:
        """What the gate would say of a proposal now."""
