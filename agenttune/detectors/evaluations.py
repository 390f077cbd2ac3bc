"""What evaluations say: no progress of the goal for long, or overfitting; and whether they contradict a bad loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import mean, median, stdev

from agenttune.detectors.base import Detector
from agenttune.detectors.trend import Trend
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import HISTORY, Observation

GOAL_PLATEAU_EVALS = 6
"""Evaluations in a row within which the goal metric has not moved (asked for by users; fewer are often noise)."""
GOAL_NOISE_SIGMAS = 2.0
"""A move of less than so many standard errors is none (textbook)."""
GOAL_CLEAR_ORDER = 11
"""Of the 15 pairs of six values: in noise, five sets of a hundred rise or fall so clearly (Mann-Kendall, two-sided)."""
TRIMMED = 1.4
"""What the largest of five differences of noise adds to their spread (simulated, normal noise)."""
GOAL_FLAT_FRAC = 0.015
"""Nor is one of less than this part of all that was gained so far (as `FLAT_FRAC` of the training loss)."""
GOAL_OUTLIER = 10.0
"""Median distances from the median, beyond which an evaluation is no noise of the others (guess)."""
PERFECT_FRAC = 1e-3
"""What is so near to nothing, as a part of what it was, or to all there is, has nothing to gain (guess)."""
SHARES = ("acc", "f1", "auc", "precision", "recall", "exact_match")
"""In names of metrics that are 100 at most where they are told in percent."""
AS_GOOD_FRAC = 0.02
"""Evaluations are as good with so much of a difference (guess: the noise of one)."""
CLEARLY_BETTER_FRAC = 0.1
"""And clearly better from so much on (guess)."""
FAR_WORSE_FRAC = 0.5
"""And far worse, whatever the training loss says (guess)."""
OVERFIT_EVALS = 3
"""Evaluations in a row that are each worse than the one before (guess; two are often noise)."""
OVERFIT_RISE_FRAC = 0.02
"""Least worsening from the best evaluation, as a part of it (guess)."""


def goal_evaluations(observation: Observation) -> list[tuple[int, float]]:
    """Step and finite value of the goal metric since it means what it does now; less is better in all of them."""
    name, sign = observation.goal_metric, 1 if observation.goal_direction == "minimize" else -1
    since = observation.redefined_step(name)
    pairs = [(e.step, sign * e.metrics[name]) for e in observation.evaluations if name in e.metrics and e.step > since]
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def improvement_since(observation: Observation, step: int) -> tuple[float, float] | None:
    """The goal metric before a step and now, if it has improved since; None if it has not, or that is not known."""
    sign = 1 if observation.goal_direction == "minimize" else -1
    evals = goal_evaluations(observation)
    before, after = [v for s, v in evals if s < step], [v for s, v in evals if s >= step]
    if not before or not after or after[-1] >= before[-1]:
        return None
    return sign * before[-1], sign * after[-1]


def are_fine(observation: Observation, since_step: int, start: float) -> bool:
    """Whether evaluations say that nothing was lost: what only looks bad in the training loss is no divergence.

    The newest since the step is as good as the best before it; where there is none before, the goal stands clearly
    better than where a loss began, or than its own first value.

    Args:
        since_step: At which the training loss went up.
        start: Where the training loss began.
    """
    evals = goal_evaluations(observation)
    before, after = [v for s, v in evals if s < since_step], [v for s, v in evals if s >= since_step]
    if not after:
        return False
    if before:
        return after[-1] <= min(before) + AS_GOOD_FRAC * abs(min(before))
    is_loss = observation.goal_metric.endswith("loss")
    first = start if is_loss else after[0]
    return (is_loss or len(after) > 1) and first - after[-1] > CLEARLY_BETTER_FRAC * abs(first)


def are_worse(observation: Observation, since_step: int) -> bool:
    """Whether the newest evaluation since a step is far worse than the last one before it."""
    evals = goal_evaluations(observation)
    before, after = [v for s, v in evals if s < since_step], [v for s, v in evals if s >= since_step]
    return bool(before and after) and after[-1] - before[-1] > FAR_WORSE_FRAC * abs(before[-1])


def get_better(observation: Observation) -> bool:
    """Whether the newest evaluation is better than the first."""
    evals = goal_evaluations(observation)
    return len(evals) > 1 and evals[0][1] - evals[-1][1] > AS_GOOD_FRAC * abs(evals[0][1])


class GoalPlateau(Detector):
    """The goal metric has not moved, beyond its noise, over the last evaluations; a warning if it never did."""

    name = "goal_plateau"
    severity = "info"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        sign = 1 if observation.goal_direction == "minimize" else -1
        evals = goal_evaluations(observation)
        tail = evals[-GOAL_PLATEAU_EVALS:]
        if len(tail) < GOAL_PLATEAU_EVALS or _is_perfect(observation.goal_metric, sign, evals):
            return
        values, half = [value for _, value in tail], GOAL_PLATEAU_EVALS // 2
        moved = abs(mean(values[:half]) - mean(values[half:]))
        noise = _noise(values)
        first, best = evals[0][1], min(value for _, value in evals)
        in_order = abs(_order(values)) >= GOAL_CLEAR_ORDER
        is_beyond_noise = in_order or moved > GOAL_NOISE_SIGMAS * noise * math.sqrt(2 / half)
        if is_beyond_noise and moved > GOAL_FLAT_FRAC * (first - best):
            return
        if _has_outlier(values, first - best):
            return
        never = len(evals) > len(tail) and abs(first - median(values)) <= GOAL_NOISE_SIGMAS * noise
        is_all = len(observation.evaluations) < HISTORY
        low, high = sorted((sign * min(values), sign * max(values)))
        words = "" if not never else " and never has" if is_all else f", nor over all {len(evals)} that are known here"
        told = "has hardly moved" if is_beyond_noise else "has not moved beyond its noise"
        yield self.finding(
            severity="warning" if never else "info",
            metric=observation.goal_metric,
            step=tail[-1][0],
            summary=f"{observation.goal_metric} {told} over the last {len(tail)} evaluations"
            f"{words}: between {low:.4g} and {high:.4g} since step {tail[0][0]}",
            evidence={"evaluations": len(tail), "low": low, "high": high, "since_step": tail[0][0]},
        )


def _is_perfect(name: str, sign: int, evals: list[tuple[int, float]]) -> bool:
    """Whether nothing can be gained: a loss at nothing, or an accuracy at all there is; as shares or in percent."""
    values = [sign * value for _, value in evals]
    tail = values[-GOAL_PLATEAU_EVALS:]
    if min(values) < 0:
        return False
    if sign > 0:
        return max(tail) <= PERFECT_FRAC * max(values)
    most = 1.0 if max(values) <= 1 else 100.0
    is_share = most == 1.0 or any(word in name for word in SHARES)
    return is_share and max(values) <= most and min(tail) >= (1 - PERFECT_FRAC) * most


def _has_outlier(values: list[float], gained: float) -> bool:
    """Whether one is so far from the others, and farther than all that was gained, that it tells of an accident."""
    apart = sorted(abs(value - median(values)) for value in values)
    return apart[-1] > max(GOAL_OUTLIER * median(apart), abs(gained))


def _noise(values: list[float]) -> float:
    """Standard deviation about a level that one step may have moved: the largest difference counts for nothing.

    Of so few values, many of them equal, medians of differences would tell of no noise.
    """
    differences = sorted((b - a for a, b in pairwise(values)), key=abs)[:-1]
    return TRIMMED * stdev(differences) / math.sqrt(2)


def _order(values: list[float]) -> int:
    """Mann and Kendall's S: pairs of values that rise less those that fall."""
    return sum((b > a) - (b < a) for n, a in enumerate(values) for b in values[n + 1 :])


class Overfitting(Detector):
    """Evaluations get worse, one after the other, while the training loss still falls."""

    name = "overfitting"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        name, sign = observation.goal_metric, 1 if observation.goal_direction == "minimize" else -1
        tail = goal_evaluations(observation)[-OVERFIT_EVALS - 1 :]
        trend = Trend.of(observation)
        if trend is None or len(tail) <= OVERFIT_EVALS or any(b[1] <= a[1] for a, b in pairwise(tail)):
            return
        best, newest = tail[0][1], tail[-1][1]
        then = trend.level_at(tail[0][0])
        if newest - best < OVERFIT_RISE_FRAC * abs(best) or then is None or trend.level >= then:
            return
        yield self.finding(
            severity="warning",
            metric=name,
            step=tail[-1][0],
            summary=f"{name} went from {sign * best:.4g} to {sign * newest:.4g} over {OVERFIT_EVALS} evaluations "
            f"while {trend.name} fell to {trend.level:.4g}",
            evidence={"best": sign * best, "now": sign * newest, "train": trend.level},
        )
