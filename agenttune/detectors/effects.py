"""What a change did: where a metric went within a bounded window, against where it was going without the change.

"Before and after" flatters whoever turns a knob, for training improves by itself. So the points before a change are
carried on (`forecast.py`), with the band that they allow, and only what lies outside of it is an effect. Where they say
too little, the effect is not known. Report, live view, the models' history and rounds all tell what is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from agenttune.detectors.forecast import Band, band, expected_course, newest_regime, paired
from agenttune.detectors.trend import LOSS_NAMES, series
from agenttune.protocol.decision import Expected
from agenttune.protocol.effects import Effect, EffectVerdict, MetricAt
from agenttune.protocol.events import Settled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, CommandRecord
from agenttune.protocol.redefining import Redefinition, redefinition

TOLERANCE = 2.5
"""Standard errors within which a difference is chance (tuned with `SHAPE_FRAC` of the forecast)."""
LEAST_FRAC = 0.005
"""A smaller part of the value is no effect, however sure (guess)."""
FEWEST_PAIRS = 6
"""Steps that a return repeats, of which the later half is compared; with fewer their spread is not known (guess)."""
UNDONE = "where the run that it left would have gone is not known"
BROKEN = 3
"""After so many losses in a row that are not finite a run counts as broken; one may be an overflow (guess)."""
RATE_NAMES = ("lr", "learning_rate")
WARMING = 3
"""Steps in a row at which the rate rises from the first on, that make a warm-up (guess)."""
NEEDED = "are needed"


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
        breaks: Steps up to which a curve does not tell where it goes after them, though nobody changed anything, each
            with what was there: the end of a warm-up.
    """

    steps: Sequence[int]
    redefinitions: Sequence[Redefinition] = ()
    breaks: Mapping[int, str] = field(default_factory=dict)

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

    def is_over(self, step: int, measure: Measure, count: int) -> bool:
        """Whether no further value will tell of a change: the next one is made, or there are so many."""
        return any(s > step for s in self.steps) or len(self.window(step, measure)) >= count


class IsHere(Protocol):
    """Whether a step of a branch is among those of a line."""

    def __call__(self, branch: str, step: int, /) -> bool: ...


def is_change(ack: Ack) -> bool:
    """Whether a command has changed anything that training goes by."""
    return ack.outcome == "applied" and bool(ack.changes)


def acted(record: CommandRecord) -> bool:
    """Whether a command has changed what training goes by, or taken the run back."""
    ack = record.ack
    if ack is None or ack.outcome != "applied":
        return False
    return is_change(ack) or record.goes_back()


def effect_of(step: int, changes: Changes, measures: Sequence[Measure]) -> Effect:
    """What the change at a step did, by the first of the measures that can tell.

    Args:
        step: At which it took effect; later ones have its value.
        changes: All that changed the run along this line of steps.
        measures: What it may be judged by, that which counts most first.
    """
    jump = _jump(step, changes, measures)
    since_jump = replace(changes, breaks={**changes.breaks, **jump})
    # A level between evaluations has to be known anew after a blow-up; that of the losses is known by itself.
    by_reach = [(measure, changes if measure.reach is STEPS else since_jump) for measure in measures]
    return _first_that_tells(_by(measure, step, known) for measure, known in by_reach)


def _jump(step: int, changes: Changes, measures: Sequence[Measure]) -> dict[int, str]:
    """The last step before the training loss jumped upwards for good, with the words for it; empty if it did not."""
    losses = next((measure for measure in measures if measure.reach is STEPS), None)
    before = [] if losses is None else _before(losses, step, changes)
    first = newest_regime([p.value for p in before])
    return {before[first - 1].step: "a jump of the training loss"} if first else {}


def expected_after(step: int, changes: Changes, measure: Measure, after: Sequence[MetricAt]) -> list[Expected]:
    """Where a measure was going before the change at a step, at each of the values after it, for a picture.

    Empty where the effect would not be told either, for lack of values before it.
    """
    before, sign = _before(measure, step, changes), -1 if measure.maximize else 1
    if len(before) < measure.reach.fewest_before or step in changes.redefined(measure.name):
        return []
    bands = expected_course([sign * p.value for p in before], len(after), TOLERANCE)
    return [
        Expected(
            step=p.step,
            likely=sign * band.likely,
            low=min(sign * band.low, sign * band.high),
            high=max(sign * band.low, sign * band.high),
        )
        for p, band in zip(after, bands, strict=False)
    ]


def warm_up(rates: Sequence[MetricAt]) -> dict[int, str]:
    """The step at which the schedule's warm-up ends, for `Changes.breaks`; empty if there is none.

    Args:
        rates: The learning rate from the first step on.
    """
    count = next((i for i, (a, b) in enumerate(pairwise(rates)) if not b.value > a.value), len(rates) - 1)
    return {rates[count].step: "the warm-up of the rate"} if count >= WARMING else {}


def effect_of_return(step: int, changes: Changes, measures: Sequence[Measure], undone: Sequence[Measure]) -> Effect:
    """What going back to a step did, with whatever was changed there, against the same steps as they went before.

    Args:
        step: That the run went back to.
        changes: All that changed the run along its line of steps, the return included.
        measures: What it may be judged by on that line, that which counts most first.
        undone: The same measures along the line that was left, in the same order.
    """
    pairs = zip(measures, undone, strict=True)
    return _first_that_tells(_by_undone(measure, left, step, changes) for measure, left in pairs)


def _first_that_tells(found: Iterable[Effect]) -> Effect:
    """The first effect that is known; final if it is and no measure that counts more can still tell."""
    reasons, is_final = [], True
    for effect in found:
        is_final = is_final and effect.is_final
        if effect.verdict != "not known":
            return effect.model_copy(update={"is_measured": effect.is_final, "is_final": is_final})
        reasons.append(effect.reason)
    reason = "; ".join(dict.fromkeys(reasons)) or "nothing was measured"
    is_final = is_final and bool(reasons)
    return Effect(verdict="not known", reason=reason, is_measured=is_final, is_final=is_final)


def _by(measure: Measure, step: int, changes: Changes) -> Effect:
    """What one measure tells."""
    before, window = _before(measure, step, changes), changes.window(step, measure)
    is_broken = _is_broken(_along(measure, step, changes), measure)
    most = measure.reach.fewest_after if is_broken else min(measure.reach.most_after, len(before))
    is_final = changes.is_over(step, measure, most)
    reason = _blindness(measure, step, changes, is_broken)
    if reason and _broke(measure, step, changes, before, window, is_broken):
        return _by_finiteness(measure, False, window, is_final) or _unknown(measure, reason, is_final)
    if reason:
        is_awaited = reason.endswith(NEEDED) and len(window) < measure.reach.fewest_after
        return _unknown(measure, reason, is_final or not is_awaited)
    window = window[:most]
    found = _by_finiteness(measure, is_broken, window, is_final)
    if found is not None:
        return found
    sign = -1 if measure.maximize else 1
    expected = band([sign * p.value for p in before], [sign * p.value for p in window], TOLERANCE)
    if expected is None:
        raise AssertionError("enough finite values on both sides")
    return _effect(measure, expected, window, is_final)


def _broke(
    measure: Measure,
    step: int,
    changes: Changes,
    before: Sequence[MetricAt],
    window: Sequence[MetricAt],
    was_broken: bool,
) -> bool:
    """Whether a run that went well has come to values that are not finite: that needs no window to be over."""
    is_alone = list(changes.steps).count(step) == 1 and step not in changes.redefined(measure.name)
    return bool(before) and is_alone and not was_broken and _is_broken(window, measure)


def reverted(effect: Effect, settled: Settled, maximize: bool) -> Effect:
    """What a change did that probation took back: where its window was too short, by what probation found.

    Args:
        effect: What the steps until then tell.
        settled: How its probation ended.
        maximize: Whether more of probation's metric is better.
    """
    found, expected, noise = settled.found, settled.forecast, settled.noise
    if effect.verdict != "not known" or settled.outcome != "reverted" or found is None or expected is None:
        return effect
    sign, wide = -1 if maximize else 1, TOLERANCE * (noise or 0.0)
    if sign * (found - expected) <= max(wide, LEAST_FRAC * abs(expected)):  # taken back in doubt, or with another
        return effect
    return Effect(
        verdict="worse",
        metric=settled.metric,
        found=found,
        expected=expected,
        low=expected - wide,
        high=expected + wide,
        points=settled.points or 0,
        until_step=effect.until_step,
        reason=settled.reason,
        is_measured=True,
        is_final=True,
    )


def _by_undone(measure: Measure, left: Measure, step: int, changes: Changes) -> Effect:
    """What one measure tells of a return: the difference to the undone steps, step by step."""
    name, reach = measure.name, measure.reach
    if step in changes.redefined(name):
        return _unknown(measure, f"the change gave {name} another meaning", is_final=True)
    undone = {p.step: p.value for p in left.points if p.step > step}
    window = [p for p in changes.window(step, measure) if p.step in undone]
    is_final = changes.is_over(step, measure, min(reach.most_after, len(undone)))
    if len(window) < FEWEST_PAIRS:
        reason = f"{len(window)} values of {name} on steps that were undone, of {len(undone)}; {FEWEST_PAIRS} {NEEDED}"
        return _unknown(measure, reason, is_final or len(undone) < FEWEST_PAIRS)
    compared = window[len(window) // 2 :]
    others = [undone[p.step] for p in compared]
    is_broken = not math.isfinite(others[-1])
    found = _by_finiteness(measure, is_broken, compared, is_final)
    if found is not None:
        return found
    sign = -1 if measure.maximize else 1
    pairs = [(sign * undone[p.step], sign * p.value) for p in compared if math.isfinite(undone[p.step])]
    return _effect(measure, paired(pairs, TOLERANCE), window, is_final)


def _unknown(measure: Measure, reason: str, is_final: bool) -> Effect:
    return Effect(verdict="not known", metric=measure.name, reason=reason, is_final=is_final)


def _is_broken(points: Sequence[MetricAt], measure: Measure) -> bool:
    """Whether the newest values are not finite; a single one of many may be an overflow."""
    newest = points[-min(BROKEN, measure.reach.fewest_after) :]
    return bool(newest) and not any(math.isfinite(p.value) for p in newest)


def _by_finiteness(measure: Measure, was_broken: bool, window: Sequence[MetricAt], is_final: bool) -> Effect | None:
    """What values that are not finite tell, before a change or after it; None if they tell nothing."""
    bad = next((p for p in window if not math.isfinite(p.value)), None)
    if not was_broken and bad is None:
        return None
    if was_broken:
        is_well = not _is_broken(window, measure)
        verdict: EffectVerdict = "better" if is_well else "no clear effect"
        reason, until = f"was not finite before it and {'is' if is_well else 'is not'} now", window[-1].step
    else:
        until = window[-1].step if bad is None else bad.step
        verdict, reason, is_final = "worse", f"is not finite at step {until}", True
    points = len(window)
    told = Effect(verdict=verdict, metric=measure.name, reason=reason, points=points, until_step=until)
    return told.model_copy(update={"is_final": is_final})


def _effect(measure: Measure, found: Band, window: Sequence[MetricAt], is_final: bool) -> Effect:
    sign = -1 if measure.maximize else 1
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
        is_final=is_final,
    )


def _verdict(found: Band) -> EffectVerdict:
    least = LEAST_FRAC * abs(found.likely)
    if found.found < min(found.low, found.likely - least):
        return "better"
    return "worse" if found.found > max(found.high, found.likely + least) else "no clear effect"


def _blindness(measure: Measure, step: int, changes: Changes, is_broken: bool) -> str:
    """Why a measure cannot tell; empty if it can."""
    name, reach = measure.name, measure.reach
    if step in changes.redefined(name):
        return f"the change gave {name} another meaning"
    if list(changes.steps).count(step) > 1:
        return f"something else was changed at step {step} too"
    before, after = _before(measure, step, changes), changes.window(step, measure)
    start = _start(measure, step, changes)
    if len(before) < reach.fewest_before and not is_broken:
        since = "before it" if start < 0 else f"between another change at step {start} and this one"
        since = next(
            (f"before it and after {what}" for s, what in changes.breaks.items() if min(s, step) == start), since
        )
        return f"{len(before)} values of {name} {since}, {reach.fewest_before} {NEEDED}"
    if len(after) < reach.fewest_after:
        following = min((s for s in changes.steps if s > step), default=None)
        until = "after it" if following is None else f"until another change at step {following}"
        return f"{len(after)} values of {name} {until}, {reach.fewest_after} {NEEDED}"
    return ""


def _start(measure: Measure, step: int, changes: Changes) -> int:
    """The step of the change before: what led there is not what was going on."""
    made = [s for s in (*changes.steps, *changes.redefined(measure.name)) if s < step]
    return max([*made, *(min(s, step) for s in changes.breaks)], default=-1)


def _along(measure: Measure, step: int, changes: Changes) -> list[MetricAt]:
    """The newest values up to a change, since the one before it."""
    start = _start(measure, step, changes)
    return [p for p in measure.points if start < p.step <= step][-measure.reach.most_before :]


def _before(measure: Measure, step: int, changes: Changes) -> list[MetricAt]:
    return [p for p in _along(measure, step, changes) if math.isfinite(p.value)]


def effect_in(observation: Observation, record: CommandRecord) -> Effect | None:
    """What a command of an observation did; None if it changed nothing.

    As the log has it, where the observation comes from one. Else by the points that it holds, which do not reach to
    steps that a restore has undone.
    """
    known = observation.effects.get(record.command_id)
    if known is not None:
        return known
    ack, line = record.ack, observation.lineage
    if ack is None or not acted(record) or not line.has(ack.branch, ack.step):
        return None
    if record.goes_back():
        return Effect(verdict="not known", reason=UNDONE, is_measured=True)
    return effect_of(ack.step, changes_of(observation), measures_of(observation))


def changes_of(observation: Observation) -> Changes:
    """All that changed the run, as far as an observation tells."""
    changes = Changes.of(observation.commands, observation.lineage.has)
    view = series(observation, RATE_NAMES)
    points = [] if view is None else zip(view.steps, view.values, strict=True)
    rates = [MetricAt(step=s, value=v) for s, v in points]
    is_whole = bool(rates) and rates[0].step <= 1  # else its beginning is no longer there
    return replace(changes, breaks=warm_up(rates)) if is_whole else changes


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
