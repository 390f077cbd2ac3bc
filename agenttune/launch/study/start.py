"""The start of a round: what a plan may choose, the check of what it chose, and the script's arguments made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agenttune.config import RoundParameter
from agenttune.errors import UserError
from agenttune.launch.study.records import Start
from agenttune.protocol.metrics import is_number

Parameters = Mapping[str, RoundParameter]
REASONING_CHARACTERS = 1200
"""Of a plan's reasons: a paragraph (a guess at what later rounds can use)."""


def plan_schema(parameters: Parameters) -> dict[str, Any]:
    """The JSON schema of a plan. Reasons come first, so that a model gives its numbers after them."""
    start = _object({name: _number(parameter) for name, parameter in parameters.items()})
    return _object({"reasoning": {"type": "string", "maxLength": REASONING_CHARACTERS}, "start": start})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _number(parameter: RoundParameter) -> dict[str, Any]:
    return {
        "type": "integer" if parameter.type == "int" else "number",
        "description": f"{parameter.argument}: {parameter.description}".removesuffix(": "),
        "minimum": _typed(parameter, parameter.minimum),
        "maximum": _typed(parameter, parameter.maximum),
    }


def _typed(parameter: RoundParameter, value: float) -> int | float:
    return int(value) if parameter.type == "int" and value == int(value) else value


def check_start(raw: object, parameters: Parameters) -> Start:
    """The values of a plan.

    Raises:
        UserError: Not an object, a name that is unknown or missing, not a number of its kind, out of bounds.
    """
    names = list(parameters)
    if not isinstance(raw, dict):
        raise UserError(f"start must be an object with the keys {', '.join(names)}, not {raw!r:.80}", field="start")
    unknown = [str(key) for key in raw if key not in parameters]
    missing = [name for name in names if name not in raw]
    if unknown or missing:
        problem = f"no parameter {unknown[0]!r:.80}" if unknown else f"{missing[0]} is missing"
        raise UserError(f"start: {problem}; give exactly these: {', '.join(names)}", field="start", allowed=names)
    return {name: _value(name, raw[name], parameter) for name, parameter in parameters.items()}


def _value(name: str, raw: object, parameter: RoundParameter) -> int | float:
    low, high = _typed(parameter, parameter.minimum), _typed(parameter, parameter.maximum)
    kind = "a whole number" if parameter.type == "int" else "a number"
    allowed = f"give {kind} from {low!r} to {high!r}"
    # In Python True is a 1 and in JSON it is not.
    if not is_number(raw) or (isinstance(raw, float) and not math.isfinite(raw)):
        raise UserError(f"{name}: {raw!r:.80} is no number; {allowed}", field=name, allowed=[low, high])
    if parameter.type == "int" and raw != int(raw):
        raise UserError(f"{name}: {raw!r} is not a whole number; {allowed}", field=name, allowed=[low, high])
    if not parameter.minimum <= raw <= parameter.maximum:
        raise UserError(f"{name}: {raw!r:.80} is out of bounds; {allowed}", field=name, allowed=[low, high])
    return int(raw) if parameter.type == "int" else float(raw)


def arguments_with(args: Sequence[str], start: Start, parameters: Parameters) -> list[str]:
    """The script's arguments with the values of a start: replaced where they stand, else added."""
    for name, value in start.items():
        args = _with(list(args), parameters[name].argument, repr(value))
    return list(args)


def _with(args: list[str], option: str, value: str) -> list[str]:
    end = _end_of_options(args)
    options, rest = args[:end], args[end:]
    found = False
    for index, arg in enumerate(options):
        if arg == option and index + 1 < len(options):
            options[index + 1], found = value, True
        elif arg.startswith(f"{option}="):
            options[index], found = f"{option}={value}", True
    if found:
        return options + rest
    without = options[:-1] if options[-1:] == [option] else options
    return [*without, option, value, *rest]


def _end_of_options(args: Sequence[str]) -> int:
    """Behind a lone `--` nothing is an option any more."""
    return list(args).index("--") if "--" in args else len(args)


def value_in(args: Sequence[str], option: str) -> str | None:
    """What the script's arguments say for an option; None where its own default holds."""
    said = None
    options = args[: _end_of_options(args)]
    for index, arg in enumerate(options):
        if arg == option and index + 1 < len(options):
            said = options[index + 1]
        elif arg.startswith(f"{option}="):
            said = arg.partition("=")[2]
    return said
