"""What the evaluations of a training say of its whole course: anytime area, time to target, crashes.

Values are losses here: of a metric that is to be maximized, the negative. What is not finite is the worst there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CRASH_FRAC = 0.5
"""A training crashes when it loses more than this part of what it had gained (a guess)."""


class Reached(NamedTuple):
    """An evaluation, as seen from the start of the cell: steps and seconds of earlier trainings are in it."""

    total_steps: int
    seconds: float
    loss: float


class Scale(NamedTuple):
    """What values are measured by.

    Attributes:
        start: Loss before anything is learnt.
        best: Loss of the reference at its end.
    """

    start: float
    best: float

    def frac(self, loss: float) -> float:
        """1 at the start and 0 at the reference's end; at most 1, at least -1."""
        if not math.isfinite(loss):
            return 1.0
        if self.start <= self.best:
            return 0.0 if loss <= self.best else 1.0
        return min(1.0, max(-1.0, (loss - self.best) / (self.start - self.best)))


def anytime_area(curve: Sequence[Reached], budget: int, scale: Scale) -> float:
    """Mean over the budget of where the training stands: each evaluation holds until the next, the last to the end."""
    area, at, stands = 0.0, 0, 1.0
    for point in curve:
        reached = min(point.total_steps, budget)
        area += stands * max(0, reached - at)
        at, stands = max(at, reached), scale.frac(point.loss)
    return (area + stands * max(0, budget - at)) / budget


def first_within(curve: Sequence[Reached], target: float) -> Reached | None:
    """The first evaluation that reaches the target."""
    return next((point for point in curve if point.loss <= target), None)


def at_seconds(curve: Sequence[Reached], seconds: float, start: float, worst: float) -> float:
    """Loss at some moment, between two evaluations on the line from one to the other; `worst` beside what is NaN."""
    before = Reached(0, 0.0, start)
    for point in curve:
        if point.seconds >= seconds:
            if not (math.isfinite(before.loss) and math.isfinite(point.loss)):
                return worst
            passed = point.seconds - before.seconds
            part = 1.0 if passed <= 0 else (seconds - before.seconds) / passed
            return before.loss + (point.loss - before.loss) * part
        before = point
    return before.loss if math.isfinite(before.loss) else worst


def crashed_at(curve: Sequence[Reached], start: float, noise: float) -> int | None:
    """Index of the first evaluation that is not finite, worse than the start, or gives back half of what was gained.

    Args:
        noise: Differences up to it mean nothing.
    """
    best = start
    for i, point in enumerate(curve):
        loss = point.loss
        lost_much = loss - best > CRASH_FRAC * (start - best) and loss - best > noise
        if not math.isfinite(loss) or loss > start + noise or (best < start and lost_much):
            return i
        best = min(best, loss)
    return None


def has_recovered(curve: Sequence[Reached], crash: int, start: float, noise: float) -> bool:
    """Whether a training that crashed ends near what it had gained before, or has learnt since if that was nothing."""
    final = curve[-1].loss
    best = min([start, *(point.loss for point in curve[:crash])])
    if not math.isfinite(final):
        return False
    if best == start:
        return final < start - noise
    return final - best <= max(CRASH_FRAC * (start - best), noise)
