"""What every command tells of itself, so that gate, policies, trainer and views need no lists of commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from agenttune.protocol.commands.value_types import countable
from agenttune.protocol.text import command_words

if TYPE_CHECKING:  # both hold commands themselves
    from agenttune.protocol.commands.hyperparameters import UpdateSchedule
    from agenttune.protocol.proposals import Ack, Change


class Risk(str, Enum):
    """How much a command can disturb a run; approval rules speak of these classes."""

    OBSERVE = "observe"  # reads, or writes to the log only
    TUNE = "tune"  # a reversible change within bounds
    DISRUPT = "disrupt"  # costs time: pause, evaluate, save
    DANGER = "danger"  # cannot be taken back by writing the old value: load, stop, layers, dataset reload


class Impact(str, Enum):
    """What becomes of the training by a command."""

    NONE = "none"  # it looks, measures, saves or notes; the run goes on as it was
    HOLD = "hold"  # it stands still, or goes on
    END = "end"
    RESTORE = "restore"  # it goes on from an earlier state
    CHANGE = "change"  # it goes on with something changed: kept or taken back by probation


class Need(str, Enum):
    """What a run has or has not, and a command is useless without."""

    REGISTERED_KNOB = "registered_knob"
    PLANNABLE_SCHEDULE = "plannable_schedule"
    INITIALIZATION_PARAMETER = "initialization_parameter"  # of the dataset
    RUNTIME_PARAMETER = "runtime_parameter"  # of the dataset
    LAYER_OPERATION = "layer_operation"
    LAYER_PARAMETER = "layer_parameter"


Owner = Literal["optimizer", "schedule", "loop", "script", "dataset"]
"""Whose a value is. The optimizer has one per parameter group; `script`: registered with `register_knob`."""


@dataclass(frozen=True)
class AskedValue:
    """A value that a command asks for.

    Attributes:
        name: Of the knob, or of the dataset's parameter.
        field: The command's field that asks for it; a dotted one reaches into a mapping (`other.alpha`).
        group: The only parameter group that is meant; None: all that have it.
        sets_base: Of a learning rate: what the schedule scales, not what the optimizer uses next.
    """

    name: str
    field: str
    value: Any
    owner: Owner
    group: int | None = None
    sets_base: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether it is a learning rate that the schedule in force scales from here on."""
        return self.owner == "optimizer" and self.field == "lr"


Redefines = Literal["nothing", "training", "every_loss"]
"""Which losses a change gives another meaning, so that values of before and after are not of one curve. `training`:
what is measured on training batches. `every_loss`: evaluated losses too, for it changes how a loss is computed."""


class CommandBase(BaseModel):
    """What every command shares. Unknown fields, NaN and infinities are refused."""

    # Its fields are what is asked for; its class variables and methods, what everybody has to know of it. The defaults
    # are the careful ones: a command that says nothing about itself counts as a change that cannot be compared or
    # taken back.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    risk: ClassVar[Risk]
    example: ClassVar[dict[str, Any]]
    """One that is valid, for the docs and for whoever writes one by hand."""
    impact: ClassVar[Impact] = Impact.CHANGE
    redefines: ClassVar[Redefines] = "nothing"
    """Which losses it can give another meaning."""
    steers: ClassVar[bool] = False
    """Whether curves may bend after it, though they mean what they did: detectors count from there."""
    reschedules: ClassVar[bool] = False
    """Whether the run may stand at another step, or have another end or schedule, after it."""
    interrupts: ClassVar[bool] = False
    """Whether a probe under way is broken off if a person asks for it."""
    leaves_pause: ClassVar[bool] = False
    """Whether training would not stand any more where a pause holds it."""
    needs: ClassVar[Need | None] = None
    """What a run must have for it; it is not offered otherwise."""
    is_set_again: ClassVar[bool] = False
    """Whether a training that is restarted, and so begins with its script's own values, is given these again."""
    is_read: ClassVar[bool] = False
    """Whether its answer is all it is for; models are offered a read instead."""
    is_for_policies: ClassVar[bool] = True
    """Whether it stands among the tools of a policy's model; one that does not is understood all the same."""
    is_told_in_full: ClassVar[bool] = False
    """Whether a policy's model reads more of its description than the first sentence."""
    not_in_a_schedule: ClassVar[str] = ""
    """Why a plan made beforehand cannot give it; empty: it can."""
    # Not part of the type `Int`: behind a function, pydantic writes bounds into schemas under names of its own.
    _is_countable = field_validator("*")(countable)
    kind: str

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, raw: Any) -> Any:
        # Models fill what they do not need with null. No field of a command has null for a value of its own: where it
        # may mean something, it stands inside a mapping, such as `other`.
        if not isinstance(raw, dict):
            return raw
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in raw.items() if value is not None or name not in optional}

    @classmethod
    def kind_name(cls) -> str:
        """Its kind, of the class; empty for a base of commands."""
        return cls.model_fields["kind"].get_default() or ""

    def set_again(self) -> CommandBase | None:
        """What a restarted training is given again; None: nothing."""
        return self if self.is_set_again else None

    def redefines_by(self, changed: str) -> Redefines:
        """Which losses mean something else once this value of it has changed."""
        return self.redefines

    def arguments(self) -> dict[str, Any]:
        """The fields that were given, as plain JSON values, without `kind`."""
        return self.model_dump(mode="json", exclude={"kind"}, exclude_none=True)

    @property
    def bends(self) -> bool:
        """Whether curves may bend after it; of most commands its class tells."""
        return self.steers

    def telling(self) -> dict[str, Any]:
        """The arguments that are not as they would be if nobody had given them, as plain JSON values."""
        fields = type(self).model_fields
        return {
            name: _telling(getattr(self, name), plain)
            for name, plain in self.arguments().items()
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }

    @property
    def words(self) -> str:
        """Such as `update_optimizer lr 0.05`."""
        return command_words({"kind": self.kind, **self.telling()})

    # -- what it is about ---------------------------------------------------------------------------------------------

    def asked(self) -> Iterator[AskedValue]:
        """The values that it asks for, of a probe those of every candidate."""
        return iter(())

    def touched(self) -> frozenset[str]:
        """Names of all that it changes, also of what is no value of its own, such as a layer."""
        return frozenset(asked.name for asked in self.asked())

    def lr_plan(self) -> UpdateSchedule | None:
        """The plan of the learning rate that it puts in the place of the schedule in force."""
        return None

    def changed_layer(self) -> str | None:
        """The layer that it changes."""
        return None

    def wanted_checkpoint(self) -> str | None:
        """The checkpoint that has to exist for it, by id or tag."""
        return None

    def tries(self) -> tuple[CommandBase, ...]:
        """Commands that it tries out, to put at most one of them into force."""
        return ()

    def alternatives(self) -> tuple[CommandBase, ...]:
        """What it may put into force: itself, or one of those that it tries."""
        return self.tries() or (self,)

    @property
    def is_return(self) -> bool:
        """Whether what it puts into force, or may, is a return to a saved state."""
        return any(command.impact is Impact.RESTORE for command in self.alternatives())

    @property
    def extra_steps(self) -> int:
        """Training steps that it takes beside the run's own."""
        return 0

    # -- what came of it ----------------------------------------------------------------------------------------------

    def in_force(self, ack: Ack) -> CommandBase | None:
        """The command whose changes an ack tells of: itself, or the one it has adopted, if any, of those it tried."""
        return self

    def as_applied(self, changes: Sequence[Change]) -> dict[str, Any]:
        """Its arguments with the values that were read back, instead of those that were asked for."""
        return read_back(self.arguments(), {change.name: change for change in changes})

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any] | None:
        """The command, as JSON, that takes these changes of it back; None: no single command can."""
        return None


def read_back(given: Mapping[str, Any], changes: Mapping[str, Change]) -> dict[str, Any]:
    """Arguments, with the effective values of those that changed."""
    return {name: changes[name].effective if name in changes else value for name, value in given.items()}


class AtLeastOne(CommandBase):
    """A command whose fields are knobs, each with its own name, of which at least one has to be given."""

    modifiers: ClassVar[frozenset[str]] = frozenset()
    """Fields that are no knobs: they say how the others are meant."""

    @model_validator(mode="after")
    def _something_is_asked(self) -> AtLeastOne:
        choices = [name for name in type(self).model_fields if name not in {"kind", *self.modifiers}]
        if all(getattr(self, name) in (None, {}) for name in choices):
            raise ValueError(f"nothing to change: give at least one of {', '.join(choices)}")
        return self


def _telling(value: object, plain: Any) -> Any:
    """A plain JSON value; of commands in it, such as a probe's candidates, only what tells something."""
    if isinstance(value, CommandBase):
        return {"kind": value.kind, **value.telling()}
    if isinstance(value, (list, tuple)):
        return [_telling(one, own) for one, own in zip(value, plain, strict=True)]
    return plain
