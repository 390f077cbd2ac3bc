"""The arguments of a command as fields of a form, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from agenttune.errors import UserError
from agenttune.gate import with_arguments
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.strict_json import once
from agenttune.protocol.text import clean

DEFAULTS: tuple[object, ...] = (None, {}, [], "effective")
"""Arguments at these say nothing of what is asked."""


@dataclass(frozen=True)
class Field:
    """One argument to edit.

    Attributes:
        asked: As the request has it, as JSON in ASCII: nothing in it can look like something else.
        text: What stands in the field.
    """

    name: str
    asked: str
    text: str


def fields_of(command: CommandBase, typed: Mapping[str, str] | None = None) -> list[Field]:
    """The arguments that were asked for, with what somebody typed in their place."""
    typed = typed or {}
    asked = {name: json.dumps(value) for name, value in command.arguments().items() if value not in DEFAULTS}
    return [Field(name, text, typed.get(name, text)) for name, text in asked.items()]


def edited(command: CommandBase, typed: Mapping[str, str]) -> CommandBase | None:
    """The command as somebody typed it; None if nothing was changed.

    Raises:
        UserError: What was typed makes no command.
    """
    fields = fields_of(command, typed)
    if set(typed) - {field.name for field in fields}:
        raise UserError("this is not what the page's form sends; nothing was decided")
    changed = {field.name: field.text.strip() for field in fields if field.text.strip() != field.asked}
    empty = next((name for name, text in changed.items() if not text), None)
    if empty is not None:
        raise UserError(f"{empty} is empty: give it a value, or leave it as it was asked for", field=empty)
    before = command.arguments()
    values = {name: _value(text, isinstance(before[name], str)) for name, text in changed.items()}
    return with_arguments(command, values) if values else None


def in_words(command: CommandBase) -> str:
    """The arguments on one line, such as `lr 0.015, weight_decay 0.1`."""
    return clean(", ".join(f"{field.name} {field.asked}" for field in fields_of(command)))


def _value(text: str, is_word: bool) -> object:
    """What is no JSON is a word; so is any JSON but a quoted word where a word was asked for."""
    try:
        value = json.loads(text, object_pairs_hook=once)
    except ValueError:
        return text  # where no word is wanted, the command's schema says what is
    return text if is_word and not isinstance(value, str) else value
