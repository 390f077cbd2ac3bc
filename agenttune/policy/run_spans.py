"""Lengths in steps that may be written as a part of the run, such as `5%`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from agenttune.errors import UserError

PERCENT = re.compile(r"^\d+(\.\d+)?%$")


def _read(value: object) -> object:
    """A number of steps, or a part of the run as written; YAML hands over either as text."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isdigit() or PERCENT.match(text)):
        raise ValueError(f"{value!r} is neither a whole number of steps nor a part of the run such as 5%")
    if not text.isdigit() and float(text[:-1]) > 100:
        raise ValueError(f"{text} is more than the whole run")
    return int(text) if text.isdigit() else text


def within(least: int, most: int | None = None) -> AfterValidator:
    """Bounds of a length in steps; one that is a part of the run is brought within them by `in_steps`."""

    def check(span: int | str) -> int | str:
        if isinstance(span, int) and (span < least or (most is not None and span > most)):
            allowed = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"{span} steps; allowed: {allowed}, or a part of the run such as 5%")
        return span

    return AfterValidator(check)


Span = Annotated[int | str, BeforeValidator(_read)]
"""Steps, or a part of the run's steps."""


def in_steps(span: int | str, max_steps: int | None, least: int, most: int | None = None) -> int:
    """A length in steps.

    Args:
        span: As written.
        max_steps: Of the run.
        least: What it comes to at least.
        most: What it comes to at most.

    Raises:
        UserError: It is a part of a run whose length is not known.
    """
    if isinstance(span, int):
        steps = span
    elif max_steps is None:
        raise UserError(f"{span} of a run whose number of steps is not known; write it in steps")
    else:
        steps = round(float(span[:-1]) / 100 * max_steps)
    return max(steps if most is None else min(steps, most), least)
