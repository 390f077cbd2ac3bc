"""The loss goes up and stays up, or never comes down: the rate is too high.

Divergence seldom shows as NaN. Mostly the loss jumps within a few steps, then comes down to what a broken network
still can do and stays there; so a jump far above the start is reported whatever the loss does next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from agenttune.detectors.faults import non_finite
from agenttune.findings import Finding
from agenttune.observation import Observation
from agenttune.trend import LEVEL_STEPS, MEDIAN_ERROR, Trend, spread

BLOW_UP_STEPS = 8
"""Points whose median must stand far above the start (tuned)."""
BLOW_UP_FACTOR = 3.0
"""How far above the start, as a factor of a positive loss (tuned)."""
BLOW_UP_SIGMAS = 4.0
"""And in standard deviations of a single step: a lucky first batch is not a low start (tuned)."""
HUMP_FACTOR = 1.5
"""Two points in a row so far above the start: no run that is fine does this (tuned)."""
HUMP_SIGMAS = 3.0
"""And in standard deviations of a single step (tuned: 4 costs ten steps of damage, 3 still spares tiny batches)."""
RISE_SIGMAS = 6.0
"""Rise of the level over the best level, in standard errors of a median (tuned)."""
RISE_FACTOR = 1.1
"""And as a factor of a positive loss (tuned)."""
RISE_FALL_FRAC = 0.25
"""And as a part of all that had been gained (tuned)."""
SETTLE_STEPS = 12
"""Points after a change that no verdict on the change rests on (tuned)."""
STUCK_STEPS = 32
"""Points at the start's level, after a spike above it, that count as stuck (tuned)."""
STUCK_SPIKE_SIGMAS = 10.0
"""Height of that spike over the start (tuned)."""
STUCK_SPIKE_FACTOR = 1.15
"""And as a factor of a positive loss (tuned)."""
STUCK_FALL_FRAC = 0.02
"""Part of the starting loss that a stuck run has gained at most (tuned)."""


def divergence(observation: Observation) -> Iterator[Finding]:
    """The loss is far above where it was and does not come back, or is stuck where it started after a spike."""
    trend = Trend.of(observation)
    if trend is None or len(trend) < BLOW_UP_STEPS or _nonfinite_now(observation):
        return
    now = trend.since_change
    settling = len(now) < SETTLE_STEPS if trend.changed_step else False
    recovering = settling or _is_falling(now)
    cause = _blow_up(trend, now, recovering) or (None if recovering else _rise(trend) or _stuck(trend, now))
    if cause is None:
        return
    name, severity, words = cause
    yield Finding(
        kind="divergence",
        severity="critical" if severity else "warning",
        metric=trend.name,
        step=trend.steps[-1],
        summary=f"{trend.name} {words} (now {trend.level:.4g}, start {trend.start:.4g}, best {trend.best:.4g})",
        evidence={"cause": name, "level": trend.level, "start": trend.start, "best": trend.best},
    )


def _nonfinite_now(observation: Observation) -> bool:
    return any(True for _ in non_finite(observation))


def _is_falling(now: Trend) -> bool:
    """The newest points are clearly lower than those just before them."""
    points = now.heights[-2 * LEVEL_STEPS :]
    half = len(points) // 2
    if half < 3:
        return False
    error = MEDIAN_ERROR * spread(points) / math.sqrt(half)
    return median(points[:half]) - median(points[half:]) > 2 * error


Cause = tuple[str, bool, str]


def _blow_up(trend: Trend, now: Trend, recovering: bool) -> Cause | None:
    """Far above the start, at once: the weights are being thrown away, whatever the loss does next."""
    if trend.changed_step and recovering:
        return None
    newest = now.heights[-BLOW_UP_STEPS:]
    above = median(newest) - trend.height(trend.start)
    if len(newest) == BLOW_UP_STEPS and above > max(trend.factor(BLOW_UP_FACTOR), BLOW_UP_SIGMAS * trend.noise):
        return "blow_up", True, f"stands far above its start for {BLOW_UP_STEPS} steps"
    usual = max(trend.height(trend.start), trend.height(trend.level))
    limit = usual + max(trend.factor(HUMP_FACTOR), HUMP_SIGMAS * trend.noise)
    settled = now.heights[SETTLE_STEPS if trend.changed_step else 0 :]
    if any(min(a, b) > limit for a, b in pairwise(settled)):
        return "hump", True, f"went up to {max(now.values):.4g}, far above its start"
    return None


def _rise(trend: Trend) -> Cause | None:
    if len(trend) < 2 * LEVEL_STEPS:
        return None
    best, level = trend.best, trend.level
    error = MEDIAN_ERROR * trend.noise / math.sqrt(LEVEL_STEPS)
    needed = max(RISE_SIGMAS * error, trend.factor(RISE_FACTOR))
    gained = max(0.0, trend.start - best)
    if trend.height(level) - trend.height(best) <= needed or level - best <= RISE_FALL_FRAC * gained:
        return None
    return "rise", level > trend.start, f"rose from {best:.4g} to {level:.4g} and does not come back"


def _stuck(trend: Trend, now: Trend) -> Cause | None:
    newest = now.values[-STUCK_STEPS:]
    if len(newest) < STUCK_STEPS or trend.start - median(newest) > STUCK_FALL_FRAC * abs(trend.start):
        return None
    limit = trend.height(trend.start) + max(trend.factor(STUCK_SPIKE_FACTOR), STUCK_SPIKE_SIGMAS * trend.noise)
    peak = max(trend.heights)
    if peak <= limit:
        return None
    return "stuck", True, f"is stuck where it started after a spike to {max(trend.values):.4g}"
