"""What all settings have in common."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agenttune.commands import COMMAND_KINDS, MAX_INT

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _countable(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise ValueError(f"an integer from -{MAX_INT} to {MAX_INT} is wanted, not {value!s:.40}")
        return value


def known_kinds(kinds: list[str]) -> list[str]:
    for kind in kinds:
        if kind not in COMMAND_KINDS:
            raise ValueError(f"unknown command {kind!r}{did_you_mean(kind, COMMAND_KINDS)}")
    return kinds


def did_you_mean(name: str, names: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
