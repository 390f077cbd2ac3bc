"""The list of commands, and how one is read from JSON."""

from __future__ import annotations

from collections.abc import KeysView, Mapping, ValuesView
from typing import Any, TypeVar

from pydantic import ValidationError

from agenttune.errors import CommandError
from agenttune.protocol.commands.base import CommandBase
from agenttune.protocol.invalid_values import did_you_mean, meant, why
from agenttune.protocol.text import command_words

C = TypeVar("C", bound=CommandBase)

BY_KIND: dict[str, type[CommandBase]] = {}
"""All commands. What is derived from them is derived when it is asked for, so that a new one is in it."""
COMMAND_KINDS: KeysView[str] = BY_KIND.keys()
COMMAND_TYPES: ValuesView[type[CommandBase]] = BY_KIND.values()


def register(command: type[C]) -> type[C]:
    """Add a command to the list: a class decorator.

    Raises:
        TypeError: It lacks its `kind`, its `risk` or its `example`, or another one has its kind.
    """
    kind = command.kind_name()
    lacking = [name for name in ("risk", "example") if not hasattr(command, name)]
    if not kind or lacking:
        raise TypeError(f"command {command.__name__} has no {', '.join(lacking) or 'default for its kind'}")
    if kind in BY_KIND:
        raise TypeError(f"command {command.__name__}: {BY_KIND[kind].__name__} is {kind!r} already")
    BY_KIND[kind] = command
    return command


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
        return BY_KIND[kind].model_validate(raw)
    except ValidationError as error:
        raise command_error(error, BY_KIND[kind], raw) from None


def recorded_words(raw: Mapping[str, Any]) -> str:
    """A command of a log in words, as `CommandBase.words`; of one that this version does not take, all of it."""
    try:
        return parse_command(dict(raw)).words
    except CommandError:
        return command_words(raw)


def command_error(error: ValidationError, model: type[CommandBase], raw: dict[str, Any]) -> CommandError:
    """Describe the first problem of a failed validation in one sentence, with the field's own allowed values."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _path(first["loc"], raw)
    if first["type"] == "extra_forbidden":
        allowed: object = [name for name in model.model_fields if name != "kind"]
    else:
        allowed = _limits(model, path[0]) if path else None
    # A union reports one problem a member; together they say what would have been accepted.
    here = [why(p) for p in problems if _path(p["loc"], raw) == path]
    problem = ", or: ".join(dict.fromkeys(here))
    got = "" if first["type"] == "missing" or not path else f" (got {first['input']!r:.80})"
    hint = meant(first)
    if isinstance(allowed, list):
        hint = did_you_mean(path[-1], allowed) if first["type"] == "extra_forbidden" else ""
        hint += f"; allowed: {', '.join(map(str, allowed))}"
    where = ".".join([model.kind_name(), *path])
    return CommandError(f"{where}: {problem}{got}{hint}", field=".".join(path) or None, allowed=allowed)


def _path(loc: tuple[int | str, ...], raw: object) -> list[str]:
    """The keys of `raw` that lead to the problem; pydantic mixes in the names of union members."""
    path = []
    for part in loc:
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
