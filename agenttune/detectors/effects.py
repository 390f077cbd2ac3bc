"""What a change did: where a metric went within a bounded window, against where it was going without the change.

"Before and after" flatters whoever turns a knob, for training improves by itself. So the points before a change are
carried on (`forecast.py`), with the band that they allow, and only what lies outside of it is an effect. Where they say
too little, the effect is not known. Report, live view, the models' history and rounds all tell what is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agenttune.detectors.forecast import Band, band
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, CommandRecord
from agenttune.protocol.redefining import Redefinition, redefinition
from agenttune.protocol.summary import Effect, MetricAt

TOLERANCE = 2.5
"""Standard errors within which a difference is chance (tuned with `SHAPE_FRAC` of the forecast)."""
LEAST_FRAC = 0.005
"""A smaller part of the value is no effect, however sure (guess)."""


@dataclass(frozen=True)
class Reach:
    """How many values before and after a change tell of it.

    Attributes:
        fewest_before: With fewer a curve through them says nothing.
        most_before: Older ones tell of a time that is over.
        fewest_after: With fewer there is no level to speak of.
        most_after: Later ones tell of what training did since, not of the change.
    """

    fewest_before: int
    most_before: int
    fewest_after: int
    most_after: int


EVALUATIONS = Reach(5, 16, 1, 3)
"""Few, and each is the mean over a whole data set (guess; with 4 before, chance alone takes 15 standard errors)."""
STEPS = Reach(16, 128, 16, 64)
"""Of the training loss (guess: enough for its noise, few enough to be of now)."""


@dataclass(frozen=True)
class Measure:
    """A metric along the steps that led to a change and on from there.

    Attributes:
        name: Of the metric.
        points: Its values, oldest first, on one line of steps.
        reach: How many of them count.
        maximize: Whether more is better.
    """

    name: str
    points: Sequence[MetricAt]
    reach: Reach
    maximize: bool = False


@dataclass(frozen=True)
class Changes:
    """All that changed a run along one line of steps.

    Attributes:
        steps: Of every change, the one that is told of included.
        redefinitions: Those that gave the loss another meaning.
    """

    steps: Sequence[int]
    redefinitions: Sequence[Redefinition] = ()

    @classmethod
    def of(cls, records: Iterable[CommandRecord], is_here: IsHere) -> Changes:
        """Those of the commands that took effect on one line of steps."""
        here = [r for r in records if r.ack is not None and is_change(r.ack) and is_here(r.ack.branch, r.ack.step)]
        found = [redefined for record in here if (redefined := redefinition(record)) is not None]
        return cls([r.ack.step for r in here if r.ack is not None], found)

    def redefined(self, metric: str) -> list[int]:
        """Steps after each of which a metric means something else."""
        return [r.step for r in self.redefinitions if r.touches(metric)]

    def window(self, step: int, measure: Measure) -> list[MetricAt]:
        """The values after a change that tell of it: up to the next change, and not too many."""
        until = min((s for s in self.steps if s > step), default=math.inf)
        return [p for p in measure.points if step < p.step <= until][: measure.reach.most_after]


class IsHere(Protocol):
    """Whether a step of a branch is among those of a line."""

    def __call__(self, branch: str, step: int, /) -> bool: ...


def is_change(ack: Ack) -> bool:
    """Whether a command has changed anything that training goes by."""
    return ack.outcome == "applied" and bool(ack.changes)


def effect_of(step: int, changes: Changes, measures: Sequence[Measure]) -> Effect:
    """What the change at a step did, by the first of the measures that can tell.

    Args:
        step: At which it took effect; later ones have its value.
        changes: All that changed the run along this line of steps.
        measures: What it may be judged by, that which counts most first.
    """
    reasons = []
    for measure in measures:
        effect = _by(measure, step, changes)
        if effect.verdict != "not known":
            return effect
        reasons.append(effect.reason)
    return Effect(verdict="not known", reason="; ".join(dict.fromkeys(reasons)) or "nothing was measured")


def _by(measure: Measure, step: int, changes: Changes) -> Effect:
    """What one measure tells."""
    reason = _blindness(measure, step, changes)
    if reason:
        return Effect(verdict="not known", metric=measure.name, reason=reason)
    before = [p.value for p in _before(measure, step, changes)]
    window = changes.window(step, measure)[: len(before)]
    if not all(math.isfinite(p.value) for p in window):
        bad = next(p for p in window if not math.isfinite(p.value))
        reason = f"is not finite at step {bad.step}"
        return Effect(verdict="worse", metric=measure.name, reason=reason, points=len(window), until_step=bad.step)
    sign = -1 if measure.maximize else 1
    found = band([sign * v for v in before], [sign * p.value for p in window], TOLERANCE)
    if found is None:
        raise AssertionError("enough finite values on both sides")
    ends = sorted((sign * found.low, sign * found.high))
    return Effect(
        verdict=_verdict(found),
        metric=measure.name,
        found=sign * found.found,
        expected=sign * found.likely,
        low=ends[0],
        high=ends[1],
        points=len(window),
        until_step=window[-1].step,
    )


def _verdict(found: Band) -> Literal["better", "worse", "no clear effect"]:
    least = LEAST_FRAC * abs(found.likely)
    if found.found < min(found.low, found.likely - least):
        return "better"
    return "worse" if found.found > max(found.high, found.likely + least) else "no clear effect"


def _blindness(measure: Measure, step: int, changes: Changes) -> str:
    """Why a measure cannot tell; empty if it can."""
    name, reach = measure.name, measure.reach
    if step in changes.redefined(name):
        return f"the change gave {name} another meaning"
    if list(changes.steps).count(step) > 1:
        return f"something else was changed at step {step} too"
    before, after = _before(measure, step, changes), changes.window(step, measure)
    start = _start(measure, step, changes)
    if len(before) < reach.fewest_before:
        since = "before it" if start < 0 else f"between another change at step {start} and this one"
        return f"{len(before)} values of {name} {since}, {reach.fewest_before} are needed"
    if len(after) < reach.fewest_after:
        following = min((s for s in changes.steps if s > step), default=None)
        until = "after it" if following is None else f"until another change at step {following}"
        return f"{len(after)} values of {name} {until}, {reach.fewest_after} are needed"
    return ""


def _start(measure: Measure, step: int, changes: Changes) -> int:
    """The step of the change before: what led there is not what was going on."""
    return max((s for s in (*changes.steps, *changes.redefined(measure.name)) if s < step), default=-1)


def _before(measure: Measure, step: int, changes: Changes) -> list[MetricAt]:
    start = _start(measure, step, changes)
    found = [p for p in measure.points if start < p.step <= step and math.isfinite(p.value)]
    return found[-measure.reach.most_before :]


def measures_of(observation: Observation) -> list[Measure]:
    """What an observation holds to tell of changes by: the goal as evaluated, then the training loss."""
    goal = observation.goal_metric
    evaluated = [MetricAt(step=e.step, value=e.metrics[goal]) for e in observation.evaluations if goal in e.metrics]
    found = [Measure(goal, evaluated, EVALUATIONS, observation.goal_direction == "maximize")]
    view = next((observation.series[name] for name in LOSS_NAMES if name in observation.series), None)
    if view is not None:
        points = [MetricAt(step=s, value=v) for s, v in zip(view.steps, view.values, strict=True)]
        found.append(Measure(view.name, points, STEPS))
    return found
