"""Types of the values that commands take: strict, finite, and small enough for JSON, SQLite and tensors."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field, Strict

Float = Annotated[float, Strict()]
MAX_INT = 2**53
"""Largest integer of a command: every JSON reader still counts exactly up to here."""


def countable(value: object) -> object:
    # No part of the schema: a model that is offered the command would pay for it in every prompt.
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise ValueError(f"must be an integer from -{MAX_INT} to {MAX_INT}")
    return value


Int = Annotated[int, Strict()]
MAX_STEPS = 10**9
"""Largest step of a command (guess: a thousand times the longest training); sums and products of it stay far within the
64 bits of SQLite and torch."""
Steps = Annotated[int, Strict(), Field(le=MAX_STEPS)]
MAX_GROUP = 10_000
"""Largest parameter group (guess: no optimizer has as many)."""
Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Name = Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that is safe as a file name: letters, digits, dot, underscore, dash; at most 64 characters."""
Scalar = Bool | Int | Float | Text


def _refuse_unsayable(value: object) -> object:
    """Free-form values hold NaN, infinities and endless integers that no type would stop."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int):
        countable(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        _refuse_unsayable(item)
    return value


SMALLEST = 2.0**-126
"""The smallest normal number of 32 bits; what is below it is lost in the optimizer's tensors, and ratios overflow."""


def refuse_denormals(value: object) -> object:
    """A rate below it divides everything that is scaled by it into infinity."""
    if isinstance(value, float) and 0 < abs(value) < SMALLEST:
        raise ValueError(f"Input should be 0 or at least {SMALLEST:.3g}: the tensors of a model hold nothing smaller")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in inside:
        refuse_denormals(item)
    return value


Free = Annotated[Any, AfterValidator(_refuse_unsayable)]
"""Any JSON value; what it may be is known to the trainer only."""
Betas = tuple[Annotated[Float, Field(ge=0, lt=1)], Annotated[Float, Field(ge=0, lt=1)]]
Beta = Annotated[Float, Field(ge=0, lt=1)]
