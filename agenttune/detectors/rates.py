"""Whether the rate is of the right size, by how the weights move: their way, and their updates as parts of them.

Measured on eight tasks (AdamW and SGD, from scratch, development seeds): in the first twenty steps the updates of a
good rate are 0.01 to 0.24 of the weights a step, of a tenth of it 0.0007 to 0.035, of a hundredth 7e-5 to 0.003, of ten
times 0.05 to 1.4, of thirty times 0.2 to 4. At an eighth of the run a good rate has lost a tenth of its starting loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from agenttune.detectors.base import Detector
from agenttune.detectors.chance import was_trained_before
from agenttune.detectors.evaluations import goal_evaluations
from agenttune.detectors.progress import SLOW_START_FRAC
from agenttune.detectors.schedules import is_rising, lost_to_warm_up
from agenttune.detectors.trend import Trend
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.weight_looks import WeightLook

LOW_RUN_FRAC = 0.12
"""Part of the run that is done before a rate is called too low (tuned); a warm-up counts by its rates."""
LOW_STEPS = 20
"""Steps of the stretch that is looked at, at least (tuned)."""
LOW_STRETCH_FRAC = 0.05
"""And part of the run."""
KEPT_FRACS = (0.85, 1.03)
"""The loss has kept so much of its start: more, and the first loss was low by chance (tuned)."""
STRAIGHT = 0.55
"""Steps go the same way (measured: at a tenth and a seventh of the run)."""
SMALL_UPDATES = 0.05
"""With larger ones early on no rate is too low, whatever their way: broken networks go straight too (measured)."""
TINY_UPDATES, KEPT_AT_TINY = 0.002, 0.97
"""With updates so small their way does not matter (measured), where the loss has kept so much."""
KEPT_OF_TRAINED = 0.99
"""Weights that were trained before move little and gain little where all is well, so that the loss must have kept so
much of its start (guess)."""
NOISY = 0.5
"""Standard deviation of one step's loss, as a logarithm, from which on evaluations tell what it has kept (guess: of
classifiers it is 0.05 to 0.3, of regressions in batches of two to four with heavy tails 0.8 to 1.2, measured)."""
PACE_STEPS, PACE_FRAC = 24, 0.8
"""Newest steps whose pace tells whether so much of the start will be lost by the end (tuned)."""
LARGE_UPDATES = 0.4
"""Updates so large, early on, take the weights away (measured; at a good rate at most 0.24)."""
FROM_NOTHING = 500.0
"""Larger ones are of weights that began at next to nothing, and say nothing (at most 140 at a hundred times the good
rate, measured)."""
FRESH_STEPS = 40
"""Steps of the stretch for which they are told of; later only where the loss has kept its start (guess)."""
STILL_FALLS = (0.9, 0.9)
"""But for a way so straight with a loss below that part of its start: it leads somewhere (guess)."""


class LowRate(Detector):
    """The rate is too low: the loss has kept its start, and small steps all go the same way."""

    name = "low_rate"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend, look, end = Trend.of(observation), _newest_look(observation), observation.max_steps
        if trend is None or look is None or not end or trend.redefined_step or not trend.is_positive:
            return
        step = observation.step
        if step - lost_to_warm_up(observation) < LOW_RUN_FRAC * end or step > SLOW_START_FRAC * end:
            return
        if look.step - look.since_step < max(LOW_STEPS, LOW_STRETCH_FRAC * end):
            return
        told = _of_evaluations(observation) if trend.noise > NOISY else _of_trend(trend)
        least = KEPT_OF_TRAINED if was_trained_before(observation) else KEPT_FRACS[0]
        if told is None or not least <= told.kept <= KEPT_FRACS[1]:
            return
        if -told.slope * (end - step) > PACE_FRAC * told.start:  # it has only just begun to fall
            return
        if not look.early_update_ratio < SMALL_UPDATES:
            return
        is_tiny = look.early_update_ratio < TINY_UPDATES and told.kept >= KEPT_AT_TINY
        if not (is_tiny or look.straightness > STRAIGHT) or is_rising(observation):
            return
        yield self.finding(
            f"the rate is too low: {told.name} has kept {told.kept:.0%} of its start ({told.start:.4g}) at step "
            f"{step} of {end}, while updates are {look.update_ratio:.2g} of the weights a step and the two halves of "
            f"their way have a cosine of {look.straightness:.2f}",
            metric=told.name,
            step=step,
            evidence={
                "kept_frac": told.kept,
                "straightness": look.straightness,
                "update_ratio": look.update_ratio,
                "early_update_ratio": look.early_update_ratio,
            },
        )


class _Kept(NamedTuple):
    """A loss and how much it has kept of its start.

    Attributes:
        slope: A step, lately.
    """

    name: str
    start: float
    kept: float
    slope: float


def _of_trend(trend: Trend) -> _Kept:
    return _Kept(trend.name, trend.start, trend.level / trend.start, trend.slope(PACE_STEPS))


def _of_evaluations(observation: Observation) -> _Kept | None:
    """By evaluations, as the training loss is all noise, its first point most of all; None where they tell nothing."""
    evals = goal_evaluations(observation)
    if len(evals) < 2 or not observation.goal_metric.endswith("loss") or not evals[0][1] > 0:
        return None
    (_, start), (before, was), (last, now) = evals[0], evals[-2], evals[-1]
    if last < observation.step / 2:
        return None
    return _Kept(observation.goal_metric, start, now / start, (now - was) / (last - before))


class HighRate(Detector):
    """The rate is too high: the first updates since the start, or since the newest change, take the weights away."""

    name = "high_rate"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend, look = Trend.of(observation), _newest_look(observation)
        if trend is None or look is None or not LARGE_UPDATES <= look.early_update_ratio <= FROM_NOTHING:
            return
        straight, kept = STILL_FALLS
        has_fallen = trend.height(trend.level) < trend.height(trend.start) + trend.factor(kept)
        if has_fallen and (look.straightness > straight or look.step - look.since_step > FRESH_STEPS):
            return
        since = "the start" if look.since_step <= 1 else f"the change before step {look.since_step}"
        yield self.finding(
            f"the rate is too high: in the first steps since {since} updates were up to {look.early_update_ratio:.2g} "
            f"of the weights a step (usual: 0.01 to 0.25); {trend.name} is {trend.level:.4g} (start {trend.start:.4g})",
            metric=trend.name,
            step=look.step,
            evidence={
                "early_update_ratio": look.early_update_ratio,
                "update_ratio": look.update_ratio,
                "since_step": look.since_step,
                "level": trend.level,
            },
        )


def _newest_look(observation: Observation) -> WeightLook | None:
    """The newest look whose updates were measured."""
    known = (look for look in reversed(observation.weights) if not math.isnan(look.early_update_ratio))
    return next(known, None) if observation.weights else None
