"""Bounds: the values that a knob may have, whoever asks.

They hold for every parameter group that a command writes, and for the whole course of the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from agenttune.config import Bounds
from agenttune.gate.context import World, refused
from agenttune.gate.knob_targets import Target, targets_of
from agenttune.gate.lr_forecast import Prospect, prospects
from agenttune.gate.nearest_values import nearest_plan, nearest_rate, nearest_value
from agenttune.gate.ranges import EVERYTHING, ClosedRange, above, below
from agenttune.protocol.commands import CommandBase, UpdateSchedule
from agenttune.protocol.proposals import Proposal, Verdict


def bounds(proposal: Proposal, world: World) -> Verdict | None:
    """Refuses values outside of `gate.bounds` or of the bounds that a knob was registered with."""
    targets = targets_of(proposal.command, world.info)
    for target in targets:
        if target.knob == "lr":
            continue
        for source, limit in limits_of(target.knob, world):
            span = _allowed(target, limit)
            if not span.has(target.value):
                reason = f"{target.text} is outside {_range_text(limit)} ({source})"
                return refused("bounds", reason, nearest_value(proposal.command, target, span))
    for source, limit in limits_of("lr", world):
        refusal = _rate_bounds(proposal.command, [t for t in targets if t.knob == "lr"], limit, source, world)
        if refusal is not None:
            return refusal
    return None


def limits_of(knob: str, world: World) -> Iterator[tuple[str, Bounds]]:
    """Where the bounds of a knob come from, and what they are."""
    if knob in world.settings.bounds:
        yield f"gate.bounds.{knob}", world.settings.bounds[knob]
    for known in world.info.knobs:
        if known.name == knob and (known.minimum is not None or known.maximum is not None):
            yield "the knob's own bounds", Bounds(minimum=known.minimum, maximum=known.maximum)


def _range_text(limit: Bounds) -> str:
    low = "-inf" if limit.minimum is None else f"{limit.minimum:g}"
    high = "inf" if limit.maximum is None else f"{limit.maximum:g}"
    return f"[{low}, {high}]"


def _allowed(target: Target, limit: Bounds) -> ClosedRange:
    span = ClosedRange.of(limit)
    if target.is_off and limit.maximum is not None and limit.minimum is None:
        return ClosedRange(min(0.1, limit.maximum), limit.maximum)  # without a limit is beyond every limit
    return span


def _rate_bounds(
    command: CommandBase, targets: Sequence[Target], limit: Bounds, source: str, world: World
) -> Verdict | None:
    found, plan = prospects(command, world.info), command.lr_plan()
    if plan is not None:
        if plan.shape == "previous" and _brings_back_own(world):
            return None  # what the user started with is the user's
        if not found:  # too little is known to tell the course; what is asked for is known
            span = ClosedRange.of(limit)
            wrong = next((target for target in targets if not span.has(target.value)), None)
            if wrong is None:
                return None
            reason = f"{wrong.field} {wrong.value:g} is outside {_range_text(limit)} ({source})"
            return refused("bounds", reason, {wrong.field: span.clip(wrong.value)})
        return _plan_bounds(plan, found, limit, source, world)
    return _scaling_bounds(command, targets, found, limit, source)


def _brings_back_own(world: World) -> bool:
    course = world.info.schedule
    return course is not None and course.before is not None and course.before.is_own


def _scaling_bounds(
    command: CommandBase, targets: Sequence[Target], found: Sequence[Prospect], limit: Bounds, source: str
) -> Verdict | None:
    """The rate asked for must be within; rates that follow from it, no further outside than they are now."""
    span, ratios, problem = ClosedRange.of(limit), EVERYTHING, ""
    for target in targets:
        own = span if target.is_asked else span.reaching(target.current)
        if not own.has(target.value):
            problem = problem or f"{target.text} is outside {_range_text(limit)} ({source})"
        ratio = target.ratio
        if not target.current or ratio is None:
            continue
        ratios = ratios.within(own.over(target.current))
        if target.other:
            implied = span.reaching(target.other)
            ratios = ratios.within(implied.over(target.other))
            if not implied.has(target.other * ratio):
                problem = problem or (
                    f"{target.text} means {target.other * ratio:g} for the other of base and "
                    f"effective rate, which is outside {_range_text(limit)} ({source})"
                )
    for prospect in found:
        top = max(prospect.before.high)
        if 0 < top < math.inf:
            reach = span.reaching(top)
            ratios = ratios.within(ClosedRange(0.0, reach.high / top))
        if above(max(prospect.after.high), span.reaching(top).high):
            problem = problem or (
                f"{prospect.label} would reach {max(prospect.after.high):g} at step {_step_of_highest(prospect)}, "
                f"as its schedule goes on; that is outside {_range_text(limit)} ({source})"
            )
    if not problem:
        return None
    return refused("bounds", problem, nearest_rate(command, targets, ratios, span))


def _plan_bounds(
    command: UpdateSchedule, found: Sequence[Prospect], limit: Bounds, source: str, world: World
) -> Verdict | None:
    """Every later rate must be within, or no further outside than the schedule in force is at that step."""
    span = ClosedRange.of(limit)
    lows = [[min(span.low * p.leeway[i], p.before.low[i]) for i in range(len(p.edges))] for p in found]
    highs = [[max(span.high, p.before.high[i]) for i in range(len(p.edges))] for p in found]
    for prospect, low, high in zip(found, lows, highs, strict=True):
        for i, edge in enumerate(prospect.edges):
            rate = prospect.after.high[i] if above(prospect.after.high[i], high[i]) else prospect.after.low[i]
            if above(prospect.after.high[i], high[i]) or below(prospect.after.low[i], low[i]):
                reason = (
                    f"{prospect.label} would be {rate:g} by step {edge}, which is outside {_range_text(limit)} "
                    f"({source}), and the schedule in force would not go there"
                )
                return refused("bounds", reason, nearest_plan(command, found, lows, highs, world.info))
    return None


def _step_of_highest(prospect: Prospect) -> int:
    return prospect.edges[prospect.after.high.index(max(prospect.after.high))]
