"""How far agents may move a value: by one command, and by all commands of a window together.

This holds for every parameter group that a command writes, and for the whole course of the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agenttune.gate.context import World, refused
from agenttune.gate.knob_targets import NEAR_ONE, OFF_IS_ZERO, Target, targets_of
from agenttune.gate.lr_forecast import Prospect, prospects
from agenttune.gate.nearest_values import nearest_plan, nearest_rate, nearest_value
from agenttune.gate.ranges import EVERYTHING, ClosedRange, above, below
from agenttune.gate.value_bounds import limits_of
from agenttune.protocol.commands import CommandBase, UpdateSchedule
from agenttune.protocol.metrics import is_number
from agenttune.protocol.proposals import Change, Proposal, Verdict

ULP = 2.0**-52
"""The spacing of floats near 1: `1 - value` is known no better than that."""
FROM_ZERO: dict[str, ClosedRange] = {
    "weight_decay": ClosedRange(0.0, 0.1),
    "momentum": ClosedRange(0.0, 0.95),
    "max_grad_norm": ClosedRange(0.1, math.inf),
}
"""How far an agent may go from 0 (or off) where a factor is limited and no earlier value is known to compare with
(guess: what is common); other knobs up to their own maximum over the factor."""
Moves = dict[tuple[str, int | None, int | None], tuple[float, float]]
"""Per knob, group and place in a list: how far commands have moved it, down and up, as multiples."""


@dataclass(frozen=True)
class FactorLimit:
    """A limit of relative changes.

    Attributes:
        guardrail: Its name.
        factor: How far a value may be moved, up or down.
        setting: How a refusal goes on after it has said what would change.
        moves: How far earlier commands have moved the values already.
    """

    guardrail: str
    factor: float
    setting: str
    moves: Moves = field(default_factory=dict)

    def moved(self, target: Target) -> tuple[float, float]:
        """How far a value has been moved already, down and up."""
        for group in (target.group, 0 if target.group is None else None):
            if (target.knob, group, target.index) in self.moves:
                return self.moves[target.knob, group, target.index]
        return 1.0, 1.0

    def since(self, target: Target) -> str:
        """The same in words; empty if it has not been moved."""
        down, up = self.moved(target)
        return "" if (down, up) == (1.0, 1.0) else f", after it was changed {max(up, 1 / down):g}-fold"

    def around(self, value: float, target: Target) -> ClosedRange:
        """Where a value may still go."""
        down, up = self.moved(target)
        return ClosedRange(value / (self.factor * down), value * self.factor / up)

    def rest(self, target: Target) -> ClosedRange:
        """The range of `1 - value`, checked on its own: near 1, rounding in `value` would swallow the limit."""
        if target.rest is None:
            return EVERYTHING
        return self.around(target.rest, replace(target, knob=_rest_of(target.knob)))

    def refusal(self, problem: str, nearest: dict[str, Any] | None) -> Verdict:
        return refused(self.guardrail, f"{problem}, {self.setting}", nearest)


def change_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change by one command of an agent.

    Of a return, the trainer compares the rate that it sets with that of now and that of then, and takes the nearer.
    """
    factor = world.settings.max_change_factor
    if factor is None or proposal.author.principal != "agent" or proposal.command.is_return:
        return None
    setting = f"by more than a factor of {factor:g} (gate.max_change_factor)"
    return _refusal(proposal.command, world, FactorLimit("change_factor", factor, setting))


def window_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change of a knob by agents over the newest steps, all their commands together.

    Returns as for `change_factor`.
    """
    window = world.settings.window
    factor = window.max_change_factor
    if factor is None or proposal.author.principal != "agent" or proposal.command.is_return:
        return None
    setting = f"by more than a factor of {factor:g} (gate.window.max_change_factor, over {window.steps} steps)"
    return _refusal(proposal.command, world, FactorLimit("window", factor, setting, moves_within(world)))


def _refusal(command: CommandBase, world: World, limit: FactorLimit) -> Verdict | None:
    targets = targets_of(command, world.info)
    allowed = {target: _allowed(target, world, limit) for target in targets if target.knob != "lr"}
    for target, (span, problem) in allowed.items():
        if not span.has(target.value) or not _has_rest(limit.rest(target), target.value):
            together = EVERYTHING  # of all groups
            for other, (own, _) in allowed.items():
                if (other.field, other.index) == (target.field, target.index):
                    together = together.within(own)
            return limit.refusal(problem, nearest_value(command, target, together))
    plan = command.lr_plan()
    if plan is not None:
        return _plan_refusal(plan, prospects(plan, world.info), world, limit)
    return _rate_refusal(command, [target for target in targets if target.knob == "lr"], world, limit)


def _allowed(target: Target, world: World, limit: FactorLimit) -> tuple[ClosedRange, str]:
    """Where a value may go, and what to say if it does not go there."""
    now, name = target.current, target.label
    if now is not None and now > 0:
        span, rest = limit.around(now, target), limit.rest(target)
        if target.rest is not None:
            span = span.within(ClosedRange(1 - rest.high, 1 - rest.low))
            if not _has_rest(rest, target.value):
                left = f"{target.rest:.3g} to {1 - target.value:.3g}"
                return span, f"{name} would change from {now:.9g} to {target.value:.9g}, which is 1 less {left}"
        if target.is_off:
            return span, f"{name} {now:g} would be switched off"
        if target.value <= 0:
            return span, f"{name} would go from {now:g} to {target.value:g}"
        return span, f"{name} would change from {now:g} to {target.value:g}{limit.since(target)}"
    if now is None or now < 0 or target.value == now:
        return EVERYTHING, ""
    last, factor = last_value(target, world), limit.factor
    if last is not None:
        span = ClosedRange(last / factor if target.knob in OFF_IS_ZERO else 0.0, last * factor)
        if target.field in NEAR_ONE and last < 1:
            span = span.within(ClosedRange(-math.inf, 1 - (1 - last) / factor))
        return span, f"{name} was {last:g} before it was set to 0, and would be {target.value:g}"
    span = FROM_ZERO.get(target.knob, _share_of_maximum(target, world, factor))
    return span, f"{name} would go from 0 to {target.value:g}, with no earlier value to compare it with"


def _has_rest(rest: ClosedRange, value: float) -> bool:
    return any(rest.has(1 - value + off) for off in (0.0, ULP, -ULP))


def _share_of_maximum(target: Target, world: World, factor: float) -> ClosedRange:
    limits = [limit.maximum for _, limit in limits_of(target.knob, world) if limit.maximum is not None]
    return ClosedRange(0.0, min(limits) / factor) if limits else ClosedRange(0.0, 0.0)


def last_value(target: Target, world: World) -> float | None:
    """The newest value above 0 that a knob had, by the acks of agents' commands."""
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


def _rate_refusal(command: CommandBase, targets: Sequence[Target], world: World, limit: FactorLimit) -> Verdict | None:
    """Compares ratios, which are the same for base and effective learning rate."""
    ratios, problem = EVERYTHING, ""
    for target in targets:
        if target.current is None or (target.current == 0 and target.value == 0):
            continue
        if target.current == 0:
            last = last_value(target, world)
            if last is None or not ClosedRange(last / limit.factor, last * limit.factor).has(target.value):
                known = "with no earlier value to compare it with" if last is None else f"it was {last:g} before"
                problem = problem or f"{target.label} would go from 0 to {target.value:g}, {known}"
            continue
        span = limit.around(1.0, target)
        ratios = ratios.within(span)
        if not span.has(target.value / target.current):
            change = f"{target.current:g} to {target.value:g}{limit.since(target)}"
            problem = problem or f"{target.label} would change from {change}"
    return limit.refusal(problem, nearest_rate(command, targets, ratios)) if problem else None


def _plan_refusal(
    command: UpdateSchedule, found: Sequence[Prospect], world: World, limit: FactorLimit
) -> Verdict | None:
    """Compares each later rate with the lowest and highest that the schedule in force has from now to that step."""
    lows, highs = [], []
    for prospect in found:
        down, up = limit.moves.get(("lr", prospect.group, None), (1.0, 1.0))
        low, high = math.inf, 0.0
        lows.append(list[float]())
        highs.append(list[float]())
        for i in range(len(prospect.edges)):
            low, high = min(low, prospect.before.low[i]), max(high, prospect.before.high[i])
            lows[-1].append(low * prospect.leeway[i] / (limit.factor * down))
            highs[-1].append(high * limit.factor / up)
    for prospect, low_of, high_of in zip(found, lows, highs, strict=True):
        for i, edge in enumerate(prospect.edges):
            is_high = above(prospect.after.high[i], high_of[i])
            if is_high or below(prospect.after.low[i], low_of[i]):
                rate = prospect.after.high[i] if is_high else prospect.after.low[i]
                span = ClosedRange(min(prospect.before.low[: i + 1]), max(prospect.before.high[: i + 1]))
                reason = (
                    f"{prospect.label} would be {rate:g} by step {edge}, where the schedule in force goes from "
                    f"{span.high:g} to {span.low:g}: {limit.setting}"
                )
                return refused(limit.guardrail, reason, nearest_plan(command, found, lows, highs, world.info))
    return None


# -- what was done already -------------------------------------------------------------------------------------------


def moves_within(world: World) -> Moves:
    """All moves within the window; moves down and moves up are multiplied separately, so they never cancel out."""
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
    return is_number(value) and 0 < value < math.inf
