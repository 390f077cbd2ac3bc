"""Lengths in steps that may be written as a part of the run, such as `5%`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

from agenttune.errors import UserError

PERCENT = re.compile(r"^\d+(\.\d+)?%$")


def _read(value: object) -> object:
    """A number of steps, or a part of the run as written; YAML hands over either as text."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isdigit() or PERCENT.match(text)):
        raise ValueError(f"{value!r} is neither a whole number of steps nor a part of the run such as 5%")
    return int(text) if text.isdigit() else text


Span = Annotated[int | str, BeforeValidator(_read)]
"""Steps, or a part of the run's steps."""


def in_steps(span: int | str, max_steps: int | None, least: int) -> int:
    """A length in steps.

    Args:
        span: As written.
        max_steps: Of the run.
        least: What it comes to at least.

    Raises:
        UserError: It is a part of a run whose length is not known.
    """
    if isinstance(span, int):
        return max(span, least)
    if max_steps is None:
        raise UserError(f"{span} of a run whose number of steps is not known; write it in steps")
    return max(round(float(span[:-1]) / 100 * max_steps), least)
