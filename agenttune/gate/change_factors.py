"""How much a command changes: as a factor for approval rules, as before and after for whoever is asked."""

from __future__ import annotations

import math

from agenttune.gate.knob_targets import Target, targets_of
from agenttune.gate.lr_forecast import course_text, prospects
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.proposals import Difference
from agenttune.protocol.run_info import RunInfo


def factor_of(command: CommandBase, info: RunInfo) -> float:
    """The largest factor by which a command changes a knob in any group, up or down; infinite where it is not known.

    Of the learning rate every later step counts. A plan is compared, step by step, with the schedule in force.
    """
    return max(_factor_of(one, info) for one in command.alternatives())


def _factor_of(command: CommandBase, info: RunInfo) -> float:
    if command.lr_plan() is not None:
        found = prospects(command, info)
        known = bool(found) and info.schedule is not None
        return max(p.strict_factor() for p in found) if known else math.inf
    targets, touched = targets_of(command, info), command.touched()
    if not touched or touched - {target.knob for target in targets}:
        return math.inf
    return max((target.factor() for target in targets), default=math.inf)


def value_before(name: str, command: CommandBase, info: RunInfo) -> float:
    """A knob's value now, in the group for which the command asks the largest value; NaN if it is no number."""
    target = _largest(name, command, info)
    if target is not None and target.current is not None:
        return target.current
    value = next((knob.effective for knob in info.knobs if knob.name == name), None)
    return float(value) if isinstance(value, (int, float)) else math.nan


def value_after(name: str, command: CommandBase, info: RunInfo) -> float:
    """The largest value that a command gives a knob in any group (for the learning rate: at any step); NaN if none."""
    if name == "lr":
        for one in command.alternatives():
            if one.lr_plan() is not None and (found := prospects(one, info)):
                return max(max(prospect.after.high) for prospect in found)
    target = _largest(name, command, info)
    return math.nan if target is None else target.value


def _largest(name: str, command: CommandBase, info: RunInfo) -> Target | None:
    mine = [target for target in targets_of(command, info) if target.knob == name]
    return max(mine, key=lambda target: target.value, default=None)


def differences_of(command: CommandBase, info: RunInfo) -> list[Difference]:
    """Values before and after, one line for each group where groups differ; for a plan also the schedules in words."""
    return [difference for one in command.alternatives() for difference in _differences_of(one, info)]


def _differences_of(command: CommandBase, info: RunInfo) -> list[Difference]:
    found: list[Difference] = []
    plan = command.lr_plan()
    if plan is not None:
        before = info.schedule.text if info.schedule is not None else None
        found = [Difference(name="schedule", before=before, after=course_text(plan, info) or plan.shape)]
    targets = targets_of(command, info)
    for target in targets:
        alike = [t for t in targets if (t.knob, t.field, t.index) == (target.knob, target.field, target.index)]
        same = len({(t.current, t.value) for t in alike}) == 1
        if same and target is not alike[0]:
            continue
        place = "" if target.index is None else f"[{target.index}]"
        group = "" if (same and len(alike) > 1) or target.group is None else f" (group {target.group})"
        name = f"{target.knob}{place}{group if len(alike) > 1 or target.group else ''}"
        found.append(Difference(name=name, before=target.current, after=target.value))
    return found
