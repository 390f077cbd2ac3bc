"""What the shape of a loss curve says: level, noise, slope, best, start. Robust and scale-free.

Losses that are all positive are compared as logarithms ("heights"), so that 0.01 and 1000 are treated alike; curves
that cross zero are compared as they are. Noise is the median absolute deviation of step-to-step differences, which
neither a trend nor a single spike moves.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from operator import sub
from statistics import fmean, median

from agenttune.protocol.observation import Observation, SeriesView
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.redefining import redefinition

LEVEL_STEPS = 16
"""Points whose median is "the level now": a third of the noise of one, and still quick to react (guess)."""
FIRST_STEPS = 8
"""Points whose median is where a redefined loss began: unlike the first of a run, a single one may be lucky (guess)."""
NOISE_STEPS = 64
"""Points from which the noise is estimated; fewer make the estimate itself noisy (guess)."""
MAD_TO_SIGMA = 1.4826
"""Scale of a normal distribution by its median absolute deviation (textbook)."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of that of a mean (textbook)."""
LOSS_NAMES = ("step_loss", "loss")
GRAD_NAMES = ("step_grad_norm", "grad_norm")


def series(observation: Observation, names: Sequence[str]) -> SeriesView | None:
    """The first of the named series that has points: per-step values where the trainer gives them, else log rows."""
    found = (observation.series.get(name) for name in names)
    return next((view for view in found if view is not None and view.values), None)


def changes(observation: Observation) -> list[CommandRecord]:
    """Commands of anybody that took effect on the training that led here, oldest first."""
    done = [c for c in observation.commands if c.ack is not None and c.ack.outcome == "applied"]
    line = observation.lineage
    here = [c for c in done if c.ack is not None and line.has(c.ack.branch, c.ack.step)]
    return [c for c in here if c.command.bends or _has_adopted(c) or redefinition(c) is not None]


def _has_adopted(record: CommandRecord) -> bool:
    return bool(record.command.tries()) and record.ack is not None and bool(record.ack.changes)


def last_change_step(observation: Observation) -> int:
    """Step of the newest change, 0 if nothing was changed."""
    known = [c.ack.step for c in changes(observation) if c.ack is not None]
    return max(known + [r.step for r in observation.redefinitions], default=0)


@dataclass(frozen=True)
class Trend:
    """One metric's curve: `steps` and `values` are the finite newest points, `old_*` downsampled ones before them.

    Attributes:
        first_steps, first_values: The first finite points, where they are known, whatever came since.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    old_steps: tuple[int, ...] = ()
    old_values: tuple[float, ...] = ()
    changed_step: int = 0
    redefined_step: int = 0
    first_steps: tuple[int, ...] = ()
    first_values: tuple[float, ...] = ()

    @classmethod
    def of(cls, observation: Observation, names: Sequence[str] = LOSS_NAMES) -> Trend | None:
        """The loss curve of a run since the loss means what it does now; None while it has no finite points."""
        view = series(observation, names)
        if view is None:
            return None
        since, changed = observation.redefined_step(view.name), last_change_step(observation)
        return _remembered(view, since, changed)

    @classmethod
    def of_view(cls, view: SeriesView, since: int, changed_step: int) -> Trend | None:
        """The curve of a series after a step.

        Args:
            view: The series.
            since: The step.
            changed_step: Of the newest change.
        """
        steps, values = tuple(view.steps), tuple(view.values)
        if since or not all(map(math.isfinite, values)):  # seldom
            points = [(s, v) for s, v in zip(steps, values, strict=True) if s > since and math.isfinite(v)]
            steps, values = tuple(s for s, _ in points), tuple(v for _, v in points)
        if not steps:
            return None
        downsampled = zip(view.downsampled_steps, view.downsampled_values, strict=True)
        old = [(s, v) for s, v in downsampled if s < steps[0] and math.isfinite(v)]
        if since:  # a mean that ends after the redefinition may have begun before it
            old = [(s, v) for (t, _), (s, v) in pairwise([(0, 0.0), *old]) if t >= since]
        kept = zip(view.first_steps, view.first_values, strict=True)
        first = [(s, v) for s, v in kept if s > since and math.isfinite(v)]
        return cls(
            view.name,
            steps,
            values,
            tuple(s for s, _ in old),
            tuple(v for _, v in old),
            changed_step,
            since,
            tuple(s for s, _ in first),
            tuple(v for _, v in first),
        )

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _before_newest(self) -> list[tuple[int, float]]:
        """The first points, and the means that end after them."""
        first = [(s, v) for s, v in zip(self.first_steps, self.first_values, strict=True) if s < self.steps[0]]
        last = first[-1][0] if first else 0
        old = [(s, v) for s, v in zip(self.old_steps, self.old_values, strict=True) if s > last]
        return first + old

    @cached_property
    def all_steps(self) -> tuple[int, ...]:
        return (*[s for s, _ in self._before_newest], *self.steps)

    @cached_property
    def all_values(self) -> tuple[float, ...]:
        return (*[v for _, v in self._before_newest], *self.values)

    def after(self, step: int) -> list[tuple[int, float]]:
        """Steps and values of after a step; means that may have begun before it are left out."""
        known = list(zip(self.all_steps, self.all_values, strict=True))
        means = set(self.old_steps) - set(self.steps) - set(self.first_steps)
        pairs = pairwise([(0, 0.0), *known])
        return [(s, v) for (t, _), (s, v) in pairs if s > step and (t >= step or s not in means)]

    def level_at(self, step: int) -> float | None:
        """The level that the curve had at a step; None where nothing is known up to there."""
        before = [v for s, v in zip(self.all_steps, self.all_values, strict=True) if s <= step]
        return median(before[-LEVEL_STEPS:]) if before else None

    @cached_property
    def is_positive(self) -> bool:
        return min(self.all_values) > 0

    def height(self, value: float) -> float:
        """The logarithm where the curve is positive, else the value itself."""
        return math.log(value) if self.is_positive else value

    def factor(self, factor: float) -> float:
        """A factor of a positive metric as a difference of heights; curves that cross zero go by noise alone."""
        return math.log(factor) if self.is_positive else 0.0

    @cached_property
    def heights(self) -> tuple[float, ...]:
        return tuple(map(math.log, self.values)) if self.is_positive else self.values

    @cached_property
    def since_change(self) -> Trend:
        """The part of the newest points that lies after the newest change."""
        first = next((i for i, s in enumerate(self.steps) if s > self.changed_step), len(self.steps) - 1)
        return Trend(self.name, self.steps[first:], self.values[first:], changed_step=self.changed_step)

    @cached_property
    def before_change(self) -> Trend | None:
        """The newest points before the newest change, None if there are fewer than 4."""
        count = sum(s <= self.changed_step for s in self.steps)
        return Trend(self.name, self.steps[:count], self.values[:count]) if count >= 4 else None

    @cached_property
    def start(self) -> float:
        """Where the curve began: the run's first loss, or the level of the first ones after a redefinition.

        It stays what it is, however long the run; where nobody kept the first points, it is a mean of them.
        """
        return median(self.all_values[:FIRST_STEPS]) if self.redefined_step else self.all_values[0]

    @property
    def last(self) -> float:
        return self.values[-1]

    @cached_property
    def level(self) -> float:
        """The loss now, without noise."""
        return median(self.values[-LEVEL_STEPS:])

    @cached_property
    def noise(self) -> float:
        """Standard deviation of one step's height around the trend."""
        return spread(self.heights[-NOISE_STEPS:])

    @cached_property
    def noise_value(self) -> float:
        """The noise in units of the metric, at the level of now."""
        return self.noise * abs(self.level) if self.is_positive else self.noise

    @cached_property
    def running(self) -> tuple[float, ...]:
        """Medians of `LEVEL_STEPS` neighbours over the newest points, after means of as many of the older ones.

        A mean of a few is noisier: the lowest of them would make the best level fall as points grow old.
        """
        width = min(LEVEL_STEPS, len(self.values))
        return (*(value for _, value in self._old_levels), *_medians(self.values, width, width // 4 or 1))

    @cached_property
    def _old_levels(self) -> tuple[tuple[int, float], ...]:
        """The older means, each taken together with those of the `LEVEL_STEPS` steps up to it; with its step."""
        steps, values = self.old_steps, self.old_values
        first, found = 0, []
        for i, step in enumerate(steps):
            while steps[first] <= step - LEVEL_STEPS:
                first += 1
            found.append((step, fmean(values[first : i + 1])))
        return tuple(found)

    @cached_property
    def best(self) -> float:
        """The lowest level so far."""
        return min((*self.running, self.level))

    @cached_property
    def best_step(self) -> int:
        """The last step of the points that have the lowest level."""
        width = min(LEVEL_STEPS, len(self.values))
        lasts = self.steps[width - 1 :: width // 4 or 1]
        olds = (step for step, _ in self._old_levels)
        known = zip((*self.running, self.level), (*olds, *lasts, self.steps[-1]), strict=True)
        return min(known, key=lambda entry: entry[0])[1]

    def fall(self) -> float:
        """How far the level has come down from the start; negative if it has risen."""
        return self.start - self.level

    def slope(self, steps: int = NOISE_STEPS) -> float:
        """Change of the metric per step over the newest points (Theil-Sen between halves: medians, not means)."""
        xs, ys = self.steps[-steps:], self.values[-steps:]
        half = len(xs) // 2
        if half < 1 or median(xs[half:]) == median(xs[:half]):
            return 0.0
        return (median(ys[half:]) - median(ys[:half])) / (median(xs[half:]) - median(xs[:half]))


def _medians(values: Sequence[float], width: int, stride: int) -> list[float]:
    """Medians of `width` neighbours every `stride` points, as `statistics.median` has them in half the time."""
    return [_median(sorted(values[i : i + width])) for i in range(0, len(values) - width + 1, stride)]


def _median(ordered: Sequence[float]) -> float:
    """As `statistics.median`, of values that are sorted already."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def medians_before(values: Sequence[float], width: int, first: int, end: int) -> Iterator[float]:
    """For each index from `first` to before `end` the median of the up to `width` values before it.

    One window moves along, instead of a sorted one for each.
    """
    window = sorted(values[max(0, first - width) : first])
    for i in range(first, end):
        if i > first:
            insort(window, values[i - 1])
            if i - 1 >= width:
                del window[bisect_left(window, values[i - 1 - width])]
        yield _median(window)


def spread(heights: Sequence[float]) -> float:
    """Standard deviation of the noise, from differences of neighbours; 0 for fewer than 3 points."""
    if len(heights) < 3:
        return 0.0
    steps = list(map(sub, heights[1:], heights))
    middle = _median(sorted(steps))
    return MAD_TO_SIGMA * _median(sorted([abs(s - middle) for s in steps])) / math.sqrt(2)


class _Latest(threading.local):
    """The newest trends of a thread: all detectors and rules ask for the same few of an observation."""

    def __init__(self) -> None:
        self.trends: deque[tuple[SeriesView, tuple[int, ...], Trend | None]] = deque(maxlen=6)


_LATEST = _Latest()


def _remembered(view: SeriesView, since: int, changed_step: int) -> Trend | None:
    """A trend that was made of this very series before, or a new one."""
    key = (since, changed_step, len(view.values), len(view.downsampled_values))
    for known, known_key, trend in _LATEST.trends:
        if known is view and known_key == key:
            return trend
    made = Trend.of_view(view, since, changed_step)
    _LATEST.trends.appendleft((view, key, made))
    return made
