"""What a checkpoint was trained under and its states do not bring back, told where another run resumes from it.

A Trainer that resumes restores model, optimizer and scheduler; settings, knobs, layers and the dataset are the
script's again. Only a restart of the same job sets them again (`trainer.distributed.applied_again`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agenttune.errors import StoreFault, UserError
from agenttune.protocol.commands import (
    FREEZE,
    CommandBase,
    ModelLayerOperation,
    ModelLayerParameterUpdate,
    SetKnob,
    UpdateDataset,
    UpdateDatasetRuntimeHyperparameters,
    UpdateOptimizer,
    UpdateSchedule,
    UpdateTraining,
)
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import KnobState
from agenttune.store.run_folders import LOG_NAME
from agenttune.store.run_log import RunLog
from agenttune.trainer.captured_values import capture_values
from agenttune.trainer.checkpoints.checkpoint_catalog import FOLDER
from agenttune.trainer.checkpoints.manifest import Manifest, read_manifest
from agenttune.trainer.distributed.applied_again import PLAN, change_of, is_on, is_same, knobs_at
from agenttune.trainer.layers.layer_changes import FLAG, dotted
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.run_state import RunState

DATASET = (("initialization", UpdateDataset), ("runtime", UpdateDatasetRuntimeHyperparameters))
"""Parts of what is captured of a dataset, each with the command that sets it."""


class Lost(NamedTuple):
    """A value that is not as it was when the checkpoint was saved.

    Attributes:
        command: What sets it again, as its kind and arguments.
    """

    name: str
    then: Any
    now: Any
    command: str


class Commanded(NamedTuple):
    """What commands had changed when the checkpoint was saved.

    Attributes:
        names: Of values.
        kinds: Of these commands.
        plan: Of the learning rate, the last one that was not taken back.
        knobs: As they were read last until then.
    """

    names: frozenset[str]
    kinds: frozenset[str]
    plan: UpdateSchedule | None
    knobs: Mapping[str, KnobState]


def resume_warning(run_state: RunState, own_log: Path, knobs: Sequence[KnobState]) -> str:
    """What of a checkpoint's values did not come with the resume, in one sentence; empty if all did.

    Args:
        run_state: The run that has resumed.
        own_log: Folder of its log; that of the run before mostly lies beside it.
        knobs: As they are now.
    """
    folder = run_state.adapter.resumed_from()
    if folder is None:
        return ""
    came: list[str] = []
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return ""
        commanded = _commanded(_log_folder(folder, manifest, own_log), manifest)
        lost = list(_lost(manifest.steered, run_state, commanded))
        if commanded is not None:
            lost += _compare_states(commanded, run_state, knobs, came)
    except (UserError, StoreFault) as error:
        return f"which values {folder.name} was trained under cannot be told: {error}"
    if not lost:
        return ""
    who = "values set by command" if commanded is not None else "other values"
    differing = "; ".join(map(_words, lost))
    along = f". In force again, with the checkpoint's states: {', '.join(came)}" if came else ""
    again = "; ".join(dict.fromkeys(entry.command for entry in lost))
    return (
        f"{folder.name} was trained under {who} that resuming from it has not brought back: {differing}{along}. "
        f"To set them again: {again}"
    )


def _log_folder(folder: Path, manifest: Manifest, own_log: Path) -> Path | None:
    """The log of the run that wrote a checkpoint, if it still lies where it can be expected."""
    own = [folder.parents[1]] if folder.parent.name == FOLDER else []
    named = [own_log.parent / manifest.run] if manifest.run else []
    others = (path for path in (*own, *named) if path != own_log)  # an id can be used again once its folder is gone
    return next((path for path in others if (path / LOG_NAME).is_file()), None)


def _commanded(log_folder: Path | None, manifest: Manifest) -> Commanded | None:
    if log_folder is None:
        return None
    with contextlib.closing(RunLog.open_to_read(log_folder)) as log:
        line = log.lineage(manifest.branch)
        taken = log.commands(State.APPLIED, State.KEPT, limit=10_000)
        changes = [
            command
            for record in taken
            if (command := change_of(record)) is not None
            and is_on(line, record)
            and record.ack is not None
            and record.ack.step <= manifest.step
        ]
        names = frozenset().union(*(command.touched() for command in changes))
        kinds = frozenset(command.kind for command in changes)
        return Commanded(names, kinds, _plan_of(changes), knobs_at(log, line, manifest.step))


def _plan_of(changes: Sequence[CommandBase]) -> UpdateSchedule | None:
    plans: list[UpdateSchedule] = []
    for command in changes:
        if isinstance(command, UpdateSchedule) and command.shape != "previous":
            plans.append(command)
        elif isinstance(command, UpdateSchedule) and plans:
            plans.pop()
    return plans[-1] if plans else None


def _compare_states(
    commanded: Commanded, run_state: RunState, knobs: Sequence[KnobState], came: list[str]
) -> Iterator[Lost]:
    """What of the optimizer and its schedule is otherwise; names of what is not are added to `came`."""
    of_optimizer = UpdateOptimizer.kind_name()
    for knob in knobs:
        then = commanded.knobs.get(knob.name)
        if then is None or knob.name not in commanded.names or knob.command != of_optimizer:
            continue
        if is_same(knob, then):
            came.append(knob.name)
        elif knob.base is None:
            yield Lost(knob.name, then.effective, knob.effective, _call(UpdateOptimizer, {knob.name: then.effective}))
        else:
            again = _call(UpdateOptimizer, {knob.name: then.base, "lr_sets": "base"})
            yield Lost(f"{knob.name} (base)", then.base, knob.base, again)
    if commanded.plan is None:
        return
    if run_state.schedule().kind is ScheduleKind.PLANNED:
        came.append(f"the {PLAN}")
    else:
        yield Lost(
            f"the {PLAN}", commanded.plan.shape, "the script's", _call(UpdateSchedule, commanded.plan.arguments())
        )


def _lost(then: Mapping[str, Any], run_state: RunState, commanded: Commanded | None) -> Iterator[Lost]:
    now = capture_values(run_state)
    for part in ("settings", "knobs"):
        for name, was, value in _differing(then.get(part, {}), now[part]):
            if commanded is not None and name not in commanded.names:
                continue
            is_setting = part == "settings"
            again = _call(UpdateTraining, {name: was}) if is_setting else _call(SetKnob, {"name": name, "value": was})
            yield Lost(name, was, value, again)
    yield from _lost_layers(then.get("layers", {}), run_state)
    for part, kind in DATASET:
        if commanded is None or kind.kind_name() in commanded.kinds:
            for name, was, value in _differing(then.get("dataset", {}).get(part, {}), now["dataset"].get(part, {})):
                yield Lost(f"{name} of the dataset", was, value, _call(kind, {"values": {name: was}}))


def _lost_layers(then: Mapping[str, Mapping[str, Any]], run_state: RunState) -> Iterator[Lost]:
    """Attributes one by one; what is trained, by layer."""
    trained: dict[tuple[str, bool], None] = {}
    for (layer, attribute), was, value in run_state.layers.differing(then):
        if attribute == FLAG:
            trained[layer.rpartition(".")[0] or layer, was] = None
        else:
            arguments = {"layer_name": layer, "param_name": attribute, "value": was}
            yield Lost(dotted(layer, attribute), was, value, _call(ModelLayerParameterUpdate, arguments))
    for layer, was in trained:
        words = ("trained", "frozen")
        arguments = {"layer_name": layer, "operation_name": FREEZE, "params": {FLAG: was}}
        yield Lost(f"layer {layer}", words[not was], words[was], _call(ModelLayerOperation, arguments))


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, was in then.items():
        if name in now and not same(now[name], was):
            yield name, was, now[name]


def _call(kind: type[CommandBase], arguments: Mapping[str, Any]) -> str:
    return f"{kind.kind_name()} {json.dumps(arguments)}"


def _words(lost: Lost) -> str:
    return f"{lost.name} was {_text(lost.then)}, is {_text(lost.now)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
