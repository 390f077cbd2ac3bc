"""JSON values in what a model wrote."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n```", re.DOTALL)


def unwrapped(text: str | None) -> Any:
    """The JSON value of a text: the whole of it, a fenced block, or the outermost braces; None if there is none."""
    if not text:
        return None
    fenced = _FENCE.search(text)
    braces = text[text.find("{") : text.rfind("}") + 1]
    for candidate in (text, fenced[1] if fenced else "", braces):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None
