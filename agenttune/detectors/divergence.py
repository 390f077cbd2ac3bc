"""The loss goes up and stays up, or never comes down: the rate is too high.

Divergence seldom shows as NaN. Mostly the loss jumps within a few steps, then comes down to what a broken network
still can do and stays there. Only what stays counts: a hump whose loss comes back is a spike, which heals by itself,
and where evaluations since then are as good as before, only batches were bad. What is found is named: a jump within one
step, a rise over many, a network that is stuck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from agenttune.detectors.base import Detector
from agenttune.detectors.evaluations import are_fine, are_worse, get_better
from agenttune.detectors.sudden_faults import NonFinite
from agenttune.detectors.trend import LEVEL_STEPS, MEDIAN_ERROR, Trend, spread
from agenttune.protocol.findings import Finding, Severity
from agenttune.protocol.observation import Observation

BLOW_UP_STEPS = 8
"""Points whose median must stand far above the start (tuned)."""
BLOW_UP_FACTOR = 3.0
"""How far above the start, as a factor of a positive loss (tuned)."""
BLOW_UP_SIGMAS = 4.0
"""And in standard deviations of a single step: a lucky first batch is not a low start (tuned)."""
HUMP_FACTOR = 1.5
"""Two points in a row so far above the start: a run that is fine does this seldom, and then comes back (tuned)."""
HEALED_EARLY_STEPS = 2 * LEVEL_STEPS
"""Points after a hump among the first ones, below the start by their median, after which it counts as healed: a rate
that is far too high throws the weights away at once, and the loss of what is left comes down for a while (guess)."""
HUMP_LEFT_FACTOR = 1.03
"""What is left of it is as a factor at least so far above the level before (guess: a broken network seldom comes back
to the start itself)."""
HUMP_SIGMAS = 3.0
"""And in standard deviations of a single step (tuned: 4 costs ten steps of damage, 3 still spares tiny batches)."""
RISE_SIGMAS = 6.0
"""Rise of the level over the best level, in standard errors of a median (tuned)."""
RISE_FACTOR = 1.1
"""And as a factor of a positive loss (tuned)."""
RISE_FALL_FRAC = 0.25
"""And as a part of all that had been gained (tuned)."""
STAYS_FACTOR = 2.0
"""A hump is critical where the level stays so far above the start, or its top was a blow-up's (tuned: the losses of an
adversarial training that goes well stand one and a half times above their start for some thirty steps)."""
NOTHING_GAINED_FACTOR = 1.1
"""A rise from a best level that far below the start at least is critical once it is above the start: all is lost that
was learnt. Where nothing was learnt yet, it is critical from `STAYS_FACTOR` on only (tuned as above)."""
SURELY_STUCK_STEPS = 64
"""Points at the start's level after which a spike need not have been a blow-up's (tuned as above)."""
SURE_FACTOR = 1.6
"""What is critical has risen by so many times what is worth a warning: among the many windows of a long run with heavy
tails, one lies low and another high by chance (simulated)."""
SURE_FRAC = 0.9
"""And such a part of the points since a hump is above the level of before (simulated)."""
FEW_POINTS = 6.0
"""The noise of the first points is known from few differences: with n of them it may be larger by this over n
(simulated)."""
HUMP_POINTS, HUMP_FRAC = 4, 0.75
"""Points above a hump's limit, and their part of all since: tails put two in a row there and then none (simulated)."""
TOP_SIGMAS = 10.0
"""Or its top is so many standard deviations above those that follow (simulated)."""
FAR_MOVED = 0.4
"""Or the weights themselves were seen to go: updates of so much of them (as `LARGE_UPDATES` of the rate)."""
LITTLE_MOVED = 0.05
"""Updates of no layer were larger, as parts of its weights: they cannot have thrown the weights away, so it was the
first loss that was low by chance. At a good rate they are 0.01 to 0.3 in the first steps, at ten times that 0.1 to 1.8
(measured on eight tasks)."""
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


JUMP_SIDE_STEPS = 8
"""Points on each side of a jump whose medians tell its height (guess)."""
JUMP_RISE_FRAC = 0.7
"""Part of a rise that comes within one step, for it to be called a jump (guess)."""
JUMP_BETWEEN = (0.25, 0.75)
"""Heights, as parts of a rise, that a jump passes over: at most one of its points lies between (guess)."""


@dataclass(frozen=True)
class Cause:
    """What kind of divergence it is, and how that is said; `since_step`: when the loss had left where it was."""

    name: Literal["blow_up", "hump", "jump", "rise", "stuck"]
    is_critical: bool
    words: str
    step: int | None = None
    since_step: int = 0


class Divergence(Detector):
    """The loss is far above where it was and does not come back, or is stuck where it started after a spike."""

    name = "divergence"
    severity = "critical"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if trend is None or len(trend) < BLOW_UP_STEPS or _nonfinite_now(observation):
            return
        cause = _cause(observation, trend)
        if cause is None or (cause.name in ("blow_up", "hump", "stuck") and _barely_moved(observation)):
            return
        place = {} if cause.step is None else {"at_step": cause.step}
        severity: Severity = "critical" if cause.is_critical else "warning"
        fine = ""
        if are_fine(observation, cause.since_step, trend.start):
            severity, fine = "info", f", but {observation.goal_metric} is as good as before: only batches were bad"
        since = f", both since step {trend.redefined_step}" if trend.redefined_step else ""
        yield self.finding(
            severity=severity,
            metric=trend.name,
            step=trend.steps[-1],
            summary=f"{trend.name} {cause.words}{fine} (now {trend.level:.4g}, start {trend.start:.4g}, "
            f"best {trend.best:.4g}{since})",
            evidence={"cause": cause.name, "level": trend.level, "start": trend.start, "best": trend.best, **place},
        )


def _cause(observation: Observation, trend: Trend) -> Cause | None:
    now = trend.since_change
    settling = len(now) < SETTLE_STEPS if trend.changed_step else False
    recovering = settling or _is_falling(now)
    found = _blow_up(trend, now, recovering) or _hump(observation, trend, now, recovering)
    return found or (None if recovering else _rise(trend) or _stuck(observation, trend, now))


def _barely_moved(observation: Observation) -> bool:
    """Whether the weights have been looked at since the first step, and no layer's went far in any one step."""
    looks = [look for look in observation.weights if look.steps]
    if not looks or looks[0].since_step > 1 or observation.step > looks[-1].step + 2 * looks[-1].steps:
        return False
    return all(ratio < LITTLE_MOVED for look in looks for ratio in look.ratios.values())


def _nonfinite_now(observation: Observation) -> bool:
    return any(True for _ in NonFinite().detect(observation))


def _is_falling(now: Trend, steps: int = LEVEL_STEPS) -> bool:
    """The newest points are clearly lower than as many just before them."""
    points = now.heights[-2 * steps :]
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
    if len(newest) == BLOW_UP_STEPS and above > max(trend.factor(BLOW_UP_FACTOR), BLOW_UP_SIGMAS * _noise(trend)):
        left = _left_step(trend, trend.height(trend.start), median(newest))
        return Cause("blow_up", True, f"stands far above its start for {BLOW_UP_STEPS} steps", since_step=left)
    return None


def _hump(observation: Observation, trend: Trend, now: Trend, recovering: bool) -> Cause | None:
    """Two points in a row far above the run's start, and the loss has not come back to where it was before."""
    if trend.redefined_step or (trend.changed_step and recovering):
        return None  # a redefined loss may have begun low: a hump over that is a spike
    start = trend.height(trend.start)
    limit = start + max(trend.factor(HUMP_FACTOR), HUMP_SIGMAS * trend.noise)
    first = len(trend) - len(now) + (SETTLE_STEPS if trend.changed_step else 0)
    heights = trend.heights
    if max(heights[first:], default=limit) <= limit:  # nearly always
        return None
    high = [i for i in range(first, len(trend) - 1) if min(heights[i : i + 2]) > limit]
    if high and high[0] < LEVEL_STEPS // 2 and _throws_away(observation, trend, high):
        return _as_hump(trend, high, True)
    high = _not_healed(trend, high)
    if not high:
        return None
    if are_worse(observation, trend.steps[high[-1] + 1]):
        return _as_hump(trend, high, True, ", and evaluations are far worse since")
    if len(trend) - high[0] < BLOW_UP_STEPS or _is_falling(now, BLOW_UP_STEPS):
        return None
    level = median(now.heights[-BLOW_UP_STEPS:])
    is_coming_back = level <= limit and len(trend) - high[-1] - 2 < LEVEL_STEPS
    before, error = _before(trend, high[0])
    if is_coming_back or level - before <= _clear_rise(trend):
        return None
    above = median(now.heights[-LEVEL_STEPS:]) - start
    stays = above > max(trend.factor(STAYS_FACTOR), HUMP_SIGMAS * trend.noise)
    since = trend.heights[high[0] :]
    is_sure = level - before > max(SURE_FACTOR * _clear_rise(trend), BLOW_UP_SIGMAS * error)
    is_sure = is_sure and sum(height > before for height in since) >= SURE_FRAC * len(since)
    return _as_hump(trend, high, is_sure and (stays or _is_far(trend, high)), ", and does not come back")


def _as_hump(trend: Trend, high: list[int], is_critical: bool, words: str = "") -> Cause:
    words = f"went up to {max(trend.values[high[0] :]):.4g}, far above its start{words}"
    return Cause("hump", is_critical, words, trend.steps[high[0]], trend.steps[high[-1] + 1])


def _is_far(trend: Trend, high: list[int]) -> bool:
    return max(trend.heights[high[0] :]) - trend.height(trend.start) > trend.factor(BLOW_UP_FACTOR)


def _noise(trend: Trend) -> float:
    """The noise that the newest points may have, as few as they are."""
    return trend.noise * (1 + FEW_POINTS / len(trend))


def _not_healed(trend: Trend, high: list[int]) -> list[int]:
    """Of points of humps, those since the loss was last at its level of before: one that has healed is history."""
    left = high
    while left:
        before, error = _before(trend, left[0])
        ends = range(left[0] + 2 + LEVEL_STEPS, len(trend) + 1)
        healed = next((end for end in ends if median(trend.heights[end - LEVEL_STEPS : end]) <= before + error), None)
        if healed is None:
            return left
        left = [i for i in left if i >= healed]
    return []


def _throws_away(observation: Observation, trend: Trend, high: list[int]) -> bool:
    """Whether a hump among the first points is a network that is thrown away, and no few points of heavy tails."""
    if not _is_far(trend, high) or _has_healed_early(trend, high[-1] + 1):
        return False
    if any(look.early_update_ratio > FAR_MOVED for look in observation.weights):
        return True
    since = trend.heights[high[0] :]
    limit = trend.height(trend.start) + max(trend.factor(HUMP_FACTOR), HUMP_SIGMAS * _noise(trend))
    above = sum(height > limit for height in since)
    if above >= HUMP_POINTS and above >= HUMP_FRAC * len(since):
        return True
    usual = [height for height in since if height <= limit]
    if len(usual) < HUMP_POINTS:
        return False
    top = max(min(pair) for pair in pairwise(since))
    return top - median(usual) > TOP_SIGMAS * spread(usual) * (1 + FEW_POINTS / len(usual))


def _has_healed_early(trend: Trend, last: int) -> bool:
    """Whether points for long enough are below the start: all that tells where the loss was before it went up."""
    after = trend.heights[last + 1 :]
    error = MEDIAN_ERROR * trend.noise / math.sqrt(LEVEL_STEPS)
    return len(after) >= HEALED_EARLY_STEPS and median(after[-LEVEL_STEPS:]) <= trend.height(trend.start) + 2 * error


def _before(trend: Trend, first: int) -> tuple[float, float]:
    """The height of the loss before a hump, and its standard error.

    Where a hump comes so early that nothing else tells, it is the start, a single point.
    """
    points = trend.heights[max(0, first - LEVEL_STEPS) : first]
    if len(points) >= LEVEL_STEPS // 2:
        return median(points), MEDIAN_ERROR * trend.noise / math.sqrt(len(points))
    return trend.height(trend.start), _noise(trend)


def _clear_rise(trend: Trend) -> float:
    """What is no chance between a level of before and that of the newest points."""
    error = MEDIAN_ERROR * trend.noise / math.sqrt(BLOW_UP_STEPS)
    return max(2 * error, trend.factor(HUMP_LEFT_FACTOR))


def _left_step(trend: Trend, low: float, high: float) -> int:
    """The last step at which the loss was nearer to where it was than to where it is, by medians of neighbours."""
    middle, side = (low + high) / 2, JUMP_SIDE_STEPS
    heights = trend.heights
    below = [i for i in range(side, len(heights) + 1) if median(heights[i - side : i]) <= middle]
    return trend.steps[below[-1] - 1] if below else trend.steps[0]


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
    above = trend.height(level) - trend.height(trend.start)
    had_gained = trend.height(trend.start) - trend.height(best) > trend.factor(NOTHING_GAINED_FACTOR)
    is_sure = trend.height(level) - trend.height(best) > SURE_FACTOR * needed
    is_critical = is_sure and above > (0 if had_gained else trend.factor(STAYS_FACTOR)) and not trend.redefined_step
    jump = _jump_step(trend, trend.height(level) - trend.height(best))
    if jump is not None:
        words = f"jumped from about {best:.4g} to {level:.4g} within one step, at step {jump}, and stays there"
        return Cause("jump", is_critical, words, jump, jump)
    steps = trend.steps[-1] - trend.best_step
    words = f"rose from {best:.4g} to {level:.4g} over {steps} steps and does not come back"
    left = _left_step(trend, trend.height(best), trend.height(level))
    return Cause("rise", is_critical, words, since_step=left)


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


def _stuck(observation: Observation, trend: Trend, now: Trend) -> Cause | None:
    newest = now.values[-STUCK_STEPS:]
    if trend.redefined_step:  # it begins at its level, and stays there in all good runs
        return None
    if len(newest) < STUCK_STEPS or trend.start - median(newest) > STUCK_FALL_FRAC * abs(trend.start):
        return None
    limit = trend.height(trend.start) + max(trend.factor(STUCK_SPIKE_FACTOR), STUCK_SPIKE_SIGMAS * trend.noise)
    peak, above = max(trend.heights), median(now.heights[-STUCK_STEPS:]) - trend.height(trend.start)
    lucky = trend.factor(HUMP_FACTOR) or STUCK_SPIKE_SIGMAS * trend.noise  # so far above, the first loss was by chance
    if peak <= limit or above > lucky:
        return None
    is_far = peak - trend.height(trend.start) > max(
        trend.factor(BLOW_UP_FACTOR), above + STUCK_SPIKE_SIGMAS * trend.noise
    )
    is_long = len(trend) - trend.heights.index(peak) > SURELY_STUCK_STEPS
    is_sure = is_far or (is_long and not get_better(observation))
    return Cause("stuck", is_sure, f"is stuck where it started after a spike to {max(trend.values):.4g}")
