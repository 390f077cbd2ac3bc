"""The life of a command: proposal, verdict, acknowledgement, and the states between them."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agenttune.protocol.commands import Command, CommandBase, Redefines


class Record(BaseModel):
    """Base of everything written to a log: frozen, strict about fields, non-finite numbers as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


JsonFloat = Annotated[float, BeforeValidator(float)]
"""A float that may be NaN or infinite; JSON has it as a string."""
Principal = Literal["trainer", "viewer", "agent", "operator"]
CommandId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]


class Author(Record):
    """Who asks: the role that decides what is allowed, and a name for the journal."""

    principal: Principal
    name: str = Field(max_length=128)
    via: str = Field("", max_length=128, description="The token it came with: name and id; empty: none.")

    def is_same(self, other: Author) -> bool:
        """Whether both are the same author, whichever way they came in."""
        return (self.principal, self.name) == (other.principal, other.name)


class State(str, Enum):
    """Where a command stands. `proposed` ones wait for the gate, `queued` ones for the trainer."""

    PROPOSED = "proposed"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    QUEUED = "queued"
    APPLIED = "applied"
    FAILED = "failed"
    EXPIRED = "expired"
    KEPT = "kept"
    REVERTED = "reverted"


NEXT: dict[State, frozenset[State]] = {
    State.PROPOSED: frozenset({State.QUEUED, State.REJECTED, State.EXPIRED, State.SUPERSEDED}),
    State.QUEUED: frozenset({State.APPLIED, State.FAILED, State.EXPIRED, State.SUPERSEDED}),
    State.APPLIED: frozenset({State.KEPT, State.REVERTED}),
    **{s: frozenset() for s in (State.REJECTED, State.SUPERSEDED, State.FAILED, State.EXPIRED)},
    **{s: frozenset() for s in (State.KEPT, State.REVERTED)},
}
"""Which state may follow which; the store refuses every other step."""


TAKEN = frozenset({State.QUEUED, State.APPLIED, State.KEPT, State.REVERTED})
"""Commands that the gate let through and that did not fail: these count against cooldown and budget."""
TOOK_EFFECT = TAKEN - {State.QUEUED}
"""Those that changed something, also where it was undone later."""


class Proposal(Record):
    """A command that somebody asks for, with the world it was meant for."""

    command_id: CommandId = Field(default_factory=lambda: uuid.uuid4().hex)
    command: Command
    author: Author
    rationale: str = Field("", max_length=4000)
    based_on_step: int | None = Field(None, ge=0, description="Step of the observation this rests on.")
    based_on_branch: str | None = Field(None, max_length=200, description="Branch of that observation.")
    valid_until_step: int | None = Field(None, ge=0, description="Never applied after this step.")
    created_at_s: float = Field(default_factory=time.time, description="Unix time.")
    ask_always: bool = Field(False, description="Of an agent: a person is asked, whatever the run's settings let pass.")

    def digest(self) -> str:
        """SHA-256 of what would be run: the same id with another digest is another command."""
        body = {
            "command": self.command.model_dump(mode="json"),
            "valid_until_step": self.valid_until_step,
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Verdict(Record):
    """The gate's answer to a proposal; a refusal is recorded like an approval."""

    decision: Literal["approved", "edited", "rejected", "expired", "superseded"]
    decided_by: str = Field(description="The guardrail, approver or person that decided.")
    reason: str = ""
    nearest_allowed: dict[str, Any] | None = Field(None, description="Arguments that would have passed.")
    edited: Command | None = Field(None, description="`edited`: what runs instead.")


class Difference(Record):
    """One value that a command would change, for whoever is asked."""

    name: str
    before: Any
    after: Any


BUILT_IN_APPROVERS = ("auto", "rule", "model", "human")
"""Who decides on a proposal: nobody needs to, the rule's own conditions, a second language model, a person. Others are
the user's own, by the names that `gate.approvers` gives them."""


class Passed(Record):
    """An approver did not decide and left it to the next."""

    by: str
    reason: str = ""


class StandingApproval(Record):
    """A person's yes to every further command of a kind that waits under the same rule, for this run."""

    kind: str
    rule: str
    by: str
    since_step: int


class ApprovalRequest(Record):
    """A proposal waits for somebody to decide.

    Attributes:
        digest: Of the proposal: who decides binds the decision to what was shown.
        rule: Which rule of `gate.approval` demands it.
        approvers: Who is asked, one after the other until one decides.
        passed: Those of them that left it to the next, oldest first.
        expires_at_s: Unix time after which nobody's silence has become an answer, if nobody sets the clock meanwhile.
        boot_id: The start of the machine since which it waits; empty where that is not known.
        requested_boot_s: Seconds from that start to the request: `expires_at_s` holds by this clock as long as it runs.
        on_timeout: That answer.
        training: Whether training goes on meanwhile.
    """

    digest: str
    rule: str
    approvers: list[str]
    passed: list[Passed] = Field(default_factory=list)
    requested_at_s: float
    expires_at_s: float
    boot_id: str = ""
    requested_boot_s: float = 0.0
    on_timeout: Literal["reject", "approve"] = "reject"
    training: Literal["continue", "pause"] = "continue"
    step: int = Field(description="Completed steps when it was asked.")
    branch: str = "main"
    metric: str = ""
    metric_value: JsonFloat | None = Field(None, description="The goal metric as last known then.")
    differences: list[Difference] = Field(default_factory=list)

    @property
    def asked(self) -> str:
        """Whose turn it is."""
        return self.approvers[len(self.passed)]


class Change(Record):
    """One value before and after, as read back; `groups` holds the effective value per parameter group."""

    name: str
    unit: str = ""
    previous: Any
    requested: Any
    effective: Any
    previous_base: float | None = Field(None, description="Learning rate: what the schedule scaled before.")
    base: float | None = Field(None, description="Learning rate: what the schedule scales now.")
    groups: list[Any] | None = None
    previous_groups: list[Any] | None = Field(None, description="Effective value per parameter group before.")
    factors: list[tuple[JsonFloat, JsonFloat]] | None = Field(
        None,
        description="Learning rate, per parameter group: how far the change takes the rates to come, down and up, as "
        "multiples of what they would have been.",
    )
    redefines: Redefines | None = Field(
        None,
        description="Losses that mean something else since, as the knob's owner says; none: as its command has it.",
    )


class Ack(Record):
    """The trainer's answer. `applied` means read back, and where a schedule rewrites the value, read back again."""

    outcome: Literal["applied", "failed", "expired"]
    step: int = Field(description="Completed optimizer steps when the command took effect.")
    branch: str = "main"
    changes: list[Change] = Field(default_factory=list)
    result: dict[str, Any] = Field(
        default_factory=dict,
        description="Metrics of an evaluation, path of a checkpoint, or a plan of the learning rate, in which `start` "
        "and `final` are multiples of `peak_lr`, and `..._t` are steps as the schedule counts them.",
    )
    confirmed_step: int | None = Field(None, description="Step after which the value was read back a second time.")
    message: str = ""


class CommandRecord(Record):
    """A command and all that is known of it so far."""

    proposal: Proposal
    state: State
    request: ApprovalRequest | None = Field(None, description="If it waits, or waited, for somebody to decide.")
    verdict: Verdict | None = None
    ack: Ack | None = None
    submitted_seq: int = Field(description="Sequence number of the event that recorded the proposal.")
    submitted_step: int | None = Field(None, description="Step the run stood at when the proposal arrived.")

    @property
    def command_id(self) -> str:
        return self.proposal.command_id

    @property
    def command(self) -> CommandBase:
        """What runs: the proposal's command, or what the verdict made of it."""
        edited = self.verdict.edited if self.verdict is not None else None
        return self.proposal.command if edited is None else edited

    def goes_back(self, ack: Ack | None = None) -> bool:
        """Whether the run goes, or went, back to a saved state by it: it asks for that, or has adopted it.

        Args:
            ack: Its answer, if that is not yet in the record. Of trials without one, one that may be adopted counts.
        """
        ack = self.ack if ack is None else ack
        command = self.command if ack is None else self.command.in_force(ack)
        return command is not None and command.is_return

    @property
    def ack_step(self) -> int:
        """The step at which the trainer answered; 0: it has not."""
        return self.ack.step if self.ack is not None else 0

    @property
    def is_final(self) -> bool:
        return not NEXT[self.state]

    @property
    def is_settled(self) -> bool:
        """Whether it has its ack, or needs none."""
        return self.ack is not None or self.is_final
