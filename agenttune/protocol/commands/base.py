"""What every command shares: its traits, and what may stand in it."""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from agenttune.protocol.commands.values import countable


class Risk(str, Enum):
    """How much a command can disturb a run; approval rules speak of these classes."""

    OBSERVE = "observe"  # reads, or writes to the log only
    TUNE = "tune"  # a reversible change within bounds
    DISRUPT = "disrupt"  # costs time: pause, evaluate, save
    DANGER = "danger"  # cannot be taken back by writing the old value: load, stop, layers, dataset reload


Redefines = Literal["nothing", "training", "every_loss"]
"""Which losses a change gives another meaning, so that values of before and after are not of one curve. `training`:
what is measured on training batches. `every_loss`: evaluated losses too, for it changes how a loss is computed."""


class CommandBase(BaseModel):
    """What every command shares. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    risk: ClassVar[Risk]
    example: ClassVar[dict[str, Any]]
    """One that is valid, for the docs and for whoever writes one by hand."""
    redefines: ClassVar[Redefines] = "nothing"
    """Which losses it can give another meaning."""
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

    def redefines_by(self, changed: str) -> Redefines:
        """Which losses mean something else once this value of it has changed."""
        return self.redefines

    def arguments(self) -> dict[str, Any]:
        """The fields that were given, as plain JSON values, without `kind`."""
        return self.model_dump(mode="json", exclude={"kind"}, exclude_none=True)


class AtLeastOne(CommandBase):
    """A command that is empty unless one of its optional fields is given."""

    modifiers: ClassVar[frozenset[str]] = frozenset()
    """Fields that only say how, not what."""

    @model_validator(mode="after")
    def _something_is_asked(self) -> AtLeastOne:
        choices = [name for name in type(self).model_fields if name not in {"kind", *self.modifiers}]
        if all(getattr(self, name) in (None, {}) for name in choices):
            raise ValueError(f"nothing to change: give at least one of {', '.join(choices)}")
        return self
