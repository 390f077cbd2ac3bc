"""What all settings have in common."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agenttune.commands import COMMAND_KINDS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def known_kinds(kinds: list[str]) -> list[str]:
    for kind in kinds:
        if kind not in COMMAND_KINDS:
            raise ValueError(f"unknown command {kind!r}{did_you_mean(kind, COMMAND_KINDS)}")
    return kinds


def did_you_mean(name: str, names: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
