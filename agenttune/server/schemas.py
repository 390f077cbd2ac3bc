"""What comes in and goes out beside the log's own records.

The log's records read whatever older versions have written; what comes in by the server is held to more, since others
obey it: costs count against budgets, and a finding keeps the next of its kind from being told.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agenttune.protocol.command_schemas import CommandSchema
from agenttune.protocol.commands import Command, Int
from agenttune.protocol.events import (
    Decided,
    Event,
    FindingJudged,
    Found,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    TagsChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import StoredPoint
from agenttune.protocol.model_calls import ModelCalled, Usage
from agenttune.protocol.proposals import CommandId, Principal, Record
from agenttune.protocol.reads import MAX_STEP
from agenttune.protocol.run_info import RunInfo

Step = Annotated[Int, Field(ge=0, le=MAX_STEP)]
MAX_TOKENS = 10**9
"""Of one call (guess: a hundred times the longest context)."""
MAX_USD = 1e5
"""Of one call, in US dollars (guess)."""
MAX_CALL_S = 1e6
"""Longest call with its retries, in seconds: eleven days (guess)."""
MAX_ATTEMPTS = 1000
MAX_POLICY = 1000
"""Longest name or path of a policy, in characters."""
Tokens = Annotated[Int, Field(ge=0, le=MAX_TOKENS)]


class NewUsage(Usage):
    """Tokens of a call that is being recorded."""

    input_tokens: Tokens = 0
    cached_input_tokens: Tokens = 0
    output_tokens: Tokens = 0

    @model_validator(mode="after")
    def _cached_is_a_part(self) -> NewUsage:
        if self.cached_input_tokens > self.input_tokens:
            raise ValueError(
                f"{self.cached_input_tokens} cached tokens are more than all {self.input_tokens} of the input"
            )
        return self


class NewModelCalled(ModelCalled):
    """A call of a language model that is being recorded."""

    kind: Literal["model_called"] = "model_called"
    usage: NewUsage | None = Field(None, description="None where the server did not say.")
    usd: Annotated[float, Field(ge=0, le=MAX_USD, allow_inf_nan=False)] | None = Field(
        None, description="None: the price of this model is not in the config."
    )
    latency_s: float = Field(
        0.0, ge=0, le=MAX_CALL_S, allow_inf_nan=False, description="With waiting times between attempts."
    )
    attempts: Annotated[Int, Field(ge=0, le=MAX_ATTEMPTS)] = 1


class NewFinding(Finding):
    """A finding that is being recorded."""

    step: Step = Field(description="Step at which the detector had seen enough.")


class NewFound(Found):
    """A detector saw something."""

    kind: Literal["found"] = "found"
    finding: NewFinding


class NewDecided(Decided):
    """A policy looked at the run and proposed something, or nothing."""

    kind: Literal["decided"] = "decided"
    based_on_step: Step | None = Field(None, description="Step of the observation that it rests on.")


class RecordEntry(Record):
    """Something that an agent writes into the log, or a person: another policy, tags, whether a finding was right."""

    record: Annotated[
        NewFound
        | NewDecided
        | PolicyAttached
        | PolicyDetached
        | PolicyRequested
        | NewModelCalled
        | TagsChanged
        | FindingJudged,
        Field(discriminator="kind"),
    ]
    step: Step | None = None

    @field_validator("record")
    @classmethod
    def _names_a_policy(cls, record: Record) -> Record:
        if isinstance(record, (TagsChanged, FindingJudged)):
            _check_line("author", record.author, 128)
        if isinstance(record, PolicyRequested):
            _check_line("author", record.author, 128)
            if record.policy is not None:
                _check_line("policy", record.policy, MAX_POLICY)
                if not record.policy.strip():
                    raise ValueError("'policy' is empty; give a name or a path, or null to send the policy away")
        return record


def _check_line(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise ValueError(f"{name!r} has {len(text)} characters; at most {most} are allowed")
    if not text.isprintable():
        raise ValueError(f"{name!r} holds control characters; give one line of plain text")


class Health(Record):
    """A sign of life. Who may not come in learns no more than what and which this is."""

    service: Literal["agenttune"] = "agenttune"
    version: str
    instance: str = Field(description="Changes with every start of the server.")
    pid: int | None = None
    runs_dir: str | None = None


class KindRight(Record):
    """Whether one kind of command may be asked for."""

    allowed: bool
    why_not: str = Field("", description="In a sentence, with what to do about it.")


class Me(Record):
    """Who asks, as the server sees it, and what that one may do."""

    role: Principal | None = Field(description="None: nobody, who sees only that there is a server.")
    name: str = Field(description="For people; empty without a name.")
    via: Literal["cookie", "token", "local", "none"] = Field(
        description="How one is known: signed in, by a token that is sent, by sitting at this machine, or not."
    )
    token: str = Field("", description="What the log calls the token.")
    runs: list[str] = Field(default_factory=list, description="Patterns of the runs that are seen; empty: all.")
    rights: dict[str, bool] = Field(description="By the right's name: read, propose, decide, and so on.")
    why_not: dict[str, str] = Field(description="Of each right that is lacking, in a sentence with what to do.")
    commands: dict[str, KindRight] = Field(description="By the command's kind. The gate of a run may still refuse one.")
    notice: str = Field("", description="What the person should know, such as that the sign-in has ended.")


class SignIn(Record):
    """What a person signs a browser in with."""

    token: str = Field(max_length=4096, description="A token, or the key of a link, which works once.")


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
    based_on_branch: str | None = Field(
        None,
        max_length=200,
        description="Branch of that observation; default: that of now. What an agent has decided on another one is "
        "superseded, as the run went back since.",
    )
    valid_until_step: Step | None = Field(None, description="Never applied after this step.")
    ask_always: bool = Field(False, description="Of an agent: a person is asked, whatever the run's settings let pass.")


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
