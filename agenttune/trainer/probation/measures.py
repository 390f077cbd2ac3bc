"""What a change is judged by: the loss of each step, and the values of evaluations.

A watch looks at one change by one of them. It says nothing while it is open, and in the end that the change did harm,
that it did none, or that it could not be judged.
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
"""Losses on each side of a change below which nothing is said (guess)."""
FEWEST_EVALUATIONS = 5
"""Evaluations before a change below which nothing is said: with 4, chance alone takes 15 standard errors (textbook)."""
EVALUATIONS_KEPT = 64
RECENT_EVALUATIONS = 16
"""Evaluations before a change that say where the metric was going (guess)."""
OVERDUE = 3.0
"""How many times the usual time for as many evaluations is waited (guess)."""
BEFORE_STEPS = 64
"""Steps before a change that are looked at, at least (guess: enough for the noise, few enough to be of now)."""
FURTHER = 2
"""A curve is carried on no further than so many times as far as it is known (guess)."""
AGAIN = 1.5
"""How many times more steps are awaited before the next look at a change that may have stalled the run (guess)."""
EARLY_FRAC = 0.25
"""Part of the window after which a change that hurts badly is not watched to the end."""
EARLY_TIMES = 4.0
"""How many times the errors tolerated "badly" is (guess)."""
EARLY_RISE_FRAC = 0.5
"""And by which part of the loss at least."""


@dataclass(frozen=True)
class Assessment:
    """What was seen of a change.

    Attributes:
        outcome: Whether it came out worse, or not, or might have stalled for all that can be seen, or cannot be judged.
        said: In words.
        metric: By which it was judged.
        sign: -1 where more is better: `comparison` is of negated values.
    """

    outcome: Literal["worse", "fine", "in doubt", "not judged"]
    said: str
    metric: str
    comparison: Comparison | None = None
    sign: int = 1


class Monitor(Protocol):
    """One change under one measure."""

    @property
    def metric(self) -> str: ...

    @property
    def next_step(self) -> int:
        """The step at which there is something to look at again."""
        ...

    def passed(self) -> bool:
        """Whether its own window went by without harm."""
        ...

    def look(self, now: int, until: int, is_over: bool) -> Assessment | None:
        """See how the run does after the change.

        Args:
            now: Steps completed.
            until: The last step that tells of this change.
            is_over: Nothing after `until` will ever tell of it.

        Returns:
            None while it cannot be said.
        """
        ...


class StepMonitor:
    """The training loss of each step.

    At the end of the window the loss is compared with its forecast. Not worse is enough if a run that stands still
    would have been, or if the loss has fallen about as was likely. Otherwise noise may hide a stall, and the same is
    asked again after more steps, with as many before the change, until it can be told or `stall_steps` have passed.

    Args:
        loss_history: The losses.
        settings: How long, and what counts as hurt.
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

    def look(self, now: int, until: int, is_over: bool) -> Assessment | None:
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
            return Assessment("fine", said, METRIC, comparison)
        if is_over or count >= self._longest:
            said, wanted = f"{said}; a stall would not show in this noise", self._settings.longest_steps
            if is_over or wanted == self._settings.steps:
                return Assessment("fine", said, METRIC, comparison)
            if count < wanted:
                said = f"{said}, and too little is known of the run before it to look longer"
                return Assessment("fine", said, METRIC, comparison)
            return Assessment("in doubt", said, METRIC, comparison)
        self._due = min(max(round(AGAIN * count), count + 1), self._longest)
        return None


class NoMonitor:
    """A metric to which the change itself gave another meaning: what it was says nothing of what it is.

    It stays open for the window, for a loss that is not finite tells of harm in any meaning.

    Args:
        metric: That cannot judge.
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

    def look(self, now: int, until: int, is_over: bool) -> Assessment | None:
        if now < self._end and not is_over:
            return None
        name = "the training loss" if self.metric == METRIC else self.metric
        said = f"{self._what} gave {name} another meaning, so that it cannot be compared with what it was"
        return Assessment("not judged", said, self.metric)


class Evaluations:
    """The values of one metric, evaluation by evaluation, on the steps that the run stands on.

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
        """After a step the metric means something else; values up to it say nothing of later ones."""
        self._redefined.append(step)

    def until(self, step: int) -> list[tuple[int, float]]:
        """Steps and values up to a step of the evaluations that mean the same."""
        return self.between(max((r for r in self._redefined if r <= step), default=-1), step)

    def between(self, step: int, last: float = math.inf) -> list[tuple[int, float]]:
        """Steps and values after one step up to another."""
        return [point for point in self._points if step < point[0] <= last]


class EvaluationMonitor:
    """The metric of the next evaluations after a change. Few points: what chance may do is wider accordingly.

    Args:
        evaluations: All of them.
        settings: How many are awaited, and what counts as hurt.
        start: The step at which the change took effect.
    """

    def __init__(self, evaluations: Evaluations, settings: ProbationSettings, start: int) -> None:
        self._all, self._settings, self._start = evaluations, settings, start
        self._before = evaluations.until(start)[-RECENT_EVALUATIONS:]
        self._next = start

    @property
    def metric(self) -> str:
        return self._all.metric

    @property
    def next_step(self) -> int:
        return self._next

    def passed(self) -> bool:
        return False

    def look(self, now: int, until: int, is_over: bool) -> Assessment | None:
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
