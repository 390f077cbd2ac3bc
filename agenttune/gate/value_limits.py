"""Limits of values: bounds, how far one command may move a knob, and how far all of a window's together.

Each holds for every parameter group that a command writes, and for the whole course of the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from agenttune.config import Bounds
from agenttune.gate.context import World, refused
from agenttune.gate.knob_targets import NEAR_ONE, Target, targets_of
from agenttune.gate.lr_forecast import Prospect, prospects
from agenttune.gate.nearest_plan import nearest_plan
from agenttune.gate.ranges import EVERYTHING, Span, above, below
from agenttune.protocol.commands import CommandBase, UpdateSchedule
from agenttune.protocol.proposals import Change, Proposal, Verdict

OFF_IS_ZERO = frozenset({"max_grad_norm"})
"""Knobs of which 0 is no small value but none at all: no clipping is clipping at infinity."""
ULP = 2.0**-52
"""Of numbers near 1: closer than that what is left to 1 cannot be told."""
FROM_ZERO: dict[str, Span] = {
    "weight_decay": Span(0.0, 0.1),
    "momentum": Span(0.0, 0.95),
    "max_grad_norm": Span(0.1, math.inf),
}
"""How far an agent may go from 0 (or off) where a factor is limited and no earlier value is known to compare with
(guess: what is common); other knobs up to their own maximum over the factor."""


# -- bounds --------------------------------------------------------------------------------------------------------


def bounds(proposal: Proposal, world: World) -> Verdict | None:
    """Absolute bounds: those of the settings and those a knob was registered with."""
    targets = targets_of(proposal.command, world.info)
    for target in targets:
        if target.knob == "lr":
            continue
        for source, limit in _limits(target.knob, world):
            span = _allowed(target, limit)
            if not span.has(target.value):
                reason = f"{_value(target)} is outside {limit_text(limit)} ({source})"
                return refused("bounds", reason, _nearest(proposal.command, target, span))
    for source, limit in _limits("lr", world):
        refusal = _rate_bounds(proposal.command, [t for t in targets if t.knob == "lr"], limit, source, world)
        if refusal is not None:
            return refusal
    return None


def _limits(knob: str, world: World) -> Iterator[tuple[str, Bounds]]:
    if knob in world.settings.bounds:
        yield f"gate.bounds.{knob}", world.settings.bounds[knob]
    for known in world.info.knobs:
        if known.name == knob and (known.minimum is not None or known.maximum is not None):
            yield "the knob's own bounds", Bounds(minimum=known.minimum, maximum=known.maximum)


def limit_text(limit: Bounds) -> str:
    low = "-inf" if limit.minimum is None else f"{limit.minimum:g}"
    high = "inf" if limit.maximum is None else f"{limit.maximum:g}"
    return f"[{low}, {high}]"


def _allowed(target: Target, limit: Bounds) -> Span:
    span = Span.of(limit)
    if target.knob in OFF_IS_ZERO and target.value == 0 and limit.maximum is not None and limit.minimum is None:
        return Span(min(0.1, limit.maximum), limit.maximum)  # without a limit is beyond every limit
    return span


def _rate_bounds(
    command: CommandBase, targets: Sequence[Target], limit: Bounds, source: str, world: World
) -> Verdict | None:
    found, plan = prospects(command, world.info), command.lr_plan()
    if plan is not None:
        if plan.shape == "previous" and _brings_back_own(world):
            return None  # what the user started with is the user's
        if not found:  # too little is known to tell the course; what is asked for is known
            span = Span.of(limit)
            wrong = next((target for target in targets if not span.has(target.value)), None)
            if wrong is None:
                return None
            reason = f"{wrong.field} {wrong.value:g} is outside {limit_text(limit)} ({source})"
            return refused("bounds", reason, {wrong.field: span.clip(wrong.value)})
        return _plan_bounds(plan, found, limit, source, world)
    return _scaling_bounds(command, targets, found, limit, source)


def _brings_back_own(world: World) -> bool:
    course = world.info.schedule
    return course is not None and course.before is not None and course.before.is_own


def _scaling_bounds(
    command: CommandBase, targets: Sequence[Target], found: Sequence[Prospect], limit: Bounds, source: str
) -> Verdict | None:
    """The rate asked for is within the bounds; what follows from it is within, or no further outside than it was."""
    span, ratios, problem = Span.of(limit), EVERYTHING, ""
    for target in targets:
        own = span if target.is_asked else span.reaching(target.current)
        if not own.has(target.value):
            problem = problem or f"{_value(target)} is outside {limit_text(limit)} ({source})"
        ratio = target.ratio
        if not target.current or ratio is None:
            continue
        ratios = ratios.within(own.over(target.current))
        if target.other:
            implied = span.reaching(target.other)
            ratios = ratios.within(implied.over(target.other))
            if not implied.has(target.other * ratio):
                problem = problem or (
                    f"{_value(target)} means {target.other * ratio:g} for the other of base and "
                    f"effective rate, which is outside {limit_text(limit)} ({source})"
                )
    for prospect in found:
        top = max(prospect.before.high)
        if 0 < top < math.inf:
            reach = span.reaching(top)
            ratios = ratios.within(Span(0.0, reach.high / top))
        if above(max(prospect.after.high), span.reaching(top).high):
            problem = problem or (
                f"{_rate(prospect)} would reach {max(prospect.after.high):g} at step "
                f"{_step_of_highest(prospect)}, as its schedule goes on; that is outside {limit_text(limit)} ({source})"
            )
    if not problem:
        return None
    return refused("bounds", problem, _nearest_rate(command, targets, ratios, span))


def _plan_bounds(
    command: UpdateSchedule, found: Sequence[Prospect], limit: Bounds, source: str, world: World
) -> Verdict | None:
    """Every later rate is within the bounds, or no further outside than that of the schedule in force at that step."""
    span = Span.of(limit)
    lows = [[min(span.low * p.leeway[i], p.before.low[i]) for i in range(len(p.edges))] for p in found]
    highs = [[max(span.high, p.before.high[i]) for i in range(len(p.edges))] for p in found]
    for prospect, low, high in zip(found, lows, highs, strict=True):
        for i, edge in enumerate(prospect.edges):
            rate = prospect.after.high[i] if above(prospect.after.high[i], high[i]) else prospect.after.low[i]
            if above(prospect.after.high[i], high[i]) or below(prospect.after.low[i], low[i]):
                reason = (
                    f"{_rate(prospect)} would be {rate:g} by step {edge}, which is outside {limit_text(limit)} "
                    f"({source}), and the schedule in force would not go there"
                )
                return refused("bounds", reason, nearest_plan(command, found, lows, highs, world.info))
    return None


# -- factors -------------------------------------------------------------------------------------------------------


def change_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change by one command of an agent."""
    factor = world.settings.max_change_factor
    if factor is None or proposal.author.principal != "agent":
        return None
    setting = f"by more than a factor of {factor:g} (gate.max_change_factor)"
    return _by_factor(proposal.command, world, factor, {}, "change_factor", setting)


def window_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change of a knob by agents over the newest steps, all their commands together."""
    window = world.settings.window
    factor = window.max_change_factor
    if factor is None or proposal.author.principal != "agent":
        return None
    setting = f"by more than a factor of {factor:g} (gate.window.max_change_factor, over {window.steps} steps)"
    return _by_factor(proposal.command, world, factor, _moves(world), "window", setting)


Moves = dict[tuple[str, int | None, int | None], tuple[float, float]]
"""Per knob, group and place in a list: how far the commands of a window have moved it, down and up, as multiples."""


def _moves(world: World) -> Moves:
    """Moves down and up are multiplied each: together they are never less than what was done."""
    found: Moves = {}
    for record in world.recent:
        for change in record.ack.changes if record.ack is not None else ():
            for key, (down, up) in _moved(change).items():
                before = found.get(key, (1.0, 1.0))
                found[key] = (before[0] * down, before[1] * up)
    return found


def _moved(change: Change) -> Moves:
    if change.factors is not None:
        return {
            (change.name, group, None): (low if _is_positive(low) else 1.0, high if _is_positive(high) else 1.0)
            for group, (low, high) in enumerate(change.factors)
        }
    before = change.previous_groups if change.previous_groups is not None else [change.previous]
    after = change.groups if change.groups is not None else [change.effective]
    if len(before) != len(after):  # an older version's ack tells of the first group only
        before, after = [change.previous], [change.effective]
    found: Moves = {}
    is_near_one = {change.name, f"other.{change.name}"} & NEAR_ONE
    for group, (old, new) in enumerate(zip(before, after, strict=True)):
        olds, news = _as_list(old), _as_list(new)
        for index, (a, b) in enumerate(zip(olds, news, strict=False)):
            if _is_positive(a) and _is_positive(b):
                place = index if isinstance(new, (list, tuple)) else None
                found[(change.name, group, place)] = (b / a, b / a)
                if is_near_one and a < 1 and b < 1:
                    rest = (1 - b) / (1 - a)
                    found[(_rest_of(change.name), group, place)] = (rest, rest)
    return found


def _rest_of(knob: str) -> str:
    return f"1 - {knob}"


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _by_factor(
    command: CommandBase, world: World, factor: float, moves: Moves, guardrail: str, setting: str
) -> Verdict | None:
    targets = targets_of(command, world.info)
    others = [target for target in targets if target.knob != "lr"]
    allowed = {target: _span_of(target, world, factor, moves) for target in others}
    for target, (span, reason) in allowed.items():
        if not span.has(target.value) or not _has_rest(_rest_span(target, factor, moves), target.value):
            alike = [s for t, (s, _) in allowed.items() if (t.field, t.index) == (target.field, target.index)]
            together = EVERYTHING
            for one in alike:
                together = together.within(one)
            return refused(guardrail, f"{reason}, {setting}", _nearest(command, target, together))
    rates = [target for target in targets if target.knob == "lr"]
    plan = command.lr_plan()
    if plan is not None:
        return _plan_factor(plan, prospects(plan, world.info), world, factor, moves, guardrail, setting)
    return _scaling_factor(command, rates, world, factor, moves, guardrail, setting)


def _span_of(target: Target, world: World, factor: float, moves: Moves) -> tuple[Span, str]:
    """Where a value may go, and what to say if it does not go there."""
    now, name = target.current, _name(target)
    down, up = _moved_so_far(moves, target)
    is_off = target.knob in OFF_IS_ZERO
    if now is not None and now > 0:
        span = Span(now / (factor * down), now * factor / up)
        if target.rest is not None:
            rest = _rest_span(target, factor, moves)
            span = span.within(Span(1 - rest.high, 1 - rest.low))
            if not _has_rest(rest, target.value):
                left = f"{target.rest:.3g} to {1 - target.value:.3g}"
                return span, f"{name} would change from {now:.9g} to {target.value:.9g}, which is 1 less {left}"
        if target.value == 0 and is_off:
            return Span(span.low, span.high), f"{name} {now:g} would be switched off"
        if target.value <= 0:
            return span, f"{name} would go from {now:g} to {target.value:g}"
        since = "" if (down, up) == (1.0, 1.0) else f", after it was changed {max(up, 1 / down):g}-fold"
        return span, f"{name} would change from {now:g} to {target.value:g}{since}"
    if now is None or now < 0 or target.value == now:
        return EVERYTHING, ""
    last = last_value(target, world)
    if last is not None:
        span = Span(0.0, last * factor) if not is_off else Span(last / factor, last * factor)
        if target.field in NEAR_ONE and last < 1:
            span = span.within(Span(-math.inf, 1 - (1 - last) / factor))
        return span, f"{name} was {last:g} before it was set to 0, and would be {target.value:g}"
    span = FROM_ZERO.get(target.knob, _share_of_maximum(target, world, factor))
    return span, f"{name} would go from 0 to {target.value:g}, with no earlier value to compare it with"


def _rest_span(target: Target, factor: float, moves: Moves) -> Span:
    """Where what is left to 1 may go; it is compared by itself, since near 1 a limit's last digits are all of it."""
    if target.rest is None:
        return EVERYTHING
    down, up = _moved_so_far(moves, replace(target, knob=_rest_of(target.knob)))
    return Span(target.rest / (factor * down), target.rest * factor / up)


def _has_rest(rest: Span, value: float) -> bool:
    return any(rest.has(1 - value + off) for off in (0.0, ULP, -ULP))


def _share_of_maximum(target: Target, world: World, factor: float) -> Span:
    limits = [limit.maximum for _, limit in _limits(target.knob, world) if limit.maximum is not None]
    return Span(0.0, min(limits) / factor) if limits else Span(0.0, 0.0)


def last_value(target: Target, world: World) -> float | None:
    """The newest value above 0 that agents' changes of a knob tell of."""
    for record in reversed(world.history.commands):
        for change in record.ack.changes if record.ack is not None else ():
            if change.name == target.knob:
                for groups, single in ((change.groups, change.effective), (change.previous_groups, change.previous)):
                    value = _one_of(groups, single, target)
                    if value is not None:
                        return value
    return None


def _one_of(groups: list[Any] | None, single: Any, target: Target) -> float | None:
    value = single
    if groups is not None and target.group is not None and target.group < len(groups):
        value = groups[target.group]
    listed, index = _as_list(value), target.index or 0
    return float(listed[index]) if index < len(listed) and _is_positive(listed[index]) else None


def _moved_so_far(moves: Moves, target: Target) -> tuple[float, float]:
    for group in (target.group, 0 if target.group is None else None):
        if (target.knob, group, target.index) in moves:
            return moves[target.knob, group, target.index]
    return 1.0, 1.0


def _scaling_factor(
    command: CommandBase,
    targets: Sequence[Target],
    world: World,
    factor: float,
    moves: Moves,
    guardrail: str,
    setting: str,
) -> Verdict | None:
    """All rates are multiplied alike, so that base and effective rate cannot be confused."""
    ratios, problem = EVERYTHING, ""
    for target in targets:
        down, up = _moved_so_far(moves, target)
        if target.current is None or (target.current == 0 and target.value == 0):
            continue
        if target.current == 0:
            last = last_value(target, world)
            if last is None or not Span(last / factor, last * factor).has(target.value):
                known = "with no earlier value to compare it with" if last is None else f"it was {last:g} before"
                problem = problem or f"{_name(target)} would go from 0 to {target.value:g}, {known}"
            continue
        span = Span(1 / (factor * down), factor / up)
        ratios = ratios.within(span)
        ratio = target.value / target.current
        if not span.has(ratio):
            since = "" if (down, up) == (1.0, 1.0) else f", after it was changed {max(up, 1 / down):g}-fold"
            problem = problem or f"{_name(target)} would change from {target.current:g} to {target.value:g}{since}"
    if not problem:
        return None
    return refused(guardrail, f"{problem}, {setting}", _nearest_rate(command, targets, ratios))


def _plan_factor(
    command: UpdateSchedule,
    found: Sequence[Prospect],
    world: World,
    factor: float,
    moves: Moves,
    guardrail: str,
    setting: str,
) -> Verdict | None:
    lows, highs = [], []
    for prospect in found:
        down, up = moves.get(("lr", prospect.group, None), (1.0, 1.0))
        low, high = math.inf, 0.0
        lows.append(list[float]())
        highs.append(list[float]())
        for i in range(len(prospect.edges)):
            low, high = min(low, prospect.before.low[i]), max(high, prospect.before.high[i])
            lows[-1].append(low * prospect.leeway[i] / (factor * down))
            highs[-1].append(high * factor / up)
    for prospect, low_of, high_of in zip(found, lows, highs, strict=True):
        for i, edge in enumerate(prospect.edges):
            is_high = above(prospect.after.high[i], high_of[i])
            if is_high or below(prospect.after.low[i], low_of[i]):
                rate = prospect.after.high[i] if is_high else prospect.after.low[i]
                span = Span(min(prospect.before.low[: i + 1]), max(prospect.before.high[: i + 1]))
                reason = (
                    f"{_rate(prospect)} would be {rate:g} by step {edge}, where the schedule in force goes from "
                    f"{span.high:g} to {span.low:g}: {setting}"
                )
                return refused(guardrail, reason, nearest_plan(command, found, lows, highs, world.info))
    return None


# -- words ---------------------------------------------------------------------------------------------------------


def _name(target: Target) -> str:
    return target.knob if not target.group else f"{target.knob} of parameter group {target.group}"


def _value(target: Target) -> str:
    return f"{target.knob} {target.value:g}" + (f" of parameter group {target.group}" if target.group else "")


def _rate(prospect: Prospect) -> str:
    return "lr" if not prospect.group else f"lr of parameter group {prospect.group}"


def _step_of_highest(prospect: Prospect) -> int:
    return prospect.edges[prospect.after.high.index(max(prospect.after.high))]


def _nearest(command: CommandBase, target: Target, span: Span) -> dict[str, Any] | None:
    """The nearest value that passes; of a list, the list with it."""
    if not span:
        return None
    is_off = target.knob in OFF_IS_ZERO and target.value == 0
    value: Any = span.high if is_off else span.clip(target.value)
    if target.index is not None:
        held = _list_in(command, target.field)
        if target.index >= len(held):
            return None
        held[target.index] = value
        value = held
    return {target.field: value}


def _list_in(command: CommandBase, field: str) -> list[Any]:
    """The list that stands in a field; a dotted one reaches into a mapping."""
    outer, _, inner = field.partition(".")
    value = command.arguments().get(outer)
    return list((value or {}).get(inner, ()) if inner else value or ())


def _nearest_rate(
    command: CommandBase, targets: Sequence[Target], ratios: Span, span: Span = EVERYTHING
) -> dict[str, Any] | None:
    """The nearest rate that passes in all groups."""
    asked = next((target for target in targets if target.is_asked), None)
    if asked is None:
        return None
    if asked.current:
        allowed = ratios.times(asked.current).within(span)
        value = allowed.clip(asked.value) if allowed else None
    else:
        value = span.clip(asked.value) if span is not EVERYTHING and len(targets) == 1 else None
    return None if value is None else {asked.field: value}
