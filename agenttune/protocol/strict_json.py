"""JSON objects in which no key stands twice: of two values, who checks might see the one and who applies the other."""

from __future__ import annotations

from typing import Any


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
