"""Where a metric was going before a change, and whether it came out worse than that.

The forecast is the level of the newest points before the change. A fall is carried on by half, as curves flatten, and
never below what was seen already: a run that comes down from a spike is not going to go on like that. A rise is not
carried on, so that a run which was getting worse is not taken as the measure. Levels are medians, so that single
spikes decide nothing, and errors are those of medians of correlated points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from agenttune.trend import MEDIAN_ERROR, spread

BEFORE_STEPS = 64
"""Points before the change that the forecast rests on (guess: enough for the noise, few enough to be of now)."""
FEWEST = 8
"""Points on each side below which nothing is said."""
FALL_KEPT_FRAC = 0.5
"""Part of the fall before the change that is expected after it (guess)."""
LOWEST_FRAC = 0.1
"""Part of the newest points that may lie below the lowest forecast: a single low one is no level (guess)."""
MOST_NOISE = 3.0
"""A change may make the loss noisier, but a loss that explodes is no noise: so many times that of before (guess)."""
CORRELATION = 2.0
"""Variance of a mean of neighbouring losses over that of independent ones (guess; batches share their parameters)."""


@dataclass(frozen=True)
class Comparison:
    """A metric after a change against its forecast; all in the metric's own units, less is better.

    Attributes:
        forecast: Where it was going.
        found: Where it went: the median of the later half of the points after the change.
        error: Standard error of the difference.
    """

    forecast: float
    found: float
    error: float

    @property
    def rise(self) -> float:
        """By how much it came out above the forecast."""
        return self.found - self.forecast

    def is_worse(self, tolerance: float, min_rise_frac: float) -> bool:
        """Whether it rose by more than `tolerance` standard errors, and by that part of its size at least."""
        return self.rise > max(tolerance * self.error, min_rise_frac * abs(self.forecast))


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison | None:
    """Compare the points after a change with where those before it were going.

    Args:
        before: Values of successive steps up to the change, newest last.
        after: Values of successive steps after it, newest last.

    Returns:
        None if there are fewer than `FEWEST` finite points on a side.
    """
    old = [v for v in before[-BEFORE_STEPS:] if math.isfinite(v)]
    new = [v for v in after if math.isfinite(v)]
    later = new[len(new) // 2 :]
    if len(old) < FEWEST or len(later) < FEWEST // 2:
        return None
    half = len(old) // 2
    early, late = median(old[:half]), median(old[half:])
    lowest = sorted(old[half:])[int(LOWEST_FRAC * (len(old) - half))]
    slope = min(0.0, (late - early) / half)
    ahead = half / 2 + len(new) - len(later) / 2
    calm = spread(old)
    noise = max(calm, min(spread(later), MOST_NOISE * calm))
    error = MEDIAN_ERROR * noise * math.sqrt(CORRELATION * (1 / (len(old) - half) + 1 / len(later)))
    return Comparison(max(late + FALL_KEPT_FRAC * slope * ahead, lowest), median(later), error)
