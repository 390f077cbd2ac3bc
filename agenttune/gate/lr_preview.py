"""The learning rates to come, step by step, before a command is sent: for a picture of the old and the new course."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agenttune.gate.knob_targets import rate_factors
from agenttune.gate.lr_forecast import plan_of, shares_of
from agenttune.protocol.commands import CommandBase, UpdateSchedule
from agenttune.protocol.dry_run import MOST_RATES, RatesAhead
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.lr_plans import corners, planned_factor
from agenttune.protocol.run_info import KnobState, RunInfo

RateAt = Callable[[int], float]
"""A group's rate at a step."""


def rates_ahead(command: CommandBase, info: RunInfo) -> list[RatesAhead]:
    """The rates to come of each group that a command writes.

    Empty where it leaves them alone, where nothing is known of them, or where the trainer cannot do what is asked.
    """
    knob = info.knob("lr")
    if knob is None or not isinstance(knob.effective, (int, float)) or command.tries():
        return []
    plan = command.lr_plan()
    if plan is not None:
        return _planned(plan, info, knob)
    found = []
    for asked in command.asked():
        if asked.is_rate:
            for group, ratio in rate_factors(asked, knob).items():
                before = _now(info, knob, group)
                value = float(asked.value)
                after = _scaled(before, ratio) if ratio is not None else _flat(value)
                found.append(_drawn(group, _steps(info, ()), before, after))
    return found


def _planned(plan: UpdateSchedule, info: RunInfo, knob: KnobState) -> list[RatesAhead]:
    if info.schedule is not None and not info.schedule.can_be_planned:
        return []
    groups = range(len(knob.groups or [knob.effective]))
    if plan.shape == "previous":
        old = None if info.schedule is None else info.schedule.before
        if old is None:
            return []
        return [
            _drawn(group, _steps(info, ()), _now(info, knob, group), _course(old, group))
            for group in groups
            if group in old.groups
        ]
    made = plan_of(plan, info, knob)
    if made is None:
        return []
    figures, peak = made
    steps = _steps(info, corners(figures))
    tops = [peak * share for share in shares_of(knob)]
    return [_drawn(group, steps, _now(info, knob, group), _by_plan(figures, tops[group])) for group in groups]


def _by_plan(plan: Mapping[str, Any], top: float) -> RateAt:
    return lambda step: top * planned_factor(plan, step)


def _drawn(group: int, steps: Sequence[int], before: RateAt, after: RateAt) -> RatesAhead:
    return RatesAhead(
        group=group, steps=list(steps), before=[before(step) for step in steps], after=[after(step) for step in steps]
    )


def _steps(info: RunInfo, turns: Sequence[int]) -> list[int]:
    """Steps from now to the end, evenly, with a plan's corners and the steps just before them among them."""
    known = info.schedule.steps if info.schedule is not None else []
    end = info.max_steps if info.max_steps is not None else max([info.step + 1, *known, *turns])
    inner = sorted({step for turn in turns for step in (turn - 1, turn) if info.step < step < end})
    count = max(2, min(MOST_RATES - len(inner), end - info.step + 1))
    even = {info.step + round((end - info.step) * i / (count - 1)) for i in range(count)}
    return sorted(even | set(inner))[:MOST_RATES]


def _now(info: RunInfo, knob: KnobState, group: int) -> RateAt:
    if info.schedule is not None and group in info.schedule.groups:
        return _course(info.schedule, group)
    rates = knob.groups or [knob.effective]
    return _flat(float(rates[group] if group < len(rates) else knob.effective))


def _flat(rate: float) -> RateAt:
    return lambda step: rate


def _scaled(rate: RateAt, ratio: float) -> RateAt:
    return lambda step: rate(step) * ratio


def _course(course: LrCourse, group: int) -> RateAt:
    """A published course, on straight lines between its steps."""
    steps, rates = course.steps, course.rates(group)

    def rate(step: int) -> float:
        later = bisect_right(steps, step)
        if later == 0 or later == len(steps):
            return rates[0 if later == 0 else -1]
        a, b = steps[later - 1], steps[later]
        return rates[later - 1] + (rates[later] - rates[later - 1]) * (step - a) / (b - a)

    return rate
