"""A batch that was bad, told from a rate that is: its gradients are out of all proportion, and the next ones' are not.

A rate that is too high keeps the gradients high for as long as it lasts (measured: of a layer whose updates are many
times too large, for the rest of the run); what bad batches leave behind shows in the loss, not in the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from agenttune.detectors.base import Detector
from agenttune.detectors.trend import GRAD_NAMES, Trend, spread
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation

WINDOW = 50
"""Points before that say what is usual, and at least `MIN_POINTS` (guess)."""
MIN_POINTS = 16
OUT_FACTOR = 20.0
"""Gradients over the usual norm (measured: a healthy classifier at most 15 times, heavy tails 50, by their spread)."""
OUT_SIGMAS = 8.0
"""And in standard deviations of its logarithm."""
BACK_FACTOR = 5.0
"""Back: the very next norm is below so many times the usual one (guess)."""
MOST_STEPS = 16
"""Bad batches in a row; more are no accident of single batches (guess)."""
FRESH_POINTS = 16
"""Newest points among which the last of them is told of (guess)."""


class BadBatch(Detector):
    """One batch or a few in a row had gradients out of all proportion, and the next do not: the data, not the rate."""

    name = "bad_batch"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        norms = Trend.of(observation, GRAD_NAMES)
        if norms is None or not norms.is_positive:
            return
        for last in range(len(norms) - 2, max(MIN_POINTS, len(norms) - 1 - FRESH_POINTS) - 1, -1):
            first = _first_of(norms, last)
            if first is None:
                continue
            usual, top = _usual(norms, first), max(norms.values[first : last + 1])
            count, where = last - first + 1, norms.steps[first]
            batches = "the batch" if count == 1 else f"{count} batches"
            until, after = f" to {norms.steps[last]}" if count > 1 else "", norms.values[last + 1]
            yield self.finding(
                f"{batches} of step {where}{until} had gradients of norm {top:.3g} (usual: {math.exp(usual):.3g}), "
                f"and {after:.3g} came next: bad data, not the rate",
                metric=norms.name,
                step=norms.steps[last + 1],
                evidence={
                    "cause": "bad_batch",
                    "at_step": where,
                    "steps": count,
                    "norm": top,
                    "usual": math.exp(usual),
                },
            )
            return


def _usual(norms: Trend, first: int) -> float:
    return median(norms.heights[max(0, first - WINDOW) : first])


def _first_of(norms: Trend, last: int) -> int | None:
    """The first of the bad ones that end with a point; None if it is not the last of a few."""
    heights = norms.heights
    for first in range(last, max(MIN_POINTS, last - MOST_STEPS + 1) - 1, -1):
        before = heights[max(0, first - WINDOW) : first]
        usual = median(before)
        if heights[last + 1] > usual + math.log(BACK_FACTOR):
            return None
        limit = usual + math.log(OUT_FACTOR)
        if heights[first] <= limit:
            return None
        if heights[first - 1] <= limit:  # what came just before is usual
            return first if min(heights[first : last + 1]) > usual + OUT_SIGMAS * spread(before) else None
    return None
