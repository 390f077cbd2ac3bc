"""The commands a trainer understands: the only list.

Each command is one frozen model. The LLM tool, the MCP tool, the REST body, the command line, the form and the table in
the docs are derived from it (`command_schemas.py`), and whoever has to know more of it asks the class: what it changes,
how it is undone, what it needs of a run (`base.py`).

To add one: a class here under `@register`; a function that applies it in `trainer/commands/` under `@applies`; and its
name among the `commands` of each loop in `trainer/integrations/` that can apply it.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, SerializeAsAny, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

# isort: off
# In this order they stand in the list, in prompts and in the docs.
from agenttune.protocol.commands.registry import (
    BY_KIND,
    COMMAND_KINDS,
    COMMAND_TYPES,
    parse_command,
    recorded_words,
    register,
)
from agenttune.protocol.commands.base import AskedValue, AtLeastOne, CommandBase, Impact, Need, Redefines, Risk
from agenttune.protocol.commands.value_types import MAX_INT, SMALLEST, Bool, Int, Text
from agenttune.protocol.commands.hyperparameters import SetKnob, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.protocol.commands.loop_control import (
    AddNote,
    DoEvaluate,
    LoadCheckpoint,
    PauseTraining,
    ResumeTraining,
    SaveCheckpoint,
    StopTraining,
)
from agenttune.protocol.commands.checkpoints import DeleteCheckpoints, UpdateCheckpoint
from agenttune.protocol.commands.probe import Candidate, Probe
from agenttune.protocol.commands.dataset_and_layers import (
    FREEZE,
    ModelLayerOperation,
    ModelLayerParameterUpdate,
    ReadModel,
    UpdateDataset,
    UpdateDatasetRuntimeHyperparameters,
)
# isort: on

__all__ = [
    "BY_KIND",
    "COMMAND_KINDS",
    "COMMAND_TYPES",
    "FREEZE",
    "MAX_INT",
    "SMALLEST",
    "AddNote",
    "AskedValue",
    "AtLeastOne",
    "Bool",
    "Candidate",
    "Command",
    "CommandBase",
    "DeleteCheckpoints",
    "DoEvaluate",
    "Impact",
    "Int",
    "LoadCheckpoint",
    "ModelLayerOperation",
    "ModelLayerParameterUpdate",
    "Need",
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
    "UpdateCheckpoint",
    "UpdateDataset",
    "UpdateDatasetRuntimeHyperparameters",
    "UpdateOptimizer",
    "UpdateSchedule",
    "UpdateTraining",
    "parse_command",
    "recorded_words",
    "register",
]


class _Kinds:
    """What is sent may be any of the commands that there are: schemas (OpenAPI) have each with its fields."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if handler.mode == "serialization":
            return handler(schema)
        union: Any = Annotated[Union[tuple(COMMAND_TYPES)], Field(discriminator="kind")]
        return handler(TypeAdapter(union).core_schema)


def _parsed(raw: object) -> CommandBase:
    return raw if isinstance(raw, CommandBase) else parse_command(raw)


Command = Annotated[SerializeAsAny[CommandBase], BeforeValidator(_parsed), _Kinds()]
"""A field that holds a command of any kind, read by `parse_command`."""
