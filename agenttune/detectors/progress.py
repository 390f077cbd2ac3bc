"""How well it goes: a plateau, a start that is far too slow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from agenttune.detectors.base import Detector
from agenttune.detectors.trend import MEDIAN_ERROR, Trend, series
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation

PLATEAU_STEPS = 80
"""Fewest points of a plateau (tuned)."""
PLATEAU_RUN_FRAC = 0.5
"""And part of the newest points: the longer a run, the longer its plateaus (tuned)."""
PLATEAU_UNTIL_FRAC = 0.75
"""Only in this first part of a run: flat at the end is how good runs end (tuned)."""
PLATEAU_LEVEL_FRAC = 0.1
"""And only while the loss has more than this part of its start: below it is simply finished (guess)."""
FLAT_FRAC = 0.015
"""A flat half-window surely gains less than this part of all that was gained, or of a quarter of the start (tuned)."""
FLAT_SIGMAS = 2.0
"""Surely: with this many standard errors added to the gain (tuned)."""
RISEN_SIGMAS = 2.0
"""Standard errors above which the loss has not stopped but risen (textbook)."""
PREMATURE_T90_FRAC = 0.25
"""Nine tenths of the gain came in this first part of the steps so far: the loss fell and then stopped (tuned)."""
PREMATURE_LEVEL_FRAC = 0.5
"""And the loss still has more than this part of where it started: it is not simply finished (tuned)."""
PREMATURE_FALL_FRAC = 0.15
"""And it did fall by at least this part of its start: fine-tuning gains less and is fine (tuned)."""
PREMATURE_FALL_SIGMAS = 4.0
"""And by this many standard deviations of one step: the start is a single point (tuned)."""

SLOW_MIN_STEPS = 50
"""Points without a change before a rate is called too low (tuned)."""
SLOW_START_FRAC = 0.5
"""Only in this first part of the run: later there is little to win (tuned)."""
SLOW_STEADY_STEPS = 20
"""Steps whose fall is compared with the noise of a single one (tuned)."""
SLOW_PACES = ((1.0, 0.2), (5.0, 0.55))
"""Too slow: fall over those steps in units of the noise, at least; part of its start that the loss would have lost by
the end of the run, at most. The freer of noise, the surer that a higher rate is harmless (tuned)."""
SLOW_BEND = (0.4, 1.5)
"""Fall of the later half as a part of that of the earlier: less, and it bends as at a good rate; more, and it is
picking up by itself (tuned)."""
WARM_UP_FACTOR = 1.05
"""A rate that grew by more over the points looked at is still warming up (guess)."""


class Plateau(Detector):
    """The loss has stopped falling; a warning if it fell early and stopped while still high."""

    name = "plateau"
    severity = "info"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if trend is None or _is_late(observation, PLATEAU_UNTIL_FRAC) or is_warming_up(observation, PLATEAU_STEPS):
            return
        points = max(PLATEAU_STEPS, int(PLATEAU_RUN_FRAC * len(trend)))
        newest, half = trend.since_change.values[-points:], points // 2
        if len(newest) < points:
            return
        gain = median(newest[:half]) - median(newest[half:])
        if not _is_flat(trend, gain, half) or _has_risen(trend, gain, half):
            return
        premature = _is_premature(trend)
        words = "fell early and has stopped while still high" if premature else "is flat"
        gained = f"{gain:.3g} gained" if gain > 0 else "nothing gained"
        yield self.finding(
            severity="warning" if premature else "info",
            metric=trend.name,
            step=trend.steps[-1],
            summary=f"{trend.name} {words}: {gained} in {half} points, now {trend.level:.4g}",
            evidence={"gain": gain, "steps": half, "level": trend.level, "start": trend.start},
        )


def _is_late(observation: Observation, frac: float) -> bool:
    return observation.max_steps is not None and observation.step > frac * observation.max_steps


def _is_flat(trend: Trend, gain: float, half: int) -> bool:
    error = MEDIAN_ERROR * trend.noise_value / math.sqrt(half)
    limit = FLAT_FRAC * max(trend.fall(), abs(trend.start) / 4)
    finished = trend.is_positive and trend.level < PLATEAU_LEVEL_FRAC * trend.start
    return not finished and gain + FLAT_SIGMAS * error < limit


def _has_risen(trend: Trend, gain: float, half: int) -> bool:
    """Whether the loss went up within the points looked at, or stands above where it began: that is no plateau."""
    error = MEDIAN_ERROR * trend.noise_value / math.sqrt(half)
    above = trend.height(trend.level) - trend.height(trend.start)
    return -gain > RISEN_SIGMAS * error or above > RISEN_SIGMAS * trend.noise


def _is_premature(trend: Trend) -> bool:
    # A single first point may be high by chance, which would look like an early fall.
    start = median(trend.all_values[:3])
    gained = start - trend.level
    if gained < PREMATURE_FALL_FRAC * abs(start) or trend.level < PREMATURE_LEVEL_FRAC * start:
        return False
    if trend.height(start) - trend.height(trend.level) < PREMATURE_FALL_SIGMAS * trend.noise:
        return False
    return t90_steps(trend) < PREMATURE_T90_FRAC * (trend.all_steps[-1] - trend.all_steps[0])


def t90_steps(trend: Trend) -> int:
    """Steps until nine tenths of the whole fall were reached for good (three points in a row)."""
    goal = trend.start - 0.9 * trend.fall()
    values, steps = trend.all_values, trend.all_steps
    reached = (i for i in range(len(values) - 2) if median(values[i : i + 3]) <= goal)
    return steps[next(reached, len(values) - 1)] - steps[0]


class SlowStart(Detector):
    """The loss falls steadily, nearly without noise, and far too slowly for the steps that are left."""

    name = "slow_start"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if trend is None or observation.max_steps is None or is_warming_up(observation, SLOW_MIN_STEPS):
            return
        if trend.redefined_step > SLOW_MIN_STEPS:  # what has begun anew there is a curve, not the run
            return
        now, left = trend.since_change, observation.max_steps - observation.step
        if len(now) < SLOW_MIN_STEPS or observation.step > SLOW_START_FRAC * observation.max_steps:
            return
        third = len(now) // 3
        first, middle, last = (median(now.values[i : i + third]) for i in (0, third, len(now) - third))
        slope = (first - last) / (now.steps[-1] - now.steps[0]) * 1.5
        expected = trend.start - last + slope * left
        bend = (middle - last) / (first - middle) if first > middle else math.inf
        is_straight = SLOW_BEND[0] < bend < SLOW_BEND[1]
        steady = slope * SLOW_STEADY_STEPS / now.noise_value if now.noise_value > 0 else math.inf
        if not is_straight or not any(steady > s and expected < part * abs(trend.start) for s, part in SLOW_PACES):
            return
        yield self.finding(
            severity="warning",
            metric=trend.name,
            step=trend.steps[-1],
            summary=f"{trend.name} falls steadily but by only {slope:.2g} a step; at this pace it would end near "
            f"{trend.start - expected:.4g} (start {trend.start:.4g})",
            evidence={"slope_per_step": -slope, "expected_end": trend.start - expected, "start": trend.start},
        )


def is_warming_up(observation: Observation, points: int) -> bool:
    """The schedule itself is raising the rate."""
    view = series(observation, ("lr", "learning_rate"))
    trend = Trend.of(observation, ("lr", "learning_rate")) if view else None
    if trend is None:
        return False
    rates = trend.since_change.values[-points:]
    return rates[-1] > WARM_UP_FACTOR * rates[0]
