"""What goes over the wire beside the log's own records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.command_schemas import CommandSchema
from agenttune.protocol.commands import Command
from agenttune.protocol.events import Event, RunInfo, StoredPoint
from agenttune.protocol.proposals import CommandId, Record
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


class CommandSchemas(Record):
    commands: list[CommandSchema]


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
