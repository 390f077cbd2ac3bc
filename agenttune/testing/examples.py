"""The simplest value that a JSON schema allows."""

from __future__ import annotations

from typing import Any


def example_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A value that obeys the schema, as far as the common keywords go: the first choice, the smallest number."""
    root = schema if root is None else root
    if "$ref" in schema:
        part: Any = root
        for key in str(schema["$ref"]).removeprefix("#/").split("/"):
            part = part[key]
        return example_of(part, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], root)
    kind = schema.get("type", "object")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example_of(fields[name], root) for name in schema.get("required", [])}
    if kind == "array":
        return [example_of(schema.get("items", {}), root)] * int(schema.get("minItems", 0))
    if kind == "string":
        return "x" * max(1, int(schema.get("minLength", 1)))
    if kind in ("number", "integer"):
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"boolean": False, "null": None}[kind]
