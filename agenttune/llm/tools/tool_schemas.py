"""Tool shapes: schemas plain enough for every provider, for grammars of local servers, and for MCP."""

from __future__ import annotations

from typing import Any

from agenttune.protocol.command_schemas import ToolShape, schema_of
from agenttune.protocol.commands import BY_KIND, Risk

MAX_TEXT = 1000
"""Longest text that a tool takes; grammars of local servers refuse longer repetitions (llama.cpp: 2000)."""
MAX_VALID_FOR_STEPS = 1_000_000

RISK_WORDS = {
    Risk.OBSERVE: "Changes nothing in training.",
    Risk.TUNE: "Reversible by setting the old value.",
    Risk.DISRUPT: "Costs training time.",
    Risk.DANGER: "Cannot be taken back by setting the old value.",
}
"""For clients that show one tool at a time; a policy's prompt says it once for all tools."""
REASON = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TEXT,
    "description": "Why, with the figures it rests on. Goes to the run's log.",
}
VALID_FOR_STEPS = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_VALID_FOR_STEPS,
    "description": "Never applied later than so many steps from now. Default: no limit.",
}
"""For clients without a policy's prompt, which sets a limit itself."""


def write_kinds() -> list[str]:
    """Commands that are write tools; of the others there is a read tool (`read_model`: `get_model_tree`)."""
    return [kind for kind, command in BY_KIND.items() if not command.is_read]


def write_shape(kind: str) -> ToolShape:
    """The tool of a command of `write_kinds`, with a reason and a limit of validity beside the command's own fields."""
    described = schema_of(BY_KIND[kind])
    schema = plain_schema(described.json_schema)
    fields = {name: part for name, part in schema["properties"].items() if name != "kind"}
    required = ["reason", *(name for name in schema.get("required", []) if name != "kind")]
    return ToolShape(
        name=kind,
        description=f"{described.description} {RISK_WORDS[described.risk]}",
        parameters={
            "type": "object",
            "properties": {"reason": REASON, **fields, "valid_for_steps": VALID_FOR_STEPS},
            "required": required,
            "additionalProperties": False,
        },
        is_destructive=described.risk is Risk.DANGER,
    )


def plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without references, titles and `anyOf`; every text has a longest length."""
    return _plain(schema, schema.get("$defs", {}), keep_null=False)


def _plain(part: dict[str, Any], known: dict[str, Any], keep_null: bool) -> dict[str, Any]:
    if "$ref" in part:
        return _plain({**known[part["$ref"].rsplit("/", 1)[1]], **_words(part)}, known, keep_null)
    if "anyOf" in part:
        return {**_merged([_plain(p, known, True) for p in part["anyOf"]], keep_null), **_words(part)}
    plain = {k: v for k, v in part.items() if k not in ("title", "$defs", "default", "prefixItems", "const")}
    if "const" in part:
        plain["enum"] = [part["const"]]
    if plain.get("type") == "string" and not plain.keys() & {"enum", "pattern"}:
        plain["maxLength"] = min(plain.get("maxLength", MAX_TEXT), MAX_TEXT)
    if "prefixItems" in part:
        plain["items"] = _plain(part["prefixItems"][0], known, False)
    elif isinstance(part.get("items"), dict):
        plain["items"] = _plain(part["items"], known, False)
    if isinstance(part.get("additionalProperties"), dict):
        plain["additionalProperties"] = _plain(part["additionalProperties"], known, True)
    if "properties" in part:
        plain["properties"] = {name: _plain(inner, known, False) for name, inner in part["properties"].items()}
    return {**plain, **_words(part)}


def _words(part: dict[str, Any]) -> dict[str, Any]:
    kept = {"description": part["description"]} if "description" in part else {}
    return {**kept, "default": part["default"]} if part.get("default") is not None else kept


def _merged(choices: list[dict[str, Any]], keep_null: bool) -> dict[str, Any]:
    """Several plain types as one schema with a list of types."""
    kept = [choice for choice in choices if keep_null or choice.get("type") != "null"]
    if len(kept) == 1:
        return kept[0]
    types = dict.fromkeys(choice["type"] for choice in kept)
    if "number" in types:
        types.pop("integer", None)
    rest = {key: value for choice in kept for key, value in choice.items() if key != "type"}
    return {"type": list(types), **rest}
