"""Things that go wrong at once: non-finite numbers, spikes, exploding gradients, a standstill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Literal

from agenttune.detectors.base import Detector
from agenttune.detectors.evaluations import improvement_since
from agenttune.detectors.trend import (
    GRAD_NAMES,
    LEVEL_STEPS,
    LOSS_NAMES,
    MEDIAN_ERROR,
    Trend,
    medians_before,
    series,
    spread,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation, SeriesView

NONFINITE_GRADS = 3
"""Gradient norms in a row: mixed precision makes a single infinite one now and then, and skips that step (known)."""
SPIKE_WINDOW = 50
"""Points before a spike that say what is usual (guess)."""
SPIKE_SIGMAS = 8.0
"""Two points in a row so far above the usual level (tuned)."""
SPIKE_FACTOR = 1.3
"""And as a factor of a positive loss (tuned)."""
SPIKE_FALL_FRAC = 0.1
"""And as a part of all that had been gained: near zero, factors mean little (tuned)."""
SPIKE_FRESH_POINTS = 10
"""Only spikes among so many newest points are reported (guess)."""
SPIKE_TOLD_POINTS = 48
"""One that healed is told of for so many points (guess)."""
SPIKE_HEALED_POINTS = 8
"""Points after the last high one, back at the level of before, after which a spike has healed (guess)."""
GRAD_WINDOW = 50
"""Points before a jump of the gradient norm that say what is usual (guess)."""
GRAD_MIN_POINTS = 5
"""Fewest of them."""
GRAD_FACTOR = 100.0
"""Jump over the usual norm; in healthy runs the norm grows up to thirty times from its first value (tuned)."""
GRAD_SIGMAS = 8.0
"""And in standard deviations of its logarithm (tuned)."""


class NonFinite(Detector):
    """The newest losses, or several newest gradient norms, are NaN or infinite."""

    name = "non_finite"
    severity = "critical"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        for names, fewest in ((LOSS_NAMES, 1), (GRAD_NAMES, NONFINITE_GRADS)):
            view = series(observation, names)
            count = _nonfinite_tail(view) if view else 0
            if view is not None and count >= fewest:
                since = view.steps[-count]
                yield self.finding(
                    severity="critical",
                    metric=view.name,
                    step=view.steps[-1],
                    summary=f"{view.name} is {view.values[-1]:g} since step {since} ({count} steps in a row)",
                    evidence={"count": count, "since_step": since},
                )
                return


def _nonfinite_tail(view: SeriesView) -> int:
    finite = (i for i, value in enumerate(reversed(view.values)) if math.isfinite(value))
    return next(finite, len(view.values))


class Spike(Detector):
    """Two or more points in a row far above the usual noise: fresh, or healed by itself, or of bad batches only."""

    name = "spike"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation)
        if trend is None:
            return
        heights, factor = trend.heights, trend.factor(SPIKE_FACTOR)
        first, end = max(SPIKE_WINDOW // 2, len(trend) - SPIKE_TOLD_POINTS), len(trend) - 1
        for i, usual in enumerate(medians_before(heights, SPIKE_WINDOW, first, end), first):
            low = min(trend.values[i], trend.values[i + 1])
            if trend.height(low) <= usual + factor:  # nearly always; the spread takes longer
                continue
            limit = usual + max(SPIKE_SIGMAS * spread(heights[max(0, i - SPIKE_WINDOW) : i]), factor)
            level = median(trend.values[max(0, i - SPIKE_WINDOW) : i])
            if trend.height(low) <= limit or low - level <= SPIKE_FALL_FRAC * abs(trend.start - level):
                continue
            top, high = max(trend.values[i:]), [j for j in range(i, len(trend)) if heights[j] > limit]
            named = _name_spike(observation, trend, high, level, i)
            if named is not None:
                cause, severity, words = named
                yield self.finding(
                    severity=severity,
                    metric=trend.name,
                    step=trend.steps[i],
                    summary=f"{trend.name} jumped from about {level:.4g} to {top:.4g} at step {trend.steps[i]}{words}",
                    evidence={"cause": cause, "usual": level, "top": top, "steps": len(high)},
                )
            return


def _name_spike(
    observation: Observation, trend: Trend, high: list[int], level: float, first: int
) -> tuple[str, Literal["info", "warning"], str] | None:
    """What became of it, how bad that is, and in words; None for one that is old and did not heal: a divergence."""
    after = trend.values[high[-1] + 1 :]
    improved = improvement_since(observation, trend.steps[high[-1]])
    if len(after) >= SPIKE_HEALED_POINTS:
        now = median(after[-LEVEL_STEPS:])
        error = MEDIAN_ERROR * trend.noise / math.sqrt(min(len(after), LEVEL_STEPS))
        if trend.height(now) <= trend.height(level) + 2 * error:
            return "healed", "info", f" and healed by itself: {now:.4g} now"
    if after and improved is not None:
        was, is_now = improved
        name = observation.goal_metric
        words = f", {len(high)} bad batches: {name} has improved since, {was:.4g} -> {is_now:.4g}"
        return "bad_batches", "info", words
    if first < len(trend) - SPIKE_FRESH_POINTS:
        return None
    return "fresh", "warning", "; whether it stays there is not seen yet"


class GradientExplosion(Detector):
    """The gradient norm jumps by orders of magnitude."""

    name = "gradient_explosion"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        trend = Trend.of(observation, GRAD_NAMES)
        if trend is None or len(trend) <= GRAD_MIN_POINTS or not trend.is_positive:
            return
        heights, first = trend.heights, max(GRAD_MIN_POINTS, len(trend) - SPIKE_FRESH_POINTS)
        for i, usual in enumerate(medians_before(heights, GRAD_WINDOW, first, len(trend)), first):
            jump = heights[i] - usual
            if jump > math.log(GRAD_FACTOR) and jump > GRAD_SIGMAS * spread(heights[max(0, i - GRAD_WINDOW) : i]):
                yield self.finding(
                    severity="warning",
                    metric=trend.name,
                    step=trend.steps[i],
                    summary=f"{trend.name} jumped from about {math.exp(usual):.3g} to {trend.values[i]:.3g}",
                    evidence={"usual": math.exp(usual), "norm": trend.values[i]},
                )
                return


class Stall(Detector):
    """A running trainer has made no step for too long."""

    name = "stall"

    def __init__(self, after_s: float = 120.0) -> None:
        self._after_s = after_s

    def detect(self, observation: Observation) -> Iterator[Finding]:
        if observation.status != "running" or observation.last_step_at_s is None:
            return
        idle_s = observation.at_s - observation.last_step_at_s
        if idle_s > self._after_s:
            yield self.finding(
                severity="warning",
                metric="step",
                step=observation.step,
                summary=f"no step for {idle_s:.0f} s (limit {self._after_s:g} s)",
                evidence={"idle_s": idle_s},
            )
