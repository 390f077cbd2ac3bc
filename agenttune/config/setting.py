"""What all settings have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from agenttune.protocol.commands import COMMAND_KINDS, MAX_INT
from agenttune.protocol.invalid_values import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_all_defaults(cls, given: object) -> object:
        """A section whose keys are all commented out has no value in YAML."""
        return {} if given is None else given

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_switch(cls, value: object, info: ValidationInfo) -> object:
        """To Python true is 1, and YAML reads a bare `on` or `yes` as true."""
        if isinstance(value, bool):
            types = list(_types_in(cls.model_fields[str(info.field_name)].annotation))
            if bool not in types and (int in types or float in types):
                raise ValueError(f"must be a number, not {str(value).lower()}")
        return value

    @field_validator("*")
    @classmethod
    def _countable(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise ValueError(f"an integer from -{MAX_INT} to {MAX_INT} is wanted, not {value!s:.40}")
        return value


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)


def known_kinds(kinds: list[str]) -> list[str]:
    for kind in kinds:
        if kind not in COMMAND_KINDS:
            raise ValueError(f"unknown command {kind!r}{did_you_mean(kind, COMMAND_KINDS)}")
    return kinds
