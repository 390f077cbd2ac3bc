"""The same tools for models that cannot call any: one bounded JSON answer names tools and their arguments."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from agenttune.errors import UserError
from agenttune.llm.answer_text import Unreadable, answer_in
from agenttune.llm.written_calls import has_markup, written_calls
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ToolUse

MOST_ACTIONS = 4
REASON_LETTERS = 600
"""Bounds of an answer: without them small models write on for ever (measured)."""


def answer_schema(shapes: Sequence[ToolShape]) -> dict[str, Any]:
    """JSON schema of `{"reason": ..., "actions": [{"tool": ..., "arguments": ...}]}`."""
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": REASON_LETTERS},
            "actions": {"type": "array", "maxItems": MOST_ACTIONS, "items": {"anyOf": [*map(_choice, shapes)]}},
        },
        "required": ["reason", "actions"],
        "additionalProperties": False,
    }


def _choice(shape: ToolShape) -> dict[str, Any]:
    parameters = _bounded({**shape.parameters, "additionalProperties": False})
    return {
        "type": "object",
        "properties": {"tool": {"type": "string", "enum": [shape.name]}, "arguments": parameters},
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }


def _bounded(part: Any) -> Any:
    """A schema in which every text has a longest length: small models write on for ever otherwise (measured)."""
    if isinstance(part, list):
        return [_bounded(item) for item in part]
    if not isinstance(part, dict):
        return part
    bounded = {key: _bounded(value) for key, value in part.items()}
    kinds = bounded.get("type")
    is_text = kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    if is_text and not bounded.keys() & {"enum", "maxLength", "pattern"}:
        bounded["maxLength"] = REASON_LETTERS
    return bounded


def read_json_answer(text: str, offered: Collection[str]) -> tuple[str, list[ToolUse]]:
    """The reason and the tool calls of an answer, which may have words around its JSON.

    The markup of the model's own tool calls is understood too, but not both at once.

    Args:
        text: What the model wrote.
        offered: Names of the tools that it has.

    Raises:
        UserError: There is no such object; says which form it must have.
    """
    if has_markup(text):
        written = written_calls(text, offered)
        if written.problem:
            raise _malformed(written.problem)
        return written.words, written.uses
    try:
        found = answer_in(text, "actions")
    except Unreadable as error:
        raise _malformed(error.problem) from None
    actions = found.get("actions")
    if not isinstance(actions, list):
        raise _malformed(f"'actions' is {type(actions).__name__}, not a list")
    return str(found.get("reason") or ""), [_use(number, action) for number, action in enumerate(actions, 1)]


def _use(number: int, action: object) -> ToolUse:
    if not isinstance(action, dict) or not isinstance(action.get("tool"), str):
        raise _malformed(f"action {number} has no 'tool'")
    arguments = action.get("arguments")
    return ToolUse(
        id=f"action_{number}", name=action["tool"], arguments=json.dumps({} if arguments is None else arguments)
    )


def _malformed(problem: str) -> UserError:
    return UserError(
        f"your answer could not be read: {problem}. Answer with one JSON object only: "
        '{"reason": "...", "actions": [{"tool": "...", "arguments": {...}}]}; an empty list of actions changes nothing',
        field="answer",
    )
