"""The nearest values, rates and plans of the learning rate that keep within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agenttune.errors import CommandError
from agenttune.gate.knob_targets import Target
from agenttune.gate.lr_forecast import Prospect, prospects
from agenttune.gate.ranges import EVERYTHING, ClosedRange, above, below
from agenttune.protocol.commands import CommandBase, UpdateSchedule, parse_command
from agenttune.protocol.run_info import RunInfo

MOST_REPAIRS = 6
"""Repairs of one plan before giving up; each brings one of its rates within limits (guess: it has three)."""
Limits = Sequence[Sequence[float]]
"""Per group, per stretch of steps."""


def nearest_value(command: CommandBase, target: Target, span: ClosedRange) -> dict[str, Any] | None:
    """The nearest value that passes, as an argument; of a list, the whole list with that value in it."""
    if not span:
        return None
    value: Any = span.high if target.is_off else span.clip(target.value)
    if target.index is not None:
        held = _list_in(command, target.field)
        if target.index >= len(held):
            return None
        held[target.index] = value
        value = held
    return {target.field: value}


def _list_in(command: CommandBase, field: str) -> list[Any]:
    """The list in a field; a dotted name reaches into a mapping."""
    outer, _, inner = field.partition(".")
    value = command.arguments().get(outer)
    return list((value or {}).get(inner, ()) if inner else value or ())


def nearest_rate(
    command: CommandBase, targets: Sequence[Target], ratios: ClosedRange, span: ClosedRange = EVERYTHING
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


def nearest_plan(
    command: UpdateSchedule, found: Sequence[Prospect], lows: Limits, highs: Limits, info: RunInfo
) -> dict[str, Any] | None:
    """Rates of a plan of the same shape and length that pass in all groups; None if none of them is found.

    Args:
        command: That does not pass.
        found: What it would lead to.
        lows: Lowest rates allowed.
        highs: Highest rates allowed.
        info: The run.
    """
    if command.shape == "previous":
        return None
    changed: dict[str, Any] = {}
    for _ in range(MOST_REPAIRS):
        fields = _repair(command, found, lows, highs)
        if not fields:
            return changed or None
        changed |= fields
        try:
            plan = parse_command({"kind": command.kind, **command.arguments(), **changed}).lr_plan()
        except CommandError:
            return None
        if plan is None:
            return None
        command, found = plan, prospects(plan, info)
        if not found or [len(p.edges) for p in found] != [len(row) for row in lows]:
            return None
    return None


def _repair(command: UpdateSchedule, found: Sequence[Prospect], lows: Limits, highs: Limits) -> dict[str, Any]:
    """Arguments that bring the rate that is furthest outside to its limit; empty if all are inside."""
    worst_high, worst_low, where = 1.0, 1.0, None
    for prospect, low, high in zip(found, lows, highs, strict=True):
        for i in range(len(prospect.edges)):
            if above(prospect.after.high[i], high[i]):
                worst_high = min(worst_high, high[i] / prospect.after.high[i])
            elif below(prospect.after.low[i], low[i]) and low[i] > 0:
                part = prospect.after.low[i] / low[i]
                if part < worst_low:
                    worst_low, where = part, (prospect, i, low[i])
    peak = _peak(command, found)
    if worst_high < 1:
        if command.final_lr > peak and command.shape != "constant":  # it rises to its end
            return {"final_lr": max(peak, command.final_lr * worst_high)}
        top = peak * worst_high
        return {"peak_lr": top, **({"final_lr": top} if command.final_lr > top else {}), **_start(command, top)}
    if where is None:
        return {}
    prospect, i, limit = where
    wanted = limit / prospect.share if prospect.share else 0.0
    in_warm_up = prospect.edges[i] < prospect.edges[0] + command.warmup_steps
    if in_warm_up:
        return {"start_lr": min(wanted, peak)}
    left = _left(prospect, i, command, peak)
    if left >= 1 or wanted >= peak:
        return {"peak_lr": wanted}
    return {"final_lr": max(command.final_lr, (wanted - peak * left) / (1 - left))}


def _start(command: UpdateSchedule, top: float) -> dict[str, Any]:
    return {"start_lr": top} if command.start_lr is not None and command.start_lr > top else {}


def _peak(command: UpdateSchedule, found: Sequence[Prospect]) -> float:
    return command.peak_lr if command.peak_lr is not None else found[0].before.low[0] / (found[0].share or 1.0)


def _left(prospect: Prospect, i: int, command: UpdateSchedule, peak: float) -> float:
    """Where the lowest rate of a stretch lies between the final rate (0) and the peak (1)."""
    rate = prospect.after.low[i] / prospect.share if prospect.share else 0.0
    whole = peak - command.final_lr
    return 1.0 if whole <= 0 or command.shape == "constant" else (rate - command.final_lr) / whole
