"""Detectors: pure functions from an observation to findings.

All of them are scale-free: multiplying every loss by a constant changes nothing. Thresholds marked "tuned" were
chosen on recorded curves of a character GPT, convolutional networks on MNIST, a small regression with batches of
four and a digits classifier, learning rates from 1e-5 to 1, constant, linear and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

from agenttune.findings import Finding
from agenttune.observation import Observation, SeriesView
from agenttune.trend import GRAD_NAMES, LEVEL_STEPS, LOSS_NAMES, Trend, series, spread

NONFINITE_GRADS = 3
"""Gradient norms in a row: mixed precision makes a single infinite one now and then, and skips that step (known)."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of that of a mean (textbook)."""

BLOW_UP_STEPS = 8
"""Points whose median must stand far above the start (tuned)."""
BLOW_UP_FACTOR = 3.0
"""How far above the start, as a factor of a positive loss (tuned)."""
BLOW_UP_SIGMAS = 4.0
"""And in standard deviations of a single step: a lucky first batch is not a low start (tuned)."""
HUMP_FACTOR = 1.5
"""Two points in a row so far above the start: no run that is fine does this (tuned)."""
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

PLATEAU_STEPS = 80
"""Fewest points of a plateau (tuned)."""
PLATEAU_RUN_FRAC = 0.25
"""And part of the run so far (tuned)."""
PLATEAU_UNTIL_FRAC = 0.75
"""Only in this first part of a run: flat at the end is how good runs end (tuned)."""
PLATEAU_LEVEL_FRAC = 0.1
"""And only while the loss has more than this part of its start: below it is simply finished (guess)."""
FLAT_FRAC = 0.015
"""A flat half-window surely gains less than this part of all that was gained, or of a quarter of the start (tuned)."""
FLAT_SIGMAS = 2.0
"""Surely: with this many standard errors added to the gain (tuned)."""
PREMATURE_T90_FRAC = 0.25
"""Nine tenths of the gain came in this first part of the steps so far: the loss fell and then stopped (tuned)."""
PREMATURE_LEVEL_FRAC = 0.5
"""And the loss still has more than this part of where it started: it is not simply finished (tuned)."""
PREMATURE_FALL_FRAC = 0.05
"""And it did fall by at least this part of its start (tuned)."""
PREMATURE_FALL_SIGMAS = 4.0
"""And by this many standard deviations of one step: the start is a single point (tuned)."""

OVERFIT_EVALS = 3
"""Evaluations in a row that are each worse than the one before (guess; two are often noise)."""
OVERFIT_RISE_FRAC = 0.02
"""Least worsening from the best evaluation, as a part of it (guess)."""

GRAD_WINDOW = 50
"""Points before a jump of the gradient norm that say what is usual (guess)."""
GRAD_MIN_POINTS = 5
"""Fewest of them."""
GRAD_FACTOR = 100.0
"""Jump over the usual norm; in healthy runs the norm grows up to thirty times from its first value (tuned)."""
GRAD_SIGMAS = 8.0
"""And in standard deviations of its logarithm (tuned)."""

SLOW_MIN_STEPS = 50
"""Points without a change before a rate is called too low (tuned)."""
SLOW_START_FRAC = 0.5
"""Only in this first part of the run: later there is little to win (tuned)."""
SLOW_SIGMAS = 4.0
"""The fall must be this many standard errors: it is real (tuned)."""
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

Detector = Callable[[Observation], Iterator[Finding]]


def detect(observation: Observation, stall_after_s: float = 120.0) -> list[Finding]:
    """All findings of a run as it stands, most severe first.

    Args:
        observation: The run.
        stall_after_s: No step for so long is a stall, in seconds (`wake.stall_after_s`).
    """
    found = [finding for detector in DETECTORS for finding in detector(observation)]
    found += stall(observation, stall_after_s)
    order = ("critical", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def non_finite(observation: Observation) -> Iterator[Finding]:
    """The newest losses, or several newest gradient norms, are NaN or infinite."""
    for names, fewest in ((LOSS_NAMES, 1), (GRAD_NAMES, NONFINITE_GRADS)):
        view = series(observation, names)
        count = _nonfinite_tail(view) if view else 0
        if view is not None and count >= fewest:
            since = view.steps[-count]
            yield Finding(
                kind="non_finite",
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
    if len(newest) == BLOW_UP_STEPS and above > max(_log(trend, BLOW_UP_FACTOR), BLOW_UP_SIGMAS * trend.noise):
        return "blow_up", True, f"stands far above its start for {BLOW_UP_STEPS} steps"
    usual = max(trend.height(trend.start), trend.height(trend.level))
    limit = usual + max(_log(trend, HUMP_FACTOR), BLOW_UP_SIGMAS * trend.noise)
    settled = now.heights[SETTLE_STEPS if trend.changed_step else 0 :]
    if any(min(a, b) > limit for a, b in pairwise(settled)):
        return "hump", True, f"went up to {max(now.values):.4g}, far above its start"
    return None


def _log(trend: Trend, factor: float) -> float:
    """A factor of a positive loss as a difference of heights; curves that cross zero go by noise alone."""
    return math.log(factor) if trend.is_positive else 0.0


def _rise(trend: Trend) -> Cause | None:
    if len(trend) < 2 * LEVEL_STEPS:
        return None
    best, level = trend.best, trend.level
    error = MEDIAN_ERROR * trend.noise / math.sqrt(LEVEL_STEPS)
    needed = max(RISE_SIGMAS * error, _log(trend, RISE_FACTOR))
    gained = max(0.0, trend.start - best)
    if trend.height(level) - trend.height(best) <= needed or level - best <= RISE_FALL_FRAC * gained:
        return None
    return "rise", level > trend.start, f"rose from {best:.4g} to {level:.4g} and does not come back"


def _stuck(trend: Trend, now: Trend) -> Cause | None:
    newest = now.values[-STUCK_STEPS:]
    if len(newest) < STUCK_STEPS or trend.start - median(newest) > STUCK_FALL_FRAC * abs(trend.start):
        return None
    limit = trend.height(trend.start) + max(_log(trend, STUCK_SPIKE_FACTOR), STUCK_SPIKE_SIGMAS * trend.noise)
    peak = max(trend.heights)
    if peak <= limit:
        return None
    return "stuck", True, f"is stuck where it started after a spike to {max(trend.values):.4g}"


def spike(observation: Observation) -> Iterator[Finding]:
    """Two or more points in a row far above the usual noise."""
    trend = Trend.of(observation)
    if trend is None or len(trend) < SPIKE_WINDOW // 2:
        return
    for i in range(max(SPIKE_WINDOW // 2, len(trend) - SPIKE_FRESH_POINTS), len(trend) - 1):
        before = trend.heights[max(0, i - SPIKE_WINDOW) : i]
        usual = median(before)
        limit = usual + max(SPIKE_SIGMAS * spread(before), _log(trend, SPIKE_FACTOR))
        level = median(trend.values[max(0, i - SPIKE_WINDOW) : i])
        low = min(trend.values[i], trend.values[i + 1])
        if trend.height(low) > limit and low - level > SPIKE_FALL_FRAC * abs(trend.start - level):
            top = max(trend.values[i:])
            yield Finding(
                kind="spike",
                severity="warning",
                metric=trend.name,
                step=trend.steps[i],
                summary=f"{trend.name} jumped from about {level:.4g} to {top:.4g} at step {trend.steps[i]}",
                evidence={"usual": level, "top": top},
            )
            return


def plateau(observation: Observation) -> Iterator[Finding]:
    """The loss has stopped falling; a warning if it fell early and stopped while still high."""
    trend = Trend.of(observation)
    if trend is None or _is_late(observation, PLATEAU_UNTIL_FRAC) or _is_warming_up(observation, PLATEAU_STEPS):
        return
    points = max(PLATEAU_STEPS, min(len(trend), int(PLATEAU_RUN_FRAC * len(trend.all_values))))
    newest, half = trend.since_change.values[-points:], points // 2
    if len(newest) < points:
        return
    gain = median(newest[:half]) - median(newest[half:])
    if not _is_flat(trend, gain, half):
        return
    premature = _is_premature(trend)
    words = "fell early and has stopped while still high" if premature else "is flat"
    yield Finding(
        kind="plateau",
        severity="warning" if premature else "info",
        metric=trend.name,
        step=trend.steps[-1],
        summary=f"{trend.name} {words}: {gain:.3g} gained in {half} steps, now {trend.level:.4g}",
        evidence={"gain": gain, "steps": half, "level": trend.level, "start": trend.start},
    )


def _is_late(observation: Observation, frac: float) -> bool:
    return observation.max_steps is not None and observation.step > frac * observation.max_steps


def _is_flat(trend: Trend, gain: float, half: int) -> bool:
    error = MEDIAN_ERROR * trend.noise_value / math.sqrt(half)
    limit = FLAT_FRAC * max(trend.fall(), abs(trend.start) / 4)
    finished = trend.is_positive and trend.level < PLATEAU_LEVEL_FRAC * trend.start
    return not finished and gain + FLAT_SIGMAS * error < limit


def _is_premature(trend: Trend) -> bool:
    fall = trend.fall()
    if fall < PREMATURE_FALL_FRAC * abs(trend.start) or trend.level < PREMATURE_LEVEL_FRAC * trend.start:
        return False
    if trend.height(trend.start) - trend.height(trend.level) < PREMATURE_FALL_SIGMAS * trend.noise:
        return False
    return t90_steps(trend) < PREMATURE_T90_FRAC * (trend.all_steps[-1] - trend.all_steps[0])


def t90_steps(trend: Trend) -> int:
    """Steps until nine tenths of the whole fall were reached for good (three points in a row)."""
    goal = trend.start - 0.9 * trend.fall()
    values, steps = trend.all_values, trend.all_steps
    reached = (i for i in range(len(values) - 2) if median(values[i : i + 3]) <= goal)
    return steps[next(reached, len(values) - 1)] - steps[0]


def overfitting(observation: Observation) -> Iterator[Finding]:
    """Evaluations get worse, one after the other, while the training loss still falls."""
    name, sign = observation.goal_metric, 1 if observation.goal_direction == "minimize" else -1
    pairs = [(e.step, sign * e.metrics[name]) for e in observation.evaluations if name in e.metrics]
    evals = [(step, value) for step, value in pairs if math.isfinite(value)]
    tail = evals[-OVERFIT_EVALS - 1 :]
    trend = Trend.of(observation)
    if trend is None or len(tail) <= OVERFIT_EVALS or any(b[1] <= a[1] for a, b in pairwise(tail)):
        return
    best, newest = tail[0][1], tail[-1][1]
    before = [v for s, v in zip(trend.all_steps, trend.all_values, strict=True) if s <= tail[0][0]][-LEVEL_STEPS:]
    if newest - best < OVERFIT_RISE_FRAC * abs(best) or not before or trend.level >= median(before):
        return
    yield Finding(
        kind="overfitting",
        severity="warning",
        metric=name,
        step=tail[-1][0],
        summary=f"{name} went from {sign * best:.4g} to {sign * newest:.4g} over {OVERFIT_EVALS} evaluations "
        f"while {trend.name} fell to {trend.level:.4g}",
        evidence={"best": sign * best, "now": sign * newest, "train": trend.level},
    )


def gradient_explosion(observation: Observation) -> Iterator[Finding]:
    """The gradient norm jumps by orders of magnitude."""
    trend = Trend.of(observation, GRAD_NAMES)
    if trend is None or len(trend) <= GRAD_MIN_POINTS or not trend.is_positive:
        return
    for i in range(max(GRAD_MIN_POINTS, len(trend) - SPIKE_FRESH_POINTS), len(trend)):
        before = trend.heights[max(0, i - GRAD_WINDOW) : i]
        usual = median(before)
        if trend.heights[i] - usual > max(math.log(GRAD_FACTOR), GRAD_SIGMAS * spread(before)):
            yield Finding(
                kind="gradient_explosion",
                severity="warning",
                metric=trend.name,
                step=trend.steps[i],
                summary=f"{trend.name} jumped from about {math.exp(usual):.3g} to {trend.values[i]:.3g}",
                evidence={"usual": math.exp(usual), "norm": trend.values[i]},
            )
            return


def slow_start(observation: Observation) -> Iterator[Finding]:
    """The loss falls steadily, nearly without noise, and far too slowly for the steps that are left."""
    trend = Trend.of(observation)
    if trend is None or observation.max_steps is None or _is_warming_up(observation, SLOW_MIN_STEPS):
        return
    now, left = trend.since_change, observation.max_steps - observation.step
    if len(now) < SLOW_MIN_STEPS or observation.step > SLOW_START_FRAC * observation.max_steps:
        return
    third = len(now) // 3
    first, middle, last = (median(now.values[i : i + third]) for i in (0, third, len(now) - third))
    slope = (first - last) / (now.steps[-1] - now.steps[0]) * 1.5
    error = MEDIAN_ERROR * now.noise_value / math.sqrt(third)
    expected = trend.start - last + slope * left
    bend = (middle - last) / (first - middle) if first > middle else math.inf
    is_real = first - last > SLOW_SIGMAS * error and SLOW_BEND[0] < bend < SLOW_BEND[1]
    steady = slope * SLOW_STEADY_STEPS / now.noise_value if now.noise_value > 0 else math.inf
    if not is_real or not any(steady > s and expected < part * abs(trend.start) for s, part in SLOW_PACES):
        return
    yield Finding(
        kind="slow_start",
        severity="warning",
        metric=trend.name,
        step=trend.steps[-1],
        summary=f"{trend.name} falls steadily but by only {slope:.2g} a step; at this pace it would end near "
        f"{trend.start - expected:.4g} (start {trend.start:.4g})",
        evidence={"slope_per_step": -slope, "expected_end": trend.start - expected, "start": trend.start},
    )


def _is_warming_up(observation: Observation, points: int) -> bool:
    """The schedule itself is raising the rate."""
    view = series(observation, ("lr", "learning_rate"))
    trend = Trend.of(observation, ("lr", "learning_rate")) if view else None
    if trend is None:
        return False
    rates = trend.since_change.values[-points:]
    return rates[-1] > WARM_UP_FACTOR * rates[0]


def stall(observation: Observation, stall_after_s: float) -> Iterator[Finding]:
    """A running trainer has made no step for too long."""
    if observation.status != "running" or observation.last_step_at_s is None:
        return
    idle_s = observation.at_s - observation.last_step_at_s
    if idle_s > stall_after_s:
        yield Finding(
            kind="stall",
            severity="warning",
            metric="step",
            step=observation.step,
            summary=f"no step for {idle_s:.0f} s (limit {stall_after_s:g} s)",
            evidence={"idle_s": idle_s},
        )


DETECTORS: tuple[Detector, ...] = (
    non_finite,
    divergence,
    gradient_explosion,
    spike,
    plateau,
    overfitting,
    slow_start,
)
"""All detectors that need nothing but the observation."""
