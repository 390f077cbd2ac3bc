"""A command's arguments as a person reads and types them."""

from __future__ import annotations

import json
import re
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.strict_json import KeyTwice, once
from agenttune.protocol.text import given

SHOWN_DIGITS = 6
"""A number is offered for editing with this many significant digits (guess); left as it is, it keeps all of them."""
NAMED = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)=")
EXAMPLE = "lr=0.001"


class Editable:
    """The arguments of a command, offered for a change.

    Args:
        command: As it was asked for.

    Attributes:
        name: Of its only argument, whose value alone is typed; empty if it has more or none.
        offered: The line that a person starts from.
    """

    def __init__(self, command: CommandBase) -> None:
        self._given = given(command.arguments())
        self._shown = {name: _shown(value) for name, value in self._given.items()}
        self.name = next(iter(self._given)) if len(self._given) == 1 else ""
        pairs = [f"{name}={value}" for name, value in self._shown.items()]
        self.offered = self._shown[self.name] if self.name else " ".join(pairs)

    def read(self, line: str) -> dict[str, Any]:
        """The arguments in the line; a value that was left as it was offered keeps its exact digits.

        Raises:
            UserError: It is not a list of `name=value`, nor the one value that is wanted.
        """
        is_bare = bool(self.name and line.strip()) and not NAMED.match(line)
        texts = {self.name: line.strip()} if is_bare else read_texts(line)
        return {n: self._given[n] if text == self._shown.get(n) else _value(text) for n, text in texts.items()}


def read_texts(line: str) -> dict[str, str]:
    """The values in `name=value name=value`, as text; blanks inside a JSON value belong to the value.

    Raises:
        UserError: It is not such a list.
    """
    found: dict[str, str] = {}
    rest = line
    while rest.strip():
        name = NAMED.match(rest)
        text = _first_value(rest[name.end() :]) if name else ""
        if name is None or not text:
            raise UserError(f"{rest.strip()!r:.80} is not name=value, such as {EXAMPLE}", field="arguments")
        if name[1] in found:
            raise UserError(f"{name[1]!r:.80} is given twice; give it once", field="arguments")
        found[name[1]] = text
        rest = rest[name.end() + len(text) :]
    if not found:
        raise UserError(f"nothing to change: type name=value, such as {EXAMPLE}", field="arguments")
    return found


def _first_value(text: str) -> str:
    """The value that a text begins with: JSON, or a word."""
    word = re.match(r"\S*", text)
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except ValueError:
        end = 0
    is_whole = end > 0 and (end == len(text) or text[end].isspace())
    return text[:end] if is_whole else word[0] if word else ""


def _value(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=once)
    except KeyTwice as error:
        raise UserError(str(error), field="arguments") from None
    except ValueError:
        return text


def _shown(value: object) -> str:
    if isinstance(value, str) and not isinstance(_value(value), str):
        return json.dumps(value)  # a text that looks like a number
    if isinstance(value, str) and value and not re.search(r'[\s"]', value):
        return value
    return json.dumps(_rounded(value), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SHOWN_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(inside) for name, inside in value.items()}
    return [_rounded(inside) for inside in value] if isinstance(value, list) else value
