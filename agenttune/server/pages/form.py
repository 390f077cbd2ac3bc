"""The form of an approval page: from the arguments of a command to its fields, and from what was sent to a decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qs

from starlette.requests import Request

from agenttune.control import ApprovalDecision, LocalControl
from agenttune.errors import AlreadyDecided, UserError
from agenttune.gate import with_arguments
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.strict_json import once
from agenttune.protocol.text import clean, given

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 40
"""At most so many fields are read: no command has half as many arguments."""
VALUE_CHARACTERS = 2000
VALUE_PREFIX = "set."
"""Begins the names of fields that edit an argument."""
REASON_CHARACTERS = 2000
"""As for every decision."""


@dataclass(frozen=True)
class FormField:
    """One argument to edit.

    Attributes:
        asked: As the request has it, as JSON in ASCII: nothing in it can look like something else.
        text: What stands in the field.
    """

    name: str
    asked: str
    text: str


def fields_of(command: CommandBase, typed: Mapping[str, str] | None = None) -> list[FormField]:
    """The arguments that were asked for, with what somebody typed in their place."""
    typed = typed or {}
    asked = {name: json.dumps(value) for name, value in given(command.arguments()).items()}
    return [FormField(name, text, typed.get(name, text)) for name, text in asked.items()]


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
    return clean(", ".join(f"{name} {json.dumps(value)}" for name, value in command.telling().items()))


def _value(text: str, is_word: bool) -> object:
    """Text is read as JSON where it is JSON, else as a word; where the argument is a word, only quotes are read."""
    try:
        value = json.loads(text, object_pairs_hook=once)
    except ValueError:
        return text  # where no word is wanted, the command's schema says what is
    return text if is_word and not isinstance(value, str) else value


@dataclass(frozen=True)
class Form:
    """What somebody sent from the page.

    Attributes:
        values: What stood in the fields of the arguments, by name.
    """

    verdict: Literal["approve", "edit", "reject"]
    reason: str
    digest: str | None
    values: dict[str, str]


async def read_form(request: Request) -> Form:
    """The decision in a form.

    Raises:
        UserError: It is none; nothing was decided.
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        fields = parse_qs(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        fields = {}
    values = {name: fields.pop(name) for name in list(fields) if name.startswith(VALUE_PREFIX)}
    verdict, reason, digest = (fields.pop(name, [""]) for name in ("verdict", "reason", "digest"))
    if media != FORM or fields or any(len(given) != 1 for given in (verdict, reason, digest, *values.values())):
        raise UserError("this is not what the page's form sends; nothing was decided")
    # A form sends two characters for an end of line; the page's field counts one.
    reason_text = reason[0].replace("\r\n", "\n")
    if len(reason_text) > REASON_CHARACTERS:
        raise UserError(f"the reason is longer than {REASON_CHARACTERS} characters; nothing was decided")
    if any(len(given[0]) > VALUE_CHARACTERS for given in values.values()):
        raise UserError(f"a value is longer than {VALUE_CHARACTERS} characters; nothing was decided")
    named = {name.removeprefix(VALUE_PREFIX): given[0] for name, given in values.items()}
    return Form(_verdict(verdict[0]), reason_text, digest[0] or None, named)


def _verdict(word: str) -> Literal["approve", "edit", "reject"]:
    if word not in ("approve", "edit", "reject"):
        raise UserError("a decision is approve, edit or reject; nothing was decided")
    return cast(Literal["approve", "edit", "reject"], word)


class NotDecided(Exception):
    """Nothing was decided, and the form is shown again with this reason: a control-flow signal."""


def decide_by_form(
    control: LocalControl, run_id: str, record: CommandRecord, form: Form, digest: str, author: Author
) -> CommandRecord:
    """Decide as a form says.

    Raises:
        NotDecided: The values in it make no edit, or one that is not allowed.
        UserError: As for `Control.decide`.
    """
    command = None
    if form.verdict != "reject" and record.state is State.PROPOSED:
        try:
            command = edited(record.proposal.command, form.values)
        except UserError as error:
            raise NotDecided(str(error)) from error
    if form.verdict == "approve" and command is not None:
        raise NotDecided("you changed a value: press 'Run with these values', or put it back and approve")
    if form.verdict == "edit" and command is None and record.state is State.PROPOSED:
        raise NotDecided("these are the values that were asked for: change one, or approve")
    given = {"verdict": form.verdict, "digest": digest, "author": author, "reason": form.reason, "command": command}
    try:
        return control.decide(run_id, record.command_id, ApprovalDecision.model_validate(given))
    except AlreadyDecided:
        raise
    except UserError as error:
        if form.verdict != "edit":
            raise
        raise NotDecided(str(error)) from error
