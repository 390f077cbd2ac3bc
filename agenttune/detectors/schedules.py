"""What the schedule leaves of the rate: one that has collapsed long before the end, by itself or by a command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from agenttune.detectors.base import Detector
from agenttune.detectors.trend import LEVEL_STEPS, MEDIAN_ERROR, NOISE_STEPS, Trend, changes, last_change_step
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord

RATE_NAMES = ("lr", "learning_rate")
COLLAPSED_FRAC = 0.05
"""Of the highest rate, at most, now and up to the end. With as much of the run left, a cosine still has 27 % and a line
35 %; inverse roots never get there (computed)."""
LEFT_FRAC = 0.35
"""Part of the run that is left at least: warm-up, stable and decay ends within its last fifth to third (known)."""
BEGUN_FRAC = 0.03
"""Part of the run that is done at least: before that a warm-up may have hardly begun."""
CUT_FACTOR = 0.1
"""A command that leaves less than this part of the rate is looked into (guess)."""
CUT_SETTLE_STEPS = 16
"""Steps after a cut in which the loss falls for the noise that is gone, and says nothing of progress (guess)."""
CUT_JUDGED_STEPS = 24
"""Steps after those before it is asked whether it still falls (guess)."""
CUT_FALL_FRAC = 0.05
"""Part of its level that a loss in full course loses within sixteen steps at least (guess)."""
CUT_TROUBLE_FACTOR = 1.15
"""A loss so far above its best was in trouble, for which the cut may have been the cure (guess)."""

RISING_FACTOR = 1.05
"""A rate that grows by more is rising (guess)."""
RISEN_STEPS, RISEN_FRAC = 20, 0.05
"""Steps since then, and part of the run, in which it has only just risen (guess: as much as a rate is judged by)."""


class PlannedLr(NamedTuple):
    """The rate to come.

    Attributes:
        now: Of the next step.
        mean: Over the rest of the run.
        highest: In the rest of the run, now included.
    """

    now: float
    mean: float
    highest: float


def planned(observation: Observation) -> PlannedLr | None:
    """What the schedule says of the rest of the run; None where it is not known."""
    course, end = observation.schedule, observation.max_steps
    if course is None or not course.is_foretold or not course.tracks or not course.steps:
        return None
    course = course.from_now(observation.step)
    rates, steps = course.rates(0), course.steps
    length = steps[-1] - steps[0]
    if end is not None and steps[-1] < end - 1:
        return None
    area = sum((a + b) / 2 * (t - s) for (s, a), (t, b) in pairwise(zip(steps, rates, strict=True)))
    mean = area / length if length > 0 else rates[0]
    highest = max(rates[0], *course.highest(0))
    return PlannedLr(rates[0], mean, highest)


def lost_to_warm_up(observation: Observation) -> float:
    """Steps since the newest change, or the start, that a warm-up was short of its own peak: half of those of a line.

    What a loss has lost by the other steps says whether the rate is high enough.
    """
    trend, begun = Trend.of(observation, RATE_NAMES), last_change_step(observation)
    since = [] if trend is None else trend.after(begun)
    highest = max((rate for _, rate in since), default=0.0)
    lost = 0.0
    for step, rate in since:
        if rate >= highest:
            break
        lost, begun = lost + (1 - rate / highest) * (step - begun), step
    return lost


def is_rising(observation: Observation) -> bool:
    """Whether the schedule raises the rate from here, or has done so lately: what its peak does is not seen yet.

    A warm-up may rise in steps, an epoch each: what counts is whether a higher rate is still to come.
    """
    ahead, end = planned(observation), observation.max_steps or 0
    if ahead is not None and ahead.highest > RISING_FACTOR * ahead.now:
        return True
    lately = max(RISEN_STEPS if ahead is not None else NOISE_STEPS, RISEN_FRAC * end)
    trend, since = Trend.of(observation, RATE_NAMES), max(last_change_step(observation), observation.step - lately)
    rates = [] if trend is None else [rate for _, rate in trend.after(math.floor(since))]
    return bool(rates) and rates[-1] > RISING_FACTOR * rates[0]


class CollapsedSchedule(Detector):
    """The rate is nearly nothing long before the end, and is planned to stay so; or an operator has cut it so far."""

    name = "collapsed_schedule"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        ahead, end, step = planned(observation), observation.max_steps, observation.step
        if ahead is None or not end or not BEGUN_FRAC * end <= step <= (1 - LEFT_FRAC) * end or ahead.highest <= 0:
            return
        cut = _newest_cut(observation)
        if cut is not None and _by_operator(cut.record):
            yield from self._of_command(observation, ahead, cut)
            return
        since = max((record.ack_step for record in changes(observation) if not _by_operator(record)), default=0)
        peak = max(_highest_since(observation, since), ahead.highest)
        if ahead.highest > COLLAPSED_FRAC * peak:
            return
        left = 1 - step / end
        yield self.finding(
            f"the rate is {ahead.now:.3g}, {ahead.now / peak:.1%} of its highest ({peak:.3g}), and is planned to stay "
            f"below {COLLAPSED_FRAC:.0%} of it for the {left:.0%} of the run that are left",
            metric="lr",
            step=step,
            evidence={"cause": "schedule", "lr": ahead.now, "peak": peak, "left_frac": left},
        )

    def _of_command(self, observation: Observation, ahead: PlannedLr, cut: LrCut) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if ahead.highest > CUT_FACTOR * cut.previous or trend is None or not _was_well(trend, cut.step):
            return
        if not _has_stalled(trend, cut.step):
            return
        yield self.finding(
            f"{cut.record.proposal.author.name} cut the rate from {cut.previous:.3g} to {cut.rate:.3g} at step "
            f"{cut.step} (command {cut.record.command_id}), and {trend.name} hardly falls since: {trend.level:.4g}",
            metric="lr",
            step=observation.step,
            evidence={
                "cause": "command",
                "command_id": cut.record.command_id,
                "at_step": cut.step,
                "lr": ahead.now,
                "peak": cut.previous,
            },
        )


class LrCut(NamedTuple):
    """A command that left little of the rate."""

    record: CommandRecord
    step: int
    previous: float
    rate: float


def _newest_cut(observation: Observation) -> LrCut | None:
    """The newest command that set the rate, if it left little of it."""
    for record in reversed(changes(observation)):
        for change in record.ack.changes if record.ack is not None else []:
            before, after = change.previous, change.effective
            if change.name != "lr" or not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
                continue
            is_cut = 0 < after <= CUT_FACTOR * before
            return LrCut(record, record.ack_step, float(before), float(after)) if is_cut else None
    return None


def _by_operator(record: CommandRecord) -> bool:
    return record.proposal.author.principal == "operator"


def _highest_since(observation: Observation, step: int) -> float:
    trend = Trend.of(observation, RATE_NAMES)
    return 0.0 if trend is None else max((rate for _, rate in trend.after(step)), default=0.0)


def _was_well(trend: Trend, step: int) -> bool:
    """Whether the loss was near its best when the rate was cut."""
    before = [v for s, v in zip(trend.all_steps, trend.all_values, strict=True) if s <= step]
    if len(before) < LEVEL_STEPS:
        return False
    levels = [median(before[i : i + LEVEL_STEPS]) for i in range(0, len(before) - LEVEL_STEPS + 1, LEVEL_STEPS // 4)]
    now = trend.height(median(before[-LEVEL_STEPS:]))
    return now - trend.height(min(levels)) <= max(trend.factor(CUT_TROUBLE_FACTOR), 3 * trend.noise / 4)


def _has_stalled(trend: Trend, step: int) -> bool:
    """Whether the loss has stopped falling since a cut, but for what is gained at once by less noise."""
    since = [v for s, v in zip(trend.steps, trend.values, strict=True) if s > step + CUT_SETTLE_STEPS]
    if len(since) < CUT_JUDGED_STEPS:
        return False
    newest = since[-2 * LEVEL_STEPS :]
    half = len(newest) // 2
    early, late = median(newest[:half]), median(newest[half:])
    error = MEDIAN_ERROR * trend.noise_value * math.sqrt(2 / half)
    return early - late < max(CUT_FALL_FRAC * abs(early), error)
