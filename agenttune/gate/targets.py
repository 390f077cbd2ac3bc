"""Which knobs a command would change, and to what."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agenttune.commands import CommandBase, Probe, SetKnob, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.events import KnobState, RunInfo
from agenttune.proposals import CommandRecord


@dataclass(frozen=True)
class Target:
    """One value that a command would put into force.

    Attributes:
        knob: The knob's name.
        field: The command's field that asks for it.
        value: The value asked for.
        current: The knob's value now, of the same kind (base or effective) as `value`.
        implies: Factor from `value` to a value that follows from it: the base rate behind an effective one, or the
            other way round.
    """

    knob: str
    field: str
    value: float
    current: float | None = None
    implies: float | None = None


def targets_of(command: CommandBase, info: RunInfo) -> list[Target]:
    """Every number that a command would put into force; empty for commands that change no number.

    A probe may put any of its candidates into force.
    """
    if isinstance(command, Probe):
        return [target for candidate in command.candidates for target in targets_of(candidate, info)]
    knobs = {knob.name: knob for knob in info.knobs}
    if isinstance(command, UpdateOptimizer):
        return _optimizer_targets(command, knobs)
    if isinstance(command, UpdateSchedule):
        asked = {"peak_lr": command.peak_lr, "final_lr": command.final_lr or None}
        return [Target("lr", field, v, _effective(knobs, "lr")) for field, v in asked.items() if v is not None]
    if isinstance(command, UpdateTraining):
        return [Target(name, name, float(v), _effective(knobs, name)) for name, v in command.arguments().items()]
    if isinstance(command, SetKnob) and isinstance(command.value, (int, float)):
        return [Target(command.name, "value", float(command.value), _effective(knobs, command.name))]
    return []


def changed_by(record: CommandRecord, info: RunInfo) -> set[str]:
    """Knobs that a command of the past has changed, or will; of a probe those that it adopted."""
    if isinstance(record.command, Probe) and record.ack is not None:
        return {change.name for change in record.ack.changes}
    return {target.knob for target in targets_of(record.command, info)}


def _optimizer_targets(command: UpdateOptimizer, knobs: dict[str, KnobState]) -> list[Target]:
    asked: dict[str, object] = {
        "weight_decay": command.weight_decay,
        "eps": command.eps,
        "momentum": command.momentum,
        **{f"other.{name}": value for name, value in command.other.items()},
    }
    targets = [
        Target(field.removeprefix("other."), field, float(v), _effective(knobs, field.removeprefix("other.")))
        for field, v in asked.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool)
    ]
    if command.lr is not None:
        targets.insert(0, _rate_target(command.lr, command.lr_sets == "base", knobs.get("lr")))
    return targets


def _rate_target(rate: float, sets_base: bool, knob: KnobState | None) -> Target:
    effective = float(knob.effective) if knob is not None and knob.effective is not None else None
    base = knob.base if knob is not None else None
    current, other = (base, effective) if sets_base else (effective, base)
    return Target("lr", "lr", rate, current, other / current if current and other else None)


def _effective(knobs: dict[str, KnobState], name: str) -> float | None:
    value = knobs[name].effective if name in knobs else None
    return float(value) if isinstance(value, (int, float)) else None


def touched_by(command: CommandBase) -> set[str]:
    """Names of all knobs that a command changes, also those that are no numbers."""
    if isinstance(command, Probe):
        return {name for candidate in command.candidates for name in touched_by(candidate)}
    if isinstance(command, UpdateOptimizer):
        own = set(command.arguments()) - {"other"} - command.modifiers
        return own | set(command.other)
    if isinstance(command, UpdateTraining):
        return set(command.arguments())
    if isinstance(command, UpdateSchedule):
        return {"lr"}
    return {command.name} if isinstance(command, SetKnob) else set()


def factor_of(command: CommandBase, info: RunInfo) -> float:
    """The largest factor by which a command changes a knob, up or down; infinite where that cannot be told."""
    if isinstance(command, Probe):
        return max(factor_of(candidate, info) for candidate in command.candidates)
    targets, touched = targets_of(command, info), touched_by(command)
    if not touched or touched - {target.knob for target in targets}:
        return math.inf
    if isinstance(command, UpdateSchedule) and command.shape != "constant" and command.final_lr == 0:
        return math.inf  # a rate that ends at zero
    return max((_change(target) for target in targets), default=math.inf)


def _change(target: Target) -> float:
    if target.current == target.value:
        return 1.0
    if target.current is None or target.current <= 0 or target.value <= 0:
        return math.inf
    return max(target.value / target.current, target.current / target.value)


def values_of(command: CommandBase) -> dict[str, float]:
    """The numbers that a command asks for, by knob."""
    nothing_known = RunInfo(run_id="", name="", status="running", created_at_s=0.0)
    return {target.knob: target.value for target in targets_of(command, nothing_known)}
