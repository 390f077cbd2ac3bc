"""What a parameter of a dataset may become, by what it is now; and such values as JSON, nothing lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from agenttune.errors import UserError

SIMPLE = (bool, int, float, str)
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
_MARK = "__agenttune__"


def is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, texts, true/false, None, and lists, tuples and dicts of these."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, SIMPLE) and is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, SIMPLE)


def fit(name: str, value: Any, current: Any, *, optional: bool = False, any_length: bool = False) -> Any:
    """`value` in the type of the current one.

    An integer becomes a float where the current value is one; true and false are no numbers. Lists are compared
    element by element; in a list of numbers with a float in it, each may be one: a list of shares written `[1.0, 0]`
    holds no counts. A value that is None now takes any type.

    Args:
        name: For messages; a dotted path.
        value: What was asked for, from JSON.
        current: What is in force.
        optional: Whether None may be set.
        any_length: Whether lists may change their length, and dicts their keys.

    Raises:
        UserError: Another type, length or set of keys, or not finite.
    """
    if value is None or current is None:
        if value is not None or optional or current is None:
            return value
        raise _refusal(name, value, current, _kind(current))
    if isinstance(current, (list, tuple)):
        return _fit_list(name, value, current, any_length)
    if isinstance(current, dict):
        return _fit_dict(name, value, current, any_length)
    return _fit_simple(name, value, current)


def _fit_simple(name: str, value: Any, current: Any) -> Any:
    kind = next((kind for kind in SIMPLE if isinstance(current, kind)), None)
    if kind is None:
        raise UserError(f"{name} is a {type(current).__name__}, which no command can set", field=name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise _refusal(name, value, current, _KINDS[kind])
    if isinstance(value, float) and not math.isfinite(value):
        raise _refusal(name, value, current, "a finite number")
    return value


def _fit_list(name: str, value: Any, current: Any, any_length: bool) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _refusal(name, value, current, "a list")
    if any_length and len(current) == 0:
        return type(current)(value) if type(current) in (list, tuple) else list(value)
    if not any_length and len(value) != len(current):
        raise _refusal(name, value, current, f"a list of {len(current)} elements")
    known = _floats(current) if _is_mixed(current) else current
    pattern = [known[min(i, len(known) - 1)] for i in range(len(value))]
    fitted = [
        fit(f"{name}[{i}]", item, old, any_length=any_length)
        for i, (item, old) in enumerate(zip(value, pattern, strict=True))
    ]
    return tuple(fitted) if isinstance(current, tuple) else fitted


def _is_mixed(value: object) -> bool:
    """Whether a list holds nothing but numbers, in lists of any depth, and a float among them."""
    kinds = set(map(type, _leaves(value)))
    return float in kinds and kinds <= {int, float}


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _floats(value: Any) -> Any:
    return type(value)(map(_floats, value)) if isinstance(value, (list, tuple)) else float(value)


def _fit_dict(name: str, value: Any, current: dict[Any, Any], any_length: bool) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _refusal(name, value, current, "an object")
    if not any_length and set(value) != set(current):
        keys = ", ".join(map(str, current)) or "none"
        raise _refusal(name, value, current, f"an object with the keys {keys}")
    return {
        key: fit(f"{name}.{key}", item, current[key], any_length=any_length) if key in current else item
        for key, item in value.items()
    }


def _kind(current: Any) -> str:
    if isinstance(current, (list, tuple)):
        return "a list"
    if isinstance(current, dict):
        return "an object"
    return next((text for kind, text in _KINDS.items() if isinstance(current, kind)), type(current).__name__)


def _refusal(name: str, value: Any, current: Any, allowed: str) -> UserError:
    return UserError(f"{name} takes {allowed} (now {current!r:.80}), not {value!r:.80}", field=name, allowed=allowed)


def encode(value: Any) -> Any:
    """A plain value as JSON; tuples, non-finite numbers and keys that are no texts are marked."""
    if isinstance(value, tuple):
        return {_MARK: "tuple", "items": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        if _MARK not in value and all(isinstance(key, str) for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {_MARK: "dict", "items": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK: "float", "items": [repr(float(value))]}
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    items = [decode(item) for item in value["items"]]
    if kind == "float":
        return float(items[0])
    return tuple(items) if kind == "tuple" else dict(items)
