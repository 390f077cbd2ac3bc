"""What a change is judged by: the training loss of each step, and a metric of evaluations.

A monitor follows one change by one metric. It has no assessment while its window is open; in the end it says whether
the change did harm, did none, or cannot be judged.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal, Protocol

from agenttune.config import ProbationSettings
from agenttune.detectors.forecast import Comparison, compare
from agenttune.protocol.goal_names import resolve
from agenttune.trainer.probation.loss_history import LossHistory

METRIC = "step_loss"
FEWEST_STEPS = 8
"""With fewer losses before or after a change it is not judged (guess)."""
FEWEST_EVALUATIONS = 5
"""With fewer evaluations before a change it is not judged: with 4, 15 standard errors happen by chance (textbook)."""
EVALUATIONS_KEPT = 64
RECENT_EVALUATIONS = 16
"""Evaluations before a change from which the metric is forecast (guess)."""
OVERDUE = 3.0
"""Evaluations are awaited for so many times their usual interval (guess)."""
BEFORE_STEPS = 64
"""At least so many steps before a change are compared (guess: enough for the noise, few enough to be recent)."""
FURTHER = 2
"""A curve known for n steps is extrapolated by at most so many times n (guess)."""
AGAIN = 1.5
"""A change that may have stalled the run is assessed again after so many times as many steps (guess)."""
LATER = 3
"""A change that passed is looked at once more after so many windows: some harm is slow (guess)."""
EARLY_FRAC = 0.25
"""After this part of the window a change that hurts badly is reverted without waiting for the rest."""
EARLY_TIMES = 4.0
"""A change hurts badly if the rise is so many times the tolerated error (guess),"""
EARLY_RISE_FRAC = 0.5
"""and at least this part of the loss."""


@dataclass(frozen=True)
class Assessment:
    """What a monitor found about a change.

    Attributes:
        outcome: `inconclusive`: noise could hide a stall, even at the end of the longest window.
        said: In words.
        metric: By which it was judged.
        comparison: Of before and after, where there was enough of both.
        sign: -1 where more is better: `comparison` is of negated values.
    """

    outcome: Literal["worse", "fine", "inconclusive", "not judged"]
    said: str
    metric: str
    comparison: Comparison | None = None
    sign: int = 1


class Monitor(Protocol):
    """Follows one change by one metric."""

    @property
    def metric(self) -> str: ...

    @property
    def next_step(self) -> int:
        """The step of the next assessment."""

    def passed(self) -> bool:
        """Whether the change's own window has ended without harm."""

    def assess(self, now: int, until: int, is_over: bool) -> Assessment | None:
        """Compare the run after the change with before.

        Args:
            now: Steps completed.
            until: The last step that counts for this change.
            is_over: No step after `until` will ever count.

        Returns:
            None while the window is open.
        """


class StepMonitor:
    """The training loss of each step.

    At the end of the window the loss is compared with its forecast. A loss that is not worse is fine if a stalled run
    would have looked worse, or if it has fallen about as forecast. Otherwise noise may hide a stall: it is compared
    again after more steps, with as many before the change, until that is clear or `stall_steps` have passed.

    Args:
        loss_history: The losses.
        settings: How long, and what counts as harm.
        start: The step at which the change took effect.
    """

    def __init__(self, loss_history: LossHistory, settings: ProbationSettings, start: int) -> None:
        self._loss_history, self._settings, self._start = loss_history, settings, start
        self._known = loss_history.count(start)
        self._longest = max(settings.steps, min(settings.longest_steps, FURTHER * self._known))
        self._due = self._early = max(2 * FEWEST_STEPS, round(EARLY_FRAC * settings.steps))
        self._due = min(self._due, settings.steps)

    @property
    def metric(self) -> str:
        return METRIC

    @property
    def next_step(self) -> int:
        return self._start + self._due

    def passed(self) -> bool:
        return self._due > self._settings.steps

    def assess(self, now: int, until: int, is_over: bool) -> Assessment | None:
        count, window = until - self._start, self._settings.steps
        if is_over and count < window:
            return Assessment("not judged", f"nothing tells of it after {count} of {window} steps", METRIC)
        if count < self._due and not is_over:
            return None
        comparison = self._compare(until)
        if count < window:
            self._due += max(1, self._early // 4)
            self._due = min(self._due, window)
            return self._badly(comparison, count)
        if comparison is None:
            after = len(self._loss_history.between(self._start, until))
            return Assessment("not judged", f"too few finite losses to compare ({self._known}, {after})", METRIC)
        return self._verdict(comparison, count, is_over)

    def _compare(self, until: int) -> Comparison | None:
        after = self._loss_history.between(self._start, until)
        count = max(BEFORE_STEPS, len(after))
        before = self._loss_history.until(self._start, count)
        finite = [sum(map(math.isfinite, side)) for side in (before, after)]
        if min(finite) < min(FEWEST_STEPS, self._settings.steps):
            return None
        return compare(before, after, self._loss_history.lowest(self._start, count, count // 4))

    def _badly(self, comparison: Comparison | None, count: int) -> Assessment | None:
        rise = max(EARLY_RISE_FRAC, self._settings.min_rise_frac)
        if comparison is None or not comparison.is_worse(self._settings.tolerance, rise, EARLY_TIMES):
            return None
        said = f"{_said('the loss', comparison)}, so badly that the window was cut short after {count} steps"
        return Assessment("worse", said, METRIC, comparison)

    def _verdict(self, comparison: Comparison, count: int, is_over: bool) -> Assessment | None:
        limits = self._settings.tolerance, self._settings.min_rise_frac
        said = f"{_said('the loss', comparison)} within {count} steps"
        if comparison.is_worse(*limits):
            stalls = comparison.above(comparison.found, comparison.level) <= comparison.error
            return Assessment("worse", f"{said}: {'it stalls' if stalls else 'it rose'}", METRIC, comparison)
        if comparison.shows_a_stall(*limits) or comparison.keeps_up(*limits):
            later = min(LATER * self._settings.steps, self._longest)
            if count < later and not is_over:  # what hurts slowly does not show yet
                self._due = later
                return None
            return Assessment("fine", said, METRIC, comparison)
        if is_over or count >= self._longest:
            said, wanted = f"{said}; a stall would not show in this noise", self._settings.longest_steps
            if is_over or wanted == self._settings.steps:
                return Assessment("fine", said, METRIC, comparison)
            if count < wanted:
                said = f"{said}, and too little is known of the run before it to look longer"
                return Assessment("fine", said, METRIC, comparison)
            return Assessment("inconclusive", said, METRIC, comparison)
        self._due = min(max(round(AGAIN * count), count + 1), self._longest)
        return None


class NoMonitor:
    """Stands for a metric that the change itself has redefined, so that before and after cannot be compared.

    It stays open for the window all the same, as a loss that is not finite shows harm under any definition.

    Args:
        metric: Its name.
        what: The change, in words.
        start: The step at which it took effect.
        steps: The window.
    """

    def __init__(self, metric: str, what: str, start: int, steps: int) -> None:
        self.metric, self._what, self._end = metric, what, start + steps

    @property
    def next_step(self) -> int:
        return self._end

    def passed(self) -> bool:
        return False

    def assess(self, now: int, until: int, is_over: bool) -> Assessment | None:
        if now < self._end and not is_over:
            return None
        name = "the training loss" if self.metric == METRIC else self.metric
        said = f"{self._what} gave {name} another meaning, so that it cannot be compared with what it was"
        return Assessment("not judged", said, self.metric)


class Evaluations:
    """The values of one metric, evaluation by evaluation, without those of steps that a restore has undone.

    Args:
        metric: Its name.
        maximize: Whether more is better; the values are then kept negated.
    """

    def __init__(self, metric: str, maximize: bool) -> None:
        self.metric, self.sign = metric, -1 if maximize else 1
        self.other_names: set[str] = set()
        self._points: deque[tuple[int, float]] = deque(maxlen=EVALUATIONS_KEPT)
        self._redefined: list[int] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of an evaluation."""
        found = resolve(self.metric, values)
        if found is None:
            self.other_names.update(values)
            return
        self.metric = found
        self.cut(step - 1)  # evaluated twice at one step: the newest counts
        self._points.append((step, self.sign * float(values[self.metric])))

    def cut(self, step: int) -> None:
        """Forget the evaluations after a step."""
        while self._points and self._points[-1][0] > step:
            self._points.pop()
        self._redefined = [redefined for redefined in self._redefined if redefined <= step]

    def redefine(self, step: int) -> None:
        """The metric has another definition after a step; earlier values cannot be compared with later ones."""
        self._redefined.append(step)

    def until(self, step: int) -> list[tuple[int, float]]:
        """Steps and values of the evaluations up to a step, under the definition then in force."""
        return self.between(max((r for r in self._redefined if r <= step), default=-1), step)

    def between(self, step: int, last: float = math.inf) -> list[tuple[int, float]]:
        """Steps and values after one step up to another."""
        return [point for point in self._points if step < point[0] <= last]


class EvaluationMonitor:
    """A metric of the evaluations that follow a change; with so few values the tolerance is wider accordingly.

    Args:
        evaluations: All of them.
        settings: How many are awaited, and what counts as harm.
        start: The step at which the change took effect.
        jumped: The last step before the training loss jumped for good; evaluations up to it say nothing of now.
    """

    def __init__(self, evaluations: Evaluations, settings: ProbationSettings, start: int, jumped: int = -1) -> None:
        self._all, self._settings, self._start = evaluations, settings, start
        self._before = [point for point in evaluations.until(start) if point[0] > jumped][-RECENT_EVALUATIONS:]
        self._next = start

    @property
    def metric(self) -> str:
        return self._all.metric

    @property
    def next_step(self) -> int:
        return self._next

    def passed(self) -> bool:
        return False

    def assess(self, now: int, until: int, is_over: bool) -> Assessment | None:
        self._next = now + 1
        wanted, metric = self._settings.evaluations, self._all.metric
        finite = [value for _, value in self._before if math.isfinite(value)]
        if len(finite) < FEWEST_EVALUATIONS:
            return self._cannot(f"{len(finite)} evaluations of {metric} before it, {FEWEST_EVALUATIONS} are needed")
        after = [value for _, value in self._all.between(self._start, until)]
        if not all(map(math.isfinite, after)):
            return Assessment("worse", f"{metric} is not finite", metric, sign=self._all.sign)
        if len(after) >= wanted:
            return self._verdict(compare(finite, after[:wanted]), wanted)
        gap = median(b - a for (a, _), (b, _) in pairwise(self._before))
        if is_over or now - self._start > OVERDUE * wanted * gap:
            return self._cannot(
                f"{len(after)} of {wanted} evaluations of {metric} came within {until - self._start} steps"
            )
        return None

    def _cannot(self, why: str) -> Assessment:
        others = ", ".join(sorted(self._all.other_names))
        seen = f"; evaluations have {others}" if others and not self._before else ""
        return Assessment("not judged", f"{why}{seen}", self._all.metric, sign=self._all.sign)

    def _verdict(self, comparison: Comparison | None, count: int) -> Assessment:
        if comparison is None:
            raise AssertionError("enough finite values on both sides")
        metric, sign = self._all.metric, self._all.sign
        is_worse = comparison.is_worse(self._settings.tolerance, self._settings.min_rise_frac)
        said = f"{_said(metric, comparison, sign)} within {count} evaluations"
        return Assessment("worse" if is_worse else "fine", said, metric, comparison, sign)


def _said(metric: str, comparison: Comparison, sign: int = 1) -> str:
    return (
        f"{metric} was going to {sign * comparison.forecast:.4g} and came to {sign * comparison.found:.4g} "
        f"(standard error {comparison.noise:.2g})"
    )
