"""Values that old clients send as texts, read as the type of the value in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agenttune.errors import CommandError
from agenttune.server.strict_bodies import BadJson, parse_json


def fit_all(given: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """`fit` for each of several values by name."""
    return {name: fit(value, current.get(name), name) for name, value in given.items()}


def fit(value: Any, current: Any, name: str) -> Any:
    """A text as the type of the current value, also inside lists and objects; whatever else it is, the trainer judges.

    Raises:
        CommandError: The text cannot be read as that type.
    """
    if isinstance(value, list) and isinstance(current, (list, tuple)):
        return _fit_list(value, current, name)
    if isinstance(value, dict) and isinstance(current, Mapping):
        return {key: fit(item, current.get(key), f"{name}.{key}") for key, item in value.items()}
    if not isinstance(value, str) or current is None or isinstance(current, str):
        return value
    text = value.strip()
    if isinstance(current, (list, tuple)) and not text.startswith(("[", "{")):
        text = f"[{text.strip('()')}]"
    if isinstance(current, bool):
        text = text.lower()
    try:
        read = parse_json(text.encode())
    except (BadJson, UnicodeEncodeError):
        read = _number(text)
    if not _is_like(read, current):
        message = f"{name} is {type(current).__name__} (now {current!r:.80}); the text {value!r:.80} is none"
        raise CommandError(message, field=f"args.{name}")
    return fit(read, current, name) if isinstance(read, (list, dict)) else read


def _fit_list(value: list[Any], current: Sequence[Any], name: str) -> list[Any]:
    """Element by element; further ones are like the last there is."""
    if not current:
        return value
    return [fit(item, current[min(i, len(current) - 1)], f"{name}[{i}]") for i, item in enumerate(value)]


def _number(text: str) -> float | None:
    """Numbers that Python writes and JSON does not, such as `1.` and `.5`; NaN is refused where it is checked."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_like(read: object, current: object) -> bool:
    if isinstance(current, bool) or isinstance(read, bool):
        return isinstance(current, bool) and isinstance(read, bool)
    if isinstance(current, (int, float)):
        return isinstance(read, (int, float))
    return isinstance(read, (list, dict))
