"""The loss goes up and stays up, or never comes down: the rate is too high.

Divergence seldom shows as NaN. Mostly the loss jumps within a few steps, then comes down to what a broken network
still can do and stays there; so a jump far above the start is reported until it has healed for good, or evaluations
show that only the batches were bad. What is found is named: a jump within one step, a rise over many, a network that
is stuck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from agenttune.detectors.base import Detector
from agenttune.detectors.evaluations import improvement_since
from agenttune.detectors.faults import NonFinite
from agenttune.detectors.trend import LEVEL_STEPS, MEDIAN_ERROR, Trend, spread
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation

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


HEALED_STEPS = LEVEL_STEPS
"""Points in a row below where the loss was before a hump, by their median, after which it counts as healed (guess)."""
HEALED_EARLY_STEPS = 2 * LEVEL_STEPS
"""The same for a hump so early that nothing but the first loss tells where it was (guess)."""
JUMP_SIDE_STEPS = 8
"""Points on each side of a jump whose medians tell its height (guess)."""
JUMP_RISE_FRAC = 0.7
"""Part of a rise that comes within one step, for it to be called a jump (guess)."""
JUMP_BETWEEN = (0.25, 0.75)
"""Heights, as parts of a rise, that a jump passes over: at most one of its points lies between (guess)."""


@dataclass(frozen=True)
class Cause:
    """What kind of divergence it is, and how that is said."""

    name: Literal["blow_up", "hump", "jump", "rise", "stuck"]
    is_critical: bool
    words: str
    step: int | None = None


class Divergence(Detector):
    """The loss is far above where it was and does not come back, or is stuck where it started after a spike."""

    name = "divergence"
    severity = "critical"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if trend is None or len(trend) < BLOW_UP_STEPS or _nonfinite_now(observation):
            return
        cause = _cause(observation, trend)
        if cause is None:
            return
        place = {} if cause.step is None else {"at_step": cause.step}
        since = f", both since step {trend.redefined_step}" if trend.redefined_step else ""
        yield self.finding(
            severity="critical" if cause.is_critical else "warning",
            metric=trend.name,
            step=trend.steps[-1],
            summary=f"{trend.name} {cause.words} (now {trend.level:.4g}, start {trend.start:.4g}, "
            f"best {trend.best:.4g}{since})",
            evidence={"cause": cause.name, "level": trend.level, "start": trend.start, "best": trend.best, **place},
        )


def _cause(observation: Observation, trend: Trend) -> Cause | None:
    now = trend.since_change
    settling = len(now) < SETTLE_STEPS if trend.changed_step else False
    recovering = settling or _is_falling(now)
    found = _blow_up(trend, now, recovering) or _hump(observation, trend, now, recovering)
    return found or (None if recovering else _rise(trend) or _stuck(trend, now))


def _nonfinite_now(observation: Observation) -> bool:
    return any(True for _ in NonFinite().detect(observation))


def _is_falling(now: Trend) -> bool:
    """The newest points are clearly lower than those just before them."""
    points = now.heights[-2 * LEVEL_STEPS :]
    half = len(points) // 2
    if half < 3:
        return False
    error = MEDIAN_ERROR * spread(points) / math.sqrt(half)
    return median(points[:half]) - median(points[half:]) > 2 * error


def _blow_up(trend: Trend, now: Trend, recovering: bool) -> Cause | None:
    """Far above the start, at once: the weights are being thrown away, whatever the loss does next."""
    if trend.changed_step and recovering:
        return None
    newest = now.heights[-BLOW_UP_STEPS:]
    above = median(newest) - trend.height(trend.start)
    if len(newest) == BLOW_UP_STEPS and above > max(trend.factor(BLOW_UP_FACTOR), BLOW_UP_SIGMAS * trend.noise):
        return Cause("blow_up", True, f"stands far above its start for {BLOW_UP_STEPS} steps")
    return None


def _hump(observation: Observation, trend: Trend, now: Trend, recovering: bool) -> Cause | None:
    """Two points in a row far above the run's start, not healed yet."""
    if trend.redefined_step or (trend.changed_step and recovering):
        return None  # a redefined loss may have begun low: a hump over that is a spike
    usual = max(trend.height(trend.start), trend.height(trend.level))
    limit = usual + max(trend.factor(HUMP_FACTOR), HUMP_SIGMAS * trend.noise)
    first = len(trend) - len(now) + (SETTLE_STEPS if trend.changed_step else 0)
    high = [i for i in range(first, len(trend) - 1) if min(trend.heights[i : i + 2]) > limit]
    if not high or _has_healed(trend, high[0], high[-1] + 1):
        return None
    stays = median(now.heights[-BLOW_UP_STEPS:]) > limit
    if not stays and improvement_since(observation, trend.steps[high[-1] + 1]) is not None:
        return None
    top = max(trend.values[first:])
    return Cause("hump", True, f"went up to {top:.4g}, far above its start", trend.steps[high[0]])


def _has_healed(trend: Trend, first: int, last: int) -> bool:
    """Whether the points since a hump are back where the loss was before it, and have been for long enough."""
    before, after = trend.heights[max(0, first - LEVEL_STEPS) : first], trend.heights[last + 1 :]
    is_early = len(before) < LEVEL_STEPS // 2
    was = trend.height(trend.start) if is_early else median(before)
    if len(after) < (HEALED_EARLY_STEPS if is_early else HEALED_STEPS):
        return False
    error = MEDIAN_ERROR * trend.noise / math.sqrt(LEVEL_STEPS)
    return median(after[-LEVEL_STEPS:]) <= was + 2 * error


def _rise(trend: Trend) -> Cause | None:
    if len(trend) < 2 * LEVEL_STEPS:
        return None
    best, level = trend.best, trend.level
    error = MEDIAN_ERROR * trend.noise / math.sqrt(LEVEL_STEPS)
    needed = max(RISE_SIGMAS * error, trend.factor(RISE_FACTOR))
    gained = max(0.0, trend.start - best)
    if trend.height(level) - trend.height(best) <= needed or level - best <= RISE_FALL_FRAC * gained:
        return None
    # A redefined loss begins at its level: above that is not yet above where a run begins.
    is_critical = level > trend.start and not trend.redefined_step
    jump = _jump_step(trend, trend.height(level) - trend.height(best))
    if jump is not None:
        words = f"jumped from about {best:.4g} to {level:.4g} within one step, at step {jump}, and stays there"
        return Cause("jump", is_critical, words, jump)
    steps = trend.steps[-1] - trend.best_step
    words = f"rose from {best:.4g} to {level:.4g} over {steps} steps and does not come back"
    return Cause("rise", is_critical, words)


def _jump_step(trend: Trend, rise: float) -> int | None:
    """The step at which a rise came at once; None if it took longer."""
    heights, side = trend.heights, JUMP_SIDE_STEPS
    middles = [(median(heights[i - side : i]), median(heights[i : i + side])) for i in range(side, len(heights) - side)]
    if not middles:
        return None
    at, (low, high) = max(enumerate(middles, side), key=lambda entry: entry[1][1] - entry[1][0])
    if high - low < JUMP_RISE_FRAC * rise:
        return None
    near = range(max(1, at - side // 2), min(len(heights), at + side // 2 + 1))
    at = max(near, key=lambda i: heights[i] - heights[i - 1])  # medians of neighbours do not tell to the step
    between = [low + part * (high - low) for part in JUMP_BETWEEN]
    inside = sum(between[0] < height < between[1] for height in heights[at - side : at + side])
    return trend.steps[at] if inside <= 1 else None


def _stuck(trend: Trend, now: Trend) -> Cause | None:
    newest = now.values[-STUCK_STEPS:]
    if trend.redefined_step:  # it begins at its level, and stays there in all good runs
        return None
    if len(newest) < STUCK_STEPS or trend.start - median(newest) > STUCK_FALL_FRAC * abs(trend.start):
        return None
    limit = trend.height(trend.start) + max(trend.factor(STUCK_SPIKE_FACTOR), STUCK_SPIKE_SIGMAS * trend.noise)
    peak = max(trend.heights)
    if peak <= limit:
        return None
    return Cause("stuck", True, f"is stuck where it started after a spike to {max(trend.values):.4g}")
