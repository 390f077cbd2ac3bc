"""The command that takes a change back: built from what its ack says was there before."""

from __future__ import annotations

from typing import Any

from agenttune.errors import CommandError
from agenttune.protocol.commands import (
    FREEZE,
    CommandBase,
    ModelLayerOperation,
    ModelLayerParameterUpdate,
    Probe,
    SetKnob,
    UpdateDataset,
    UpdateDatasetRuntimeHyperparameters,
    UpdateOptimizer,
    UpdateSchedule,
    UpdateTraining,
    parse_command,
)
from agenttune.protocol.proposals import Ack, CommandRecord

OPTIMIZER_FIELDS = ("weight_decay", "betas", "eps", "momentum")


def inverse_of(record: CommandRecord) -> CommandBase | None:
    """The command that writes back what an applied one changed; None where no single command can."""
    command, ack = record.command, record.ack
    if ack is None or not ack.changes:
        return None
    if isinstance(command, Probe):
        command = _adopted(ack)
    raw = _raw(command, ack)
    if raw is None:
        return None
    try:
        return parse_command(raw)
    except CommandError:
        return None


def _adopted(ack: Ack) -> CommandBase:
    """The candidate of a probe that was taken."""
    return parse_command(ack.result.get("adopted"))


def _raw(command: CommandBase, ack: Ack) -> dict[str, Any] | None:
    before = {change.name: change.previous for change in ack.changes}
    if isinstance(command, UpdateOptimizer):
        return _optimizer(command, ack, before)
    if isinstance(command, UpdateTraining):
        return {"kind": command.kind, **before}
    if isinstance(command, SetKnob):
        return {"kind": command.kind, "name": command.name, "value": next(iter(before.values()))}
    if isinstance(command, ModelLayerParameterUpdate) and len(ack.changes) == 1:
        place = {"layer_name": command.layer_name, "param_name": command.param_name}
        return {"kind": command.kind, **place, "value": ack.changes[0].previous}
    if isinstance(command, (UpdateDataset, UpdateDatasetRuntimeHyperparameters)):
        return {"kind": command.kind, "values": before}
    if isinstance(command, UpdateSchedule):
        return {"kind": command.kind, "shape": "previous"}
    if isinstance(command, ModelLayerOperation) and command.operation_name == FREEZE:
        return _freeze(command, ack)
    return None


def _freeze(command: ModelLayerOperation, ack: Ack) -> dict[str, Any] | None:
    """Training a layer or not; not where some of it was trained before."""
    was = ack.changes[0].previous
    place = {"kind": command.kind, "layer_name": command.layer_name, "operation_name": FREEZE}
    return {**place, "params": {"requires_grad": was}} if isinstance(was, bool) else None


def _optimizer(command: UpdateOptimizer, ack: Ack, before: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = {"kind": command.kind}
    if command.param_group is not None:
        raw["param_group"] = command.param_group
    for change in ack.changes:
        if change.name == "lr":
            # The base, where there is one: the schedule then stands where it would have stood without the change.
            raw["lr"] = change.previous if change.previous_base is None else change.previous_base
            raw["lr_sets"] = "effective" if change.previous_base is None else "base"
        elif change.name in OPTIMIZER_FIELDS:
            raw[change.name] = before[change.name]
        else:
            raw.setdefault("other", {})[change.name] = before[change.name]
    return raw
