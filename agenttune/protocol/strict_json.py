"""JSON without two values under one key, of which a check might see the one and a trainer apply the other; no NaN."""

from __future__ import annotations

from typing import Any, NoReturn


class KeyTwice(ValueError):
    """A key stands twice in one object."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(..., object_pairs_hook=once)`.

    Raises:
        KeyTwice: A key stands there twice; Python's own reader would take the last value in silence.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise KeyTwice(f"the key {name!r:.80} stands twice in one object; give it once")
        found[name] = value
    return found


def no_constant(token: str) -> NoReturn:
    """For `json.loads(..., parse_constant=no_constant)`: Python's own reader would take NaN and infinities."""
    raise ValueError(f"{token} is not JSON; give a finite number")
