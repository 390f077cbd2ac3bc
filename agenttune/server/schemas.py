"""What goes over the wire beside the log's own records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.command_schemas import CommandSchema
from agenttune.protocol.commands import Command
from agenttune.protocol.events import (
    BranchStarted,
    DatasetRead,
    Event,
    KnobState,
    Metric,
    ModuleInfo,
    RunInfo,
    SeriesInfo,
    StoredPoint,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import CommandId, CommandRecord, Record
from agenttune.protocol.summary import Intervention
from agenttune.server.agent_entries import Step


class Health(Record):
    """A sign of life. Who may not come in learns no more than what and which this is."""

    service: Literal["agenttune"] = "agenttune"
    version: str
    instance: str = Field(description="Changes with every start of the server.")
    pid: int | None = None
    runs_dir: str | None = None


class Runs(Record):
    runs: list[RunInfo]


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


class Commands(Record):
    commands: list[CommandRecord] = Field(description="The newest ones, oldest first.")


class History(Record):
    history: list[Intervention] = Field(description="The newest commands with their effect, oldest first.")


class ModelCalls(Record):
    calls: list[ModelCalled] = Field(description="Oldest first, without messages and answers.")


class CommandSchemas(Record):
    commands: list[CommandSchema]


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


class ClaimedAuthor(Record):
    """Who asks, if not simply whoever has the token."""

    principal: Literal["operator", "agent"] | None = Field(None, description="Never above the token's role.")
    name: str = Field("", max_length=128, description="For the journal; default: the token's.")


class Submission(Record):
    """A command that somebody asks for."""

    command: Command
    command_id: CommandId | None = Field(None, description="Choose it yourself to make submitting safe to repeat.")
    rationale: str = Field("", max_length=4000)
    author: ClaimedAuthor = ClaimedAuthor()
    based_on_step: Step | None = Field(None, description="Step of the observation this rests on.")
    valid_until_step: Step | None = Field(None, description="Never applied after this step.")


class Recorded(Record):
    seq: int


class EventFrame(Record):
    """A frame of the live stream: one event."""

    type: Literal["event"] = "event"
    event: Event


class PointsFrame(Record):
    """A frame of the live stream: metric rows, in order of writing."""

    type: Literal["points"] = "points"
    points: list[StoredPoint]
    next: int
