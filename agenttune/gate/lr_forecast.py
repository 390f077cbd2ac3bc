"""Forecast of the learning rate for each parameter group: by the schedule in force, and after a command."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agenttune.errors import UserError
from agenttune.gate.knob_targets import rate_factors
from agenttune.protocol.commands import AskedValue, CommandBase, UpdateSchedule
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.lr_plans import DECAYING, corners, make_plan, plan_text, planned_factor
from agenttune.protocol.run_info import KnobState, RunInfo

SHORT_WARM_UP_FRAC = 0.1
"""Share of the steps left. A warm-up no longer than that may start low without counting as a change (guess)."""
FEWEST_EDGES = 16
"""The steps to the end, if it is known, are divided into at least so many stretches."""


@dataclass(frozen=True)
class RateBand:
    """The lowest and the highest learning rate of one group in each stretch of steps; both of shape [stretches]."""

    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Prospect:
    """One parameter group's rates to come.

    Attributes:
        group: Its index.
        edges: Last step of each stretch; the first stretch is now alone.
        before: As long as nobody changes anything.
        after: With the command.
        leeway: Per stretch, what part of a rate counts as that rate: a warm-up begins low, and a decay to the run's
            end falls to nothing, by their nature.
        ratio: Where the command multiplies the course: by what; None: it replaces it.
        share: Of a plan: this group's rates as a multiple of the first one's.
    """

    group: int
    edges: list[int]
    before: RateBand
    after: RateBand
    leeway: list[float]
    ratio: float | None = None
    share: float = 1.0

    @property
    def label(self) -> str:
        """The rate, with its parameter group unless that is the first."""
        return f"lr of parameter group {self.group}" if self.group else "lr"

    def factors(self) -> tuple[float, float]:
        """How far the command takes the rate, down and up, as multiples.

        A rate to come is compared with what the course in force has had up to that step, from now on: neither to stay
        nor to follow it is a change.
        """
        if self.ratio is not None:
            return self.ratio, self.ratio
        lowest, highest, down, up = math.inf, 0.0, math.inf, 0.0
        for i in range(len(self.edges)):
            lowest, highest = min(lowest, self.before.low[i]), max(highest, self.before.high[i])
            down = min(down, _over(self.after.low[i], lowest * self.leeway[i]))
            up = max(up, _over(self.after.high[i], highest))
        return down, up

    def strict_factor(self) -> float:
        """The largest factor, over all steps, between the rate with the command and the rate without it."""
        if self.ratio is not None:
            return max(self.ratio, 1 / self.ratio) if self.ratio > 0 else math.inf
        found = 1.0
        for before, after in ((self.before.low, self.after.low), (self.before.high, self.after.high)):
            for old, new in zip(before, after, strict=True):
                found = max(found, _over(old, new), _over(new, old))
        return found


def _over(rate: float, reference: float) -> float:
    if rate == reference:
        return 1.0
    return math.inf if reference == 0 else rate / reference


def prospects(command: CommandBase, info: RunInfo) -> list[Prospect]:
    """The rates to come of every group that a command writes; empty for commands that leave the rate alone.

    Also empty where nothing is known of the rate, or where the trainer cannot do what is asked, and will say why.
    """
    knob = info.knob("lr")
    if knob is None or not isinstance(knob.effective, (int, float)):
        return []
    plan = command.lr_plan()
    if plan is None:
        # Candidates of a probe each have rates to come of their own.
        rates = [] if command.tries() else [asked for asked in command.asked() if asked.is_rate]
        return [prospect for asked in rates for prospect in _scaled(asked, info, knob)]
    if info.schedule is not None and not info.schedule.can_be_planned:
        return []
    return _restored(info, knob) if plan.shape == "previous" else _planned(plan, info, knob)


def course_text(command: UpdateSchedule, info: RunInfo) -> str:
    """The plan that a command asks for, in words; empty if too little is known."""
    course = info.schedule
    if command.shape == "previous":
        return course.before.text if course is not None and course.before is not None else ""
    knob = info.knob("lr")
    plan = None if knob is None else plan_of(command, info, knob)
    return plan_text(*plan) if plan is not None else ""


# -- what a command makes of the course ----------------------------------------------------------------------------


def _scaled(asked: AskedValue, info: RunInfo, knob: KnobState) -> list[Prospect]:
    edges, found = _edges(info, ()), []
    for group, ratio in rate_factors(asked, knob).items():
        before = _before(info, knob, group, edges)
        if ratio is not None:
            after = RateBand([rate * ratio for rate in before.low], [rate * ratio for rate in before.high])
        else:  # from 0: nothing scales it, so it stays as it is set
            flat = [float(asked.value) for _ in edges]
            after = RateBand(flat, flat)
        found.append(Prospect(group, edges, before, after, [1.0] * len(edges), ratio))
    return found


def _planned(command: UpdateSchedule, info: RunInfo, knob: KnobState) -> list[Prospect]:
    made = plan_of(command, info, knob)
    if made is None:
        return []
    plan, peak = made
    turns = corners(plan)
    edges = _edges(info, turns)
    factors = [[planned_factor(plan, t) for t in _asked(a, b, turns)] for a, b in _stretches(edges)]
    leeway = _leeway(edges, info, plan, rises=command.warmup_steps > 0)
    found = []
    for group, share in enumerate(shares_of(knob)):
        top = peak * share
        after = RateBand([top * min(row) for row in factors], [top * max(row) for row in factors])
        found.append(Prospect(group, edges, _before(info, knob, group, edges), after, leeway, None, share))
    return found


def plan_of(command: UpdateSchedule, info: RunInfo, knob: KnobState) -> tuple[dict[str, Any], float] | None:
    """The plan that a command asks for, and the rate that its factors are multiples of; None if it cannot be made."""
    peak = command.peak_lr if command.peak_lr is not None else float(knob.effective)
    try:
        return (make_plan(command, info.step, info.max_steps, peak), peak) if peak > 0 else None
    except UserError:
        return None


def _restored(info: RunInfo, knob: KnobState) -> list[Prospect]:
    course = info.schedule
    if course is None or course.before is None:
        return []
    edges = _edges(info, ())
    plan = {"shape": "linear", "end_t": info.max_steps if info.max_steps is not None else edges[-1]}
    leeway = _leeway(edges, info, plan, rises=False)
    found = []
    for group in course.groups:
        old = course.before
        after = _band(old, group, edges, _at(old, group, info.step))
        found.append(Prospect(group, edges, _before(info, knob, group, edges), after, leeway))
    return found


def shares_of(knob: KnobState) -> list[float]:
    """Each group's rate as a multiple of the first one's."""
    rates = [float(rate) for rate in knob.groups or [knob.effective]]
    if rates[0] > 0:
        return [rate / rates[0] for rate in rates]
    return knob.ratios if knob.ratios is not None and len(knob.ratios) == len(rates) else [1.0 for _ in rates]


def _leeway(edges: Sequence[int], info: RunInfo, plan: dict[str, Any], *, rises: bool) -> list[float]:
    now, end = edges[0], info.max_steps
    falls = plan["shape"] in DECAYING and end is not None and plan["end_t"] >= end
    left = 0 if end is None else end - now
    warm = max(1, round(SHORT_WARM_UP_FRAC * left)) if rises and left > 0 else 0

    def at(t: int) -> float:
        part = min(1.0, (t - now) / warm) if warm else 1.0
        if not falls:
            return part
        progress = min(1.0, (t - now) / max(1, plan["end_t"] - now))
        return part * float(min(1.0 - progress, 0.5 * (1.0 + math.cos(math.pi * progress))))

    return [min(at(a), at(b)) for a, b in _stretches(edges)]


# -- stretches of steps --------------------------------------------------------------------------------------------


def _edges(info: RunInfo, turns: Sequence[int]) -> list[int]:
    """Last steps of the stretches in which rates are compared: now, the published steps, the plan's corners."""
    now, course = info.step, info.schedule
    found = {now, *(course.steps if course is not None else ()), *turns, *(turn - 1 for turn in turns)}
    if info.max_steps is not None:
        found.update(now + round((info.max_steps - now) * i / FEWEST_EDGES) for i in range(FEWEST_EDGES + 1))
    return sorted(step for step in found if step >= now)


def _stretches(edges: Sequence[int]) -> list[tuple[int, int]]:
    """First and last step of each."""
    return [(edges[0], edges[0]), *((a + 1, b) for a, b in pairwise(edges))]


def _asked(first: int, last: int, turns: Sequence[int]) -> list[int]:
    """Steps at which a stretch can have its extremes: its ends and the plan's corners within it."""
    return [first, last, *(turn for turn in turns if first < turn < last)]


def _before(info: RunInfo, knob: KnobState, group: int, edges: Sequence[int]) -> RateBand:
    rates = knob.groups or [knob.effective]
    now = float(rates[group]) if group < len(rates) else float(knob.effective)
    if info.schedule is None or group not in info.schedule.groups:
        return RateBand([now for _ in edges], [now for _ in edges])
    return _band(info.schedule, group, edges, now)


def _band(course: LrCourse, group: int, edges: Sequence[int], now: float) -> RateBand:
    low, high, rates = course.lowest(group), course.highest(group), course.rates(group)
    last = len(course.steps) - 1
    places = [bisect_left(course.steps, edge) for edge in edges[1:]]
    return RateBand(
        [now, *(low[i] if i <= last else rates[-1] for i in places)],
        [now, *(high[i] if i <= last else rates[-1] for i in places)],
    )


def _at(course: LrCourse, group: int, step: int) -> float:
    """The rate at the first published step that is not before this one."""
    return course.rates(group)[min(bisect_left(course.steps, step), len(course.steps) - 1)]
