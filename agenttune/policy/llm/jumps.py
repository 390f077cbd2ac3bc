"""Where a loss jumped up from one step to the next, and whether it came back: what a summary of a curve hides.

A bad batch is gone at the next step; other data, or broken weights, stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from agenttune.detectors.trend import spread
from agenttune.protocol.text import number

BEFORE, AFTER = 8, 8
"""Points on either side by whose median it is judged whether a jump stays (guess)."""
FEWEST_BEFORE, FEWEST_AFTER = 4, 4
"""With fewer before there is nothing to jump from; with fewer after nobody can tell whether it stays."""
NOISES, LEAST = 6.0, math.log(1.25)
"""A jump is more than so many standard deviations of a step, and than a quarter of the value (guess)."""
MOST = 3
"""Jumps that are told, the newest (guess)."""


@dataclass(frozen=True)
class _Jump:
    at: int
    before: float
    to: float
    lasted: int | None
    """Points until it was back; 0: too early to tell; None: it stays."""


def jumps_of(steps: Sequence[int], values: Sequence[float]) -> list[str]:
    """The newest jumps of a curve, a line each, oldest first; and its lonely points that were high, counted in one.

    Args:
        steps: Of its newest points.
        values: There; those that are not finite are told elsewhere.
    """
    points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    found = _found([v for _, v in points])
    told = [_words(jump, points) for jump in found if jump.lasted != 1][-MOST:]
    alone = [points[jump.at] for jump in found if jump.lasted == 1]
    if alone:
        shown = ", ".join(f"{step}:{value:.3g}" for step, value in alone[-MOST:])
        told.append(f"single high points, back at the next: {shown}{' and more' if len(alone) > MOST else ''}")
    return told


def _found(values: Sequence[float]) -> list[_Jump]:
    is_positive = bool(values) and min(values) > 0
    heights = [math.log(v) if is_positive else v for v in values]
    least = max(NOISES * spread(heights), LEAST if is_positive else 0.0)
    found: list[_Jump] = []
    at = FEWEST_BEFORE
    while least > 0 and at < len(heights):
        before = median(heights[max(0, at - BEFORE) : at])
        if heights[at] - max(before, heights[at - 1]) <= least:
            at += 1
            continue
        half = before + (heights[at] - before) / 2
        after = heights[at : at + AFTER]
        back = next((i for i, height in enumerate(after) if height < half), None)
        if back is None and len(after) < FEWEST_AFTER:
            back = 0
        found.append(_Jump(at, values[at - 1], values[at], back))
        at += back or len(after)
    return found


def _words(jump: _Jump, points: Sequence[tuple[int, float]]) -> str:
    came = "" if jump.lasted is None else f"back after {jump.lasted} steps" if jump.lasted else "newest, may not stay"
    before, step = points[jump.at - 1][0], points[jump.at][0]
    return f"jumped at {before} -> {step}: {number(jump.before)} -> {number(jump.to)} in one step, {came or 'stays'}"
