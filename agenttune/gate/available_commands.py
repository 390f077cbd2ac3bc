"""Which commands are not offered to an agent because this run could only refuse them, and why."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from agenttune.config import BudgetSettings, GateSettings
from agenttune.protocol.commands import BY_KIND, Need
from agenttune.protocol.events import DatasetRead
from agenttune.protocol.run_info import ModuleInfo, RunInfo

PLAIN_DATASET = "the dataset is a plain one; make_interactive_dataset makes its parameters known"


def not_offered(
    settings: GateSettings, info: RunInfo, dataset: DatasetRead | None, model: ModuleInfo | None
) -> dict[str, str]:
    """Commands that this trainer can apply in general but not in this run, with the reason.

    Args:
        settings: The run's gate.
        info: The run.
        dataset: Its dataset as last read; None: not known, and then nothing is offered for it.
        model: Its layers as last read, where `settings` limit them.
    """
    lacking = _lacking(info, dataset)
    if settings.allowed_layers and model is not None:
        lacking |= _layers(settings.allowed_layers, model)
    found = {kind: lacking[need] for kind, command in BY_KIND.items() if (need := command.needs) in lacking}
    found |= dict.fromkeys(settings.forbid, "gate.forbid has it")
    return {kind: why for kind, why in found.items() if kind in info.capabilities}


def _lacking(info: RunInfo, dataset: DatasetRead | None) -> dict[Need | None, str]:
    lacking: dict[Need | None, str] = {}
    if dataset is None or not dataset.interactive:
        why = PLAIN_DATASET if dataset is not None else "the loop has not told its dataset"
        lacking |= dict.fromkeys((Need.INITIALIZATION_PARAMETER, Need.RUNTIME_PARAMETER), why)
    else:
        if not dataset.initialization:
            lacking[Need.INITIALIZATION_PARAMETER] = "the dataset has no parameters of initialization"
        if not dataset.runtime:
            lacking[Need.RUNTIME_PARAMETER] = "the dataset has no runtime parameters"
    if not any(knob.is_registered for knob in info.knobs):
        lacking[Need.REGISTERED_KNOB] = "no knob is registered"
    if info.schedule is not None and not info.schedule.can_be_planned:
        lacking[Need.PLANNABLE_SCHEDULE] = f"the schedule is {info.schedule.kind}, which cannot be replanned"
    return lacking


def _layers(patterns: list[str], model: ModuleInfo) -> dict[Need | None, str]:
    """What no layer of `gate.allowed_layers` has."""
    layers = [layer for layer in _all(model) if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]
    why = f"gate.allowed_layers ({', '.join(patterns)}) leaves no layer for it"
    has = {
        Need.LAYER_OPERATION: any(layer.operations for layer in layers),
        Need.LAYER_PARAMETER: any(layer.hyperparameters for layer in layers),
    }
    return {need: why for need, there_is in has.items() if not there_is}


def _all(layer: ModuleInfo) -> Iterator[ModuleInfo]:
    yield layer
    for child in layer.children:
        yield from _all(child)


def probe_steps_left(info: RunInfo, budgets: BudgetSettings, used: int) -> int | None:
    """Extra steps that agents' probes may still take; None for no limit."""
    limits = [] if budgets.max_probe_steps is None else [budgets.max_probe_steps]
    if budgets.max_probe_frac is not None:
        limits.append(int(budgets.max_probe_frac * (info.step if info.max_steps is None else info.max_steps)))
    return max(0, min(limits) - used) if limits else None
