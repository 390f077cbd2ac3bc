"""The commands a trainer understands: the only list.

Each command is one frozen model. The LLM tool, the REST body, the command line, the form and the table in the
docs are derived from it (`command_schemas.py`). To add one: a model here, a function that applies it in
`trainer/commands/apply.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args

from pydantic import Field, TypeAdapter, ValidationError

from agenttune.errors import CommandError
from agenttune.protocol.commands.base import CommandBase, Redefines, Risk
from agenttune.protocol.commands.dataset_and_layers import (
    FREEZE,
    ModelLayerOperation,
    ModelLayerParameterUpdate,
    ReadModel,
    UpdateDataset,
    UpdateDatasetRuntimeHyperparameters,
)
from agenttune.protocol.commands.hyperparameters import SetKnob, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.protocol.commands.loop import (
    AddNote,
    DoEvaluate,
    LoadCheckpoint,
    PauseTraining,
    ResumeTraining,
    SaveCheckpoint,
    StopTraining,
)
from agenttune.protocol.commands.probe import Candidate, Probe
from agenttune.protocol.commands.values import MAX_INT, SMALLEST, Bool, Int, Text
from agenttune.protocol.invalid_values import did_you_mean, why

__all__ = [
    "BY_KIND",
    "COMMAND_KINDS",
    "COMMAND_TYPES",
    "FREEZE",
    "MAX_INT",
    "SMALLEST",
    "AddNote",
    "Bool",
    "Candidate",
    "Command",
    "CommandBase",
    "DoEvaluate",
    "Int",
    "LoadCheckpoint",
    "ModelLayerOperation",
    "ModelLayerParameterUpdate",
    "PauseTraining",
    "Probe",
    "ReadModel",
    "Redefines",
    "ResumeTraining",
    "Risk",
    "SaveCheckpoint",
    "SetKnob",
    "StopTraining",
    "Text",
    "UpdateDataset",
    "UpdateDatasetRuntimeHyperparameters",
    "UpdateOptimizer",
    "UpdateSchedule",
    "UpdateTraining",
    "command_error",
    "parse_command",
]

Command = Annotated[
    Union[
        UpdateOptimizer,
        UpdateSchedule,
        UpdateTraining,
        SetKnob,
        SaveCheckpoint,
        LoadCheckpoint,
        PauseTraining,
        ResumeTraining,
        StopTraining,
        DoEvaluate,
        Probe,
        UpdateDataset,
        UpdateDatasetRuntimeHyperparameters,
        ModelLayerOperation,
        ModelLayerParameterUpdate,
        ReadModel,
        AddNote,
    ],
    Field(discriminator="kind"),
]
COMMAND_TYPES: tuple[type[CommandBase], ...] = get_args(get_args(Command)[0])
COMMAND_KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in COMMAND_TYPES)
BY_KIND: dict[str, type[CommandBase]] = dict(zip(COMMAND_KINDS, COMMAND_TYPES, strict=True))
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Command)


def parse_command(raw: object) -> CommandBase:
    """Turn decoded JSON into a command.

    Raises:
        CommandError: Not an object, unknown kind, unknown field, wrong type, out of bounds or non-finite; names
            the field and what is allowed there.
    """
    if not isinstance(raw, dict):
        raise CommandError(f"a command is a JSON object with a 'kind', not {type(raw).__name__}", field="command")
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in BY_KIND:
        known = list(COMMAND_KINDS)
        raise CommandError(f"unknown command {kind!r:.80}; known: {', '.join(known)}", field="kind", allowed=known)
    try:
        command: CommandBase = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        raise command_error(error, BY_KIND[kind], raw) from None
    return command


def command_error(error: ValidationError, model: type[CommandBase], raw: dict[str, Any]) -> CommandError:
    """Describe the first problem of a failed validation in one sentence, with the field's own allowed values."""
    problems = error.errors(include_url=False)
    first = problems[0]
    kind = model.model_fields["kind"].default
    path = _path(first["loc"], raw)
    if first["type"] == "extra_forbidden":
        allowed: object = [name for name in model.model_fields if name != "kind"]
    else:
        allowed = _limits(model, path[0]) if path else None
    # A union reports one problem a member; together they say what would have been accepted.
    here = [why(p) for p in problems if _path(p["loc"], raw) == path]
    problem = ", or: ".join(dict.fromkeys(here))
    got = "" if first["type"] == "missing" or not path else f" (got {first['input']!r:.80})"
    meant = did_you_mean(path[-1], allowed) if first["type"] == "extra_forbidden" and isinstance(allowed, list) else ""
    hint = f"{meant}; allowed: {', '.join(map(str, allowed))}" if isinstance(allowed, list) else ""
    where = ".".join([kind, *path])
    return CommandError(f"{where}: {problem}{got}{hint}", field=".".join(path) or None, allowed=allowed)


def _path(loc: tuple[int | str, ...], raw: object) -> list[str]:
    """The keys of `raw` that lead to the problem; pydantic mixes in the names of union members."""
    path = []
    for part in loc[1:]:
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
        elif isinstance(raw, (list, tuple)) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
        elif not (isinstance(raw, dict) and part == loc[-1]):
            continue
        path.append(str(part))
    return path


def _limits(model: type[CommandBase], field: str) -> object:
    """What the JSON schema of a field allows, without titles, descriptions and the null of an optional one."""
    schema = model.model_json_schema()["properties"].get(field, {})
    choices = [c for c in schema.get("anyOf", [schema]) if c != {"type": "null"}]
    plain = [{k: v for k, v in c.items() if k not in ("title", "description", "default")} for c in choices]
    return plain[0].get("enum", plain[0]) if len(plain) == 1 else plain
