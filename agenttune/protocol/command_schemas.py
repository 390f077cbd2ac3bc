"""The commands' outward shapes, derived from the models in `commands/`: JSON schema, and a table for the docs."""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agenttune.protocol.commands import BY_KIND, CommandBase, Impact, Risk


class FieldSchema(BaseModel):
    """One field of a command."""

    model_config = ConfigDict(frozen=True)
    name: str
    description: str
    required: bool
    accepts: str


class ToolShape(BaseModel):
    """A tool as language models and MCP clients see it.

    Attributes:
        parameters: JSON schema of its arguments, an object.
        is_read_only: It changes nothing.
        is_destructive: What it does cannot be taken back by writing the old value.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    description: str
    parameters: dict[str, Any]
    is_read_only: bool = False
    is_destructive: bool = False


class CommandSchema(BaseModel):
    """One command as the outside sees it."""

    model_config = ConfigDict(frozen=True)
    kind: str
    description: str
    risk: Risk
    impact: Impact = Field(Impact.CHANGE, description="What becomes of the training by it.")
    json_schema: dict[str, Any]
    fields: list[FieldSchema]


@cache
def schema_of(command: type[CommandBase]) -> CommandSchema:
    """Derive the outward shape of one command."""
    schema = command.model_json_schema()
    required = schema.get("required", [])
    fields = [
        FieldSchema(
            name=name, description=part.get("description", ""), required=name in required, accepts=_accepts(part)
        )
        for name, part in schema["properties"].items()
        if name != "kind"
    ]
    return CommandSchema(
        kind=command.kind_name(),
        description=inspect.cleandoc(command.__doc__ or ""),
        risk=command.risk,
        impact=command.impact,
        json_schema=schema,
        fields=fields,
    )


def schemas_by_kind() -> dict[str, CommandSchema]:
    """The outward shapes of all commands, by kind."""
    return {kind: schema_of(command) for kind, command in BY_KIND.items()}


def command_table() -> str:
    """All commands as a Markdown table."""
    rows = ["| command | risk | what it does | fields |", "|---|---|---|---|"]
    for described in schemas_by_kind().values():
        fields = "<br>".join(_cell(f"`{f.name}`{'' if f.required else '?'}: {f.accepts}") for f in described.fields)
        rows.append(
            f"| `{described.kind}` | {described.risk.value} | {_cell(described.description)} | {fields or '-'} |"
        )
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


_BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))


def _accepts(schema: dict[str, Any]) -> str:
    """A field's JSON schema in a few words, such as `number >= 0 <= 100`."""
    if "anyOf" in schema:
        return " or ".join(_accepts(choice) for choice in schema["anyOf"] if choice != {"type": "null"})
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    limits = "".join(f" {sign} {schema[key]}" for key, sign in _BOUNDS if key in schema)
    return f"{schema.get('type', 'any value')}{limits}"
