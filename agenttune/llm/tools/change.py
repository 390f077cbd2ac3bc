"""The tools `change` and `trial`: what is to be changed at one step, in the fields of the commands that change it.

A model thinks of a change, not of commands: go back there, with this rate and those layers anew. Its fields are the
commands' own, with their descriptions and limits; what is asked for becomes commands that are applied in this order at
one boundary between two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agenttune.errors import CommandError
from agenttune.llm.tools.offered import UNLISTED_KNOBS, brief_fields, knob_line, offered_kinds
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.commands import (
    BY_KIND,
    LoadCheckpoint,
    ModelLayerOperation,
    Probe,
    SetKnob,
    UpdateDatasetRuntimeHyperparameters,
    UpdateOptimizer,
    UpdateSchedule,
    UpdateTraining,
)
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.observation import Observation

CHANGE, TRIAL = "change", "trial"
GO_BACK, RESET, FACTOR, SCHEDULE, KNOBS, DATA = (
    *("go_back_to", "reset_layers", "lr_factor", "schedule", "knobs", "data"),
)
OPTIMIZER, TRAINING, PLAN, KNOB, LOAD, LAYER, MIXTURE, PROBE = (
    command.kind_name()
    for command in (
        *(UpdateOptimizer, UpdateTraining, UpdateSchedule, SetKnob, LoadCheckpoint, ModelLayerOperation),
        *(UpdateDatasetRuntimeHyperparameters, Probe),
    )
)
MADE_OF = (LOAD, LAYER, PLAN, OPTIMIZER, TRAINING, KNOB, MIXTURE)
"""Commands that a change becomes, in the order in which they are applied."""
FRESH = "reset_parameters"
"""The layer operation that initializes anew."""
RARE = frozenset({"betas", "eps", "other", "lr_sets"})
"""Fields that are not listed, but accepted."""
THERE = ("reset_optimizer", "skip_seen_data")
"""What goes with a return only."""
NOT_TRIED = frozenset({RESET, DATA})
"""What a trial cannot try."""
EMPTY: dict[str, Any] = {GO_BACK: "", RESET: [], KNOBS: {}, DATA: {}}
"""What models fill in for what they do not need."""
Parts = list[tuple[str, dict[str, Any]]]
"""Commands by their kinds, with their arguments."""


def change_shape(observation: Observation, reason: Mapping[str, Any]) -> ToolShape | None:
    """The tool `change`, with the fields that mean something in this run; None where nothing can be changed."""
    fields = change_fields(observation)
    if not fields:
        return None
    return ToolShape(
        name=CHANGE,
        description="Change something at this step, all at once: first go back, then reset, then set.",
        parameters={"type": "object", "properties": {"reason": reason, **fields}, "required": ["reason"]},
        is_destructive=GO_BACK in fields or RESET in fields,
    )


def trial_shape(observation: Observation, reason: Mapping[str, Any]) -> ToolShape | None:
    """The tool `trial`; None where nothing can be tried."""
    kinds = offered_kinds(observation)
    if PROBE not in kinds or not set(kinds) & {OPTIMIZER, PLAN, TRAINING, KNOB}:
        return None
    own = brief_fields(PROBE, observation.knobs)
    arms = {
        "type": "array",
        "items": {"type": "object", "additionalProperties": True},
        "description": f"Each as for `{CHANGE}` without {RESET}; all with one {GO_BACK}, or none",
    }
    fields = {"arms": arms, **{name: part for name, part in own.items() if name != "candidates"}}
    return ToolShape(
        name=TRIAL,
        description="Try changes side by side on the same batches, beside changing nothing; adopts the best, or none. "
        "Costs extra steps.",
        parameters={
            "type": "object",
            "properties": {"reason": reason, **fields},
            "required": ["reason", "arms"],
        },
    )


def change_fields(observation: Observation) -> dict[str, dict[str, Any]]:
    """The fields of `change`: those of the commands that this run offers."""
    kinds, knobs = offered_kinds(observation), observation.knobs
    fields: dict[str, dict[str, Any]] = {}
    if LOAD in kinds:
        fields[GO_BACK] = {"type": "string", "description": "Id or tag of a state"}
        fields |= {n: p for n, p in brief_fields(LOAD, knobs).items() if n not in ("checkpoint_id", "lr")}
    if LAYER in kinds:
        fields[RESET] = {"type": "array", "items": {"type": "string"}, "description": "Layers to initialize anew"}
    if OPTIMIZER in kinds:
        own = {n: p for n, p in brief_fields(OPTIMIZER, knobs).items() if n not in RARE}
        if "lr" in own:
            own["lr"] = {"type": "number", "description": "Rate of the first group; the schedule scales it on"}
            own[FACTOR] = {"type": "number", "description": "Instead of lr: times the base rate of now"}
        fields |= dict(sorted(own.items(), key=lambda entry: entry[0] not in ("lr", FACTOR)))
    if PLAN in kinds:
        shape = brief_fields(PLAN, knobs)
        own = {name: {k: v for k, v in part.items() if k != "description"} for name, part in shape.items()}
        own.pop("peak_lr", None)
        told = "Plan the rate anew from now, from lr down to final_lr; wsd falls over the last decay_steps"
        fields[SCHEDULE] = {"type": "object", "properties": own, "required": ["shape"], "description": told}
    if TRAINING in kinds:
        fields |= brief_fields(TRAINING, knobs)
    if KNOB in kinds:
        named = [knob for knob in knobs if knob.is_registered and knob.name not in UNLISTED_KNOBS]
        told = "Values by name:\n" + "\n".join(map(knob_line, named))
        fields[KNOBS] = {"type": "object", "additionalProperties": True, "description": told}
    if MIXTURE in kinds:
        told = "Values of the dataset by name, from the next batch on"
        fields[DATA] = {"type": "object", "additionalProperties": True, "description": told}
    return fields


# -- from what was asked to commands ---------------------------------------------------------------------------------


def parts_of_change(given: Mapping[str, Any], observation: Observation) -> Parts:
    """The commands that a change becomes, in the order in which they are to be applied.

    Raises:
        CommandError: An unknown field, two rates, or nothing at all.
    """
    asked = {name: value for name, value in given.items() if value is not None and value != EMPTY.get(name)}
    _check_known(asked, observation)
    _check_shapes(asked)
    rate, modifiers = _rate(asked, observation)
    parts = list(_parts(asked, rate, modifiers))
    if not parts:
        known = ", ".join(change_fields(observation))
        raise CommandError(f"{CHANGE}: nothing to change; give at least one of {known}", field=CHANGE)
    return parts


def parts_of_trial(given: Mapping[str, Any], observation: Observation) -> dict[str, Any]:
    """The arguments of the probe that a trial becomes.

    Raises:
        CommandError: An arm that cannot be tried, or is no single change.
    """
    rest = {name: value for name, value in given.items() if name != "arms"}
    arms = given.get("arms")
    if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
        raise CommandError(
            f"{TRIAL}.arms: a list of changes, such as [{{'lr_factor': 0.3}}]", field="arms", allowed=list
        )
    return {"candidates": [_candidate(arm, at, observation) for at, arm in enumerate(arms)], **rest}


def _candidate(arm: dict[str, Any], at: int, observation: Observation) -> dict[str, Any]:
    if "kind" in arm:  # a command, as a probe takes it
        return arm
    if cannot := sorted(NOT_TRIED & arm.keys()):
        raise CommandError(f"{TRIAL}.arms[{at}]: {cannot[0]} cannot be tried; use {CHANGE}", field="arms", allowed=None)
    parts = parts_of_change(arm, observation)
    if len(parts) > 1:
        kinds = " and ".join(kind for kind, _ in parts)
        message = f"{TRIAL}.arms[{at}]: an arm is one command, and this would be {kinds}; try them apart"
        raise CommandError(message, field="arms", allowed=None)
    kind, fields = parts[0]
    return {"kind": kind, **fields}


def _check_known(asked: Mapping[str, Any], observation: Observation) -> None:
    fields = [*change_fields(observation), *sorted(RARE)]
    hidden = {name for kind in (OPTIMIZER, TRAINING, LOAD) for name in BY_KIND[kind].model_fields}
    for name in asked:
        if name not in fields and name not in hidden - {"kind", "checkpoint_id"}:
            message = f"{CHANGE}.{name}: not known here{did_you_mean(name, fields)}; allowed: {', '.join(fields)}"
            raise CommandError(message, field=name, allowed=fields)


def _check_shapes(asked: Mapping[str, Any]) -> None:
    shapes: list[tuple[str, type | tuple[type, ...], str]] = [
        *((name, dict, "an object") for name in (SCHEDULE, KNOBS, DATA)),
        (RESET, list, "a list of names of layers"),
        (FACTOR, (int, float), "a number above 0"),
    ]
    for name, wanted, words in shapes:
        value = asked.get(name)
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise CommandError(f"{CHANGE}.{name}: {words} is wanted (got {value!r:.80})", field=name, allowed=words)
    alone = next((name for name in THERE if asked.get(name, False) is not False), None)
    if GO_BACK not in asked and alone is not None:
        message = f"{CHANGE}.{alone}: goes with {GO_BACK} only; leave it out, or give that too"
        raise CommandError(message, field=alone, allowed=[False])
    if (factor := asked.get(FACTOR)) is not None and factor <= 0:
        raise CommandError(f"{CHANGE}.{FACTOR}: a number above 0 (got {factor!r})", field=FACTOR, allowed="above 0")


def _rate(asked: Mapping[str, Any], observation: Observation) -> tuple[Any, dict[str, Any]]:
    """The learning rate that is asked for, None for no other, and what it sets."""
    modifiers = {name: asked[name] for name in UpdateOptimizer.modifiers if name in asked}
    if FACTOR not in asked:
        return asked.get("lr"), modifiers
    if "lr" in asked:
        raise CommandError(f"{CHANGE}: give lr or {FACTOR}, not both", field=FACTOR, allowed=["lr", FACTOR])
    knob = observation.knob("lr")
    now = None if knob is None else knob.base if knob.base is not None else knob.effective
    if knob is None or not isinstance(now, (int, float)) or not now > 0:
        raise CommandError(
            f"{CHANGE}.{FACTOR}: the rate of now is not known or 0; give lr", field=FACTOR, allowed=["lr"]
        )
    return now * asked[FACTOR], {**modifiers, **({"lr_sets": "base"} if knob.base is not None else {})}


def _parts(asked: Mapping[str, Any], rate: Any, modifiers: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    left = rate
    if GO_BACK in asked:
        own = _own(LOAD, asked)
        takes_rate = "lr" in BY_KIND[LOAD].model_fields and left is not None and "param_group" not in modifiers
        if takes_rate and SCHEDULE not in asked:
            own["lr"], left = left, None
        yield LOAD, {"checkpoint_id": asked[GO_BACK], **own}
    for layer in asked.get(RESET, ()):
        yield LAYER, {"layer_name": layer, "operation_name": FRESH}
    if SCHEDULE in asked:
        plan = dict(asked[SCHEDULE])
        if left is not None and plan.get("shape") != "previous":
            plan, left = {"peak_lr": left, **plan}, None
        yield PLAN, plan
    optimizer = {name: value for name, value in _own(OPTIMIZER, asked).items() if name != "lr"}
    optimizer |= {} if left is None else {"lr": left}
    if optimizer.keys() - UpdateOptimizer.modifiers:
        yield OPTIMIZER, {**optimizer, **(modifiers if left is not None else _without(modifiers, "lr_sets"))}
    elif "param_group" in modifiers:
        message = f"{CHANGE}.param_group: nothing of a parameter group is set; leave it out"
        raise CommandError(message, field="param_group", allowed=None)
    if training := _own(TRAINING, asked):
        yield TRAINING, training
    for name, value in asked.get(KNOBS, {}).items():
        yield KNOB, {"name": name, "value": value}
    if DATA in asked:
        yield MIXTURE, {"values": asked[DATA]}


def _own(kind: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a command under its own field's name."""
    rest = {"kind", "checkpoint_id", *(("lr",) if kind == LOAD else ())}
    return {name: asked[name] for name in BY_KIND[kind].model_fields if name in asked and name not in rest}


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}
