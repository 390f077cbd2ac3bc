"""A curve as the points of an SVG, drawn here so that the page needs no script."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agenttune.protocol.events import Curve
from agenttune.protocol.text import clean, number

WIDTH, HEIGHT = 600, 140
PAD = 6
"""Room around the curve, so that its stroke is not cut, in the drawing's own units."""


@dataclass(frozen=True)
class Drawing:
    """One metric over steps.

    Attributes:
        lines: Points of polylines; a value that is not finite breaks the line.
        mark_x: Where the request was made; None if that is outside.
        nonfinite: How many values were no numbers.
    """

    name: str
    lines: list[str]
    mark_x: float | None
    low: str
    high: str
    first_step: int
    last_step: int
    nonfinite: int
    width: int = WIDTH
    height: int = HEIGHT


def draw(curve: Curve, marked_step: int) -> Drawing | None:
    """The curve's means; None if there is no line to draw."""
    finite = [value for value in curve.mean if math.isfinite(value)]
    if len(finite) < 2:
        return None
    low, high = min(finite), max(finite)
    first, last = curve.steps[0], curve.steps[-1]

    def x(step: int) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (step - first) / max(1, last - first), 1)

    def y(value: float) -> float:
        share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5  # halves: no overflow
        return round(HEIGHT - PAD - (HEIGHT - 2 * PAD) * share, 1)

    lines: list[list[str]] = [[]]
    for step, value in zip(curve.steps, curve.mean, strict=True):
        if math.isfinite(value):
            lines[-1].append(f"{x(step)},{y(value)}")
        elif lines[-1]:
            lines.append([])
    return Drawing(
        name=clean(curve.name, 80),
        lines=[" ".join(line if len(line) > 1 else line * 2) for line in lines if line],
        mark_x=x(marked_step) if first <= marked_step <= last else None,
        low=number(low),
        high=number(high),
        first_step=first,
        last_step=last,
        nonfinite=sum(curve.nonfinite),
    )
