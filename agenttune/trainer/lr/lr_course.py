"""The learning rates that the current schedule will give, from this step to the end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from agenttune.protocol.lr_course import LrCourse, Track, course_text
from agenttune.protocol.lr_plans import plan_text, planned_factor
from agenttune.trainer.lr.planned_lr import PREVIOUS
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule

PUBLISHED_POINTS = 24
"""Steps at which a course is told (guess: enough for an eye, and for a prompt to pick from)."""
EXACT_STEPS = 4096
"""A function of the step is asked for every step of so many (about 3 ms), and for as many of a longer run."""
REHEARSED_STEPS = 2048
"""A scheduler of torch is stepped so far ahead, and put back (about 15 ms)."""
ENDLESS_STEPS = 1000
"""How far is looked ahead where the run's end is not known (guess)."""
LONGEST_REFINED = 64
"""Turning points of a long run around which every step is looked at."""
NO_MAXIMUM = math.inf

Rates = list[list[float]]
"""Per step, per group."""


def course_of(schedule: Schedule, step: int, max_steps: int | None, points: int = PUBLISHED_POINTS) -> LrCourse | None:
    """The rates to come; None where the optimizer computes its own.

    Args:
        schedule: As it stands.
        step: Completed steps of the run.
        max_steps: Where it ends, if that is known.
        points: How many steps are told; extremes are kept whatever their number.
    """
    if schedule.kind is ScheduleKind.OWN:
        return None
    ahead = max(0, (max_steps if max_steps is not None else step + ENDLESS_STEPS) - step)
    if schedule.follows_function:
        return _of_functions(schedule, step, ahead, points)
    return _of_own(schedule, step, ahead, points)


def _of_own(schedule: Schedule, step: int, ahead: int, points: int) -> LrCourse:
    """Of a schedule that is no function of the step."""
    if schedule.kind is ScheduleKind.SCALING:
        course = _of_rehearsal(schedule, step, ahead, points)
    else:
        course = _of_constant(schedule, step, ahead)
    return course.model_copy(update={"can_be_planned": not schedule.unplannable()})


def _of_rehearsal(schedule: Schedule, step: int, ahead: int, points: int) -> LrCourse:
    """What a scheduler of torch gives when it is stepped."""
    wanted = min(ahead, REHEARSED_STEPS)
    rates = schedule.rehearse(wanted)
    offsets = list(range(len(rates)))
    if len(rates) <= wanted:  # it was laid out for fewer steps than the run: who goes on leaves the rate as it is
        offsets.append(ahead)
        rates.append(rates[-1])
    return _course(schedule.name, step, offsets, rates, points)


def _of_constant(schedule: Schedule, step: int, ahead: int) -> LrCourse:
    """A rate that no count of steps moves; evaluations may, or a schedule of an unknown class."""
    now, offsets = schedule.effective(), sorted({0, ahead})
    course = _course(schedule.name, step, offsets, [now for _ in offsets], len(offsets))
    if schedule.kind is ScheduleKind.NONE:
        return course.model_copy(update={"text": f"no schedule: {now[0]:g} stays as it is"})
    if schedule.kind is ScheduleKind.METRIC:
        low, high = _reach(schedule, "min_lrs", 0.0), _reach(schedule, "max_lrs", None)
        text = f"{schedule.name}: {now[0]:g} until evaluations move it"
    else:
        low, high = [0.0] * len(now), [NO_MAXIMUM] * len(now)
        text = f"{schedule.name}: {now[0]:g} now; what it does next is not known"
    tracks = [
        Track(
            groups=[g],
            shares=[1.0],
            rates=[rate for _ in offsets],
            lowest=[rate, *(min(low[g], rate) for _ in offsets[1:])],
            highest=[rate, *(max(high[g], rate) for _ in offsets[1:])],
        )
        for g, rate in enumerate(now)
    ]
    return course.model_copy(update={"tracks": tracks, "is_foretold": False, "text": text})


def _reach(schedule: Schedule, name: str, default: float | None) -> list[float]:
    """How far evaluations can move the rates."""
    now = schedule.effective()
    held = getattr(schedule.scheduler, name, None)
    if held is None:
        held = getattr(schedule.scheduler, name.removesuffix("s"), None)
    listed = list(held) if isinstance(held, (list, tuple)) else [held] * len(now)
    found = [default if value is None else float(value) for value in listed]
    return [rate if value is None else value for rate, value in zip(now, found, strict=True)]


# -- functions of the step -----------------------------------------------------------------------------------------


def _of_functions(schedule: Schedule, step: int, ahead: int, points: int) -> LrCourse:
    functions, clock, plan = schedule.functions(), schedule.clock, schedule.plan()
    offsets = _offsets(ahead, functions, clock)
    name = schedule.own_name
    course = _course(name, step, offsets, _rates(functions, schedule.base(), clock, offsets), points)
    update: dict[str, Any] = {"can_be_planned": not schedule.unplannable()}
    before = plan.pop(PREVIOUS, None)
    if plan:
        update |= {"kind": plan["shape"], "text": plan_text(plan, schedule.base()[0], step - clock), "is_own": False}
    if before is not None and before["plan"]:
        old = [functools.partial(planned_factor, before["plan"]) for _ in functions]
        back = _course(before["plan"]["shape"], step, offsets, _rates(old, before["bases"], clock, offsets), points)
        update["before"] = back.model_copy(update={"is_own": False})
    elif before is not None:
        with schedule.without_plan() as own:
            update["before"] = course_of(own, step, step + ahead, points)
    return course.model_copy(update=update)


def _rates(
    lambdas: Sequence[Callable[[int], float]], bases: Sequence[float], clock: int, offsets: Sequence[int]
) -> Rates:
    """Each function is asked once, whatever the number of groups that follow it."""
    known: dict[object, list[float]] = {}
    columns = []
    for fn, base in zip(lambdas, bases, strict=True):
        key = _key(fn)
        if key not in known:
            known[key] = [float(fn(clock + offset)) for offset in offsets]
        columns.append([base * factor for factor in known[key]])
    return [list(row) for row in zip(*columns, strict=True)]


def _key(fn: object) -> object:
    """What is the same for functions that give the same; a plan is the same for all groups."""
    return "plan" if isinstance(fn, functools.partial) and fn.func is planned_factor else id(fn)


def _offsets(ahead: int, lambdas: Sequence[Callable[[int], float]], clock: int) -> list[int]:
    """The steps to ask for: all of them, or of a long run an even grid, and all steps around where it turns."""
    if ahead <= EXACT_STEPS:
        return list(range(ahead + 1))
    stride = math.ceil(ahead / EXACT_STEPS)
    grid = [*range(0, ahead, stride), ahead]
    found = set(grid)
    for fn in {_key(fn): fn for fn in lambdas}.values():
        values = [float(fn(clock + offset)) for offset in grid]
        turns = [i for i in range(1, len(grid) - 1) if (values[i] - values[i - 1]) * (values[i + 1] - values[i]) < 0]
        for i in turns[:LONGEST_REFINED]:
            found.update(range(grid[i - 1], grid[i + 1] + 1))
    return sorted(found)


# -- in few numbers ------------------------------------------------------------------------------------------------


def _course(kind: str, step: int, offsets: Sequence[int], rates: Rates, points: int) -> LrCourse:
    """Few steps of many, with the extremes of what lies between them."""
    groups = list(range(len(rates[0])))
    last = len(offsets) - 1
    columns = {group: [row[group] for row in rates] for group in groups}
    # With the step of each extreme among them, it is known later whether that is past.
    turns = {column.index(of(column)) for column in columns.values() for of in (max, min)}
    chosen = sorted({round(i * last / max(1, points - 1)) for i in range(points)} | turns)
    edges = list(zip([-1, *chosen[:-1]], chosen, strict=True))
    tracks: list[Track] = []
    for group in groups:
        track = next((t for t in tracks if _share(columns[t.groups[0]], columns[group]) is not None), None)
        if track is not None:
            share = _share(columns[track.groups[0]], columns[group])
            track.groups.append(group)
            track.shares.append(1.0 if share is None else share)
            continue
        column = columns[group]
        tracks.append(
            Track(
                groups=[group],
                shares=[1.0],
                rates=[column[i] for i in chosen],
                lowest=[min(column[a + 1 : b + 1]) for a, b in edges],
                highest=[max(column[a + 1 : b + 1]) for a, b in edges],
            )
        )
    steps = [step + offsets[i] for i in chosen]
    return LrCourse(kind=kind, text=_text(kind, step, offsets, columns[0]), steps=steps, tracks=tracks)


def _share(first: list[float], other: list[float]) -> float | None:
    """The factor between two groups' rates; None if there is none."""
    if first == other:
        return 1.0
    peak = max(range(len(first)), key=lambda i: first[i])
    if first[peak] <= 0 or other[peak] <= 0:
        return None
    share = other[peak] / first[peak]
    exact = all(math.isclose(a * share, b, rel_tol=1e-12, abs_tol=0.0) for a, b in zip(first, other, strict=True))
    return share if exact and math.isfinite(share) else None


def _text(kind: str, step: int, offsets: Sequence[int], rates: list[float]) -> str:
    turns = [
        f"{name} {rate:g} at step {step + offsets[rates.index(rate)]}"
        for name, rate in (("highest", max(rates)), ("lowest", min(rates)))
        if rate not in (rates[0], rates[-1])
    ]
    return course_text(kind, rates, step + offsets[-1], turns)
