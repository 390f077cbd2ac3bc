"""Reads a server's answer: its text, its tool calls (also those left in the text), and its usage."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from agenttune.llm.written_calls import written_calls
from agenttune.protocol.model_calls import ChatMessage, ToolUse, Usage

MAX_CHARACTERS = 20_000
"""Longest text of an answer that is kept: ten times what a decision needs (guess)."""
MAX_TOOL_USES = 16
MALFORMED = "malformed"
"""Key of `details`: the problem with a text that is an attempt at tool calls."""


class NoAnswer(Exception):
    """The server's answer is empty.

    Args:
        message: What is missing.
        is_too_long: The model reached the bound on its output before it answered.
    """

    def __init__(self, message: str, is_too_long: bool = False) -> None:
        super().__init__(message)
        self.is_too_long = is_too_long


def valid(text: str) -> str:
    """The text with halves of surrogate pairs replaced: they can be neither sent nor stored."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_answer(completion: ChatCompletion, offered: Collection[str]) -> tuple[ChatMessage, dict[str, Any]]:
    """The assistant's message, bounded, and further details for the log.

    Raises:
        NoAnswer: There is no choice, or neither text nor tool call nor refusal in it.
    """
    choice = completion.choices[0] if completion.choices else None
    if choice is None or choice.message is None:
        raise NoAnswer("the answer has no choices")
    details: dict[str, Any] = {"finish_reason": choice.finish_reason}
    refusal = _refusal(choice)
    if refusal:
        details["refusal"] = _bounded(refusal, details)
    uses, text = _uses_and_text(choice.message, offered, details)
    if not uses and not (text or "").strip() and not refusal:
        reason = choice.finish_reason
        raise NoAnswer(f"the answer is empty (finish_reason {reason})", is_too_long=reason == "length")
    if len(uses) > MAX_TOOL_USES:
        details["tool_calls_dropped"] = len(uses) - MAX_TOOL_USES
    content = None if text is None else _bounded(text, details)
    return ChatMessage(role="assistant", content=content, tool_uses=_distinct(uses[:MAX_TOOL_USES])), details


def _refusal(choice: Choice) -> str:
    """Why the model or the provider's filter refused; empty if neither did."""
    if isinstance(choice.message.refusal, str) and choice.message.refusal:
        return choice.message.refusal
    return "the provider's content filter held the answer back" if choice.finish_reason == "content_filter" else ""


def _uses_and_text(
    message: ChatCompletionMessage, offered: Collection[str], details: dict[str, Any]
) -> tuple[list[ToolUse], str | None]:
    uses = [_use(call, number) for number, call in enumerate(message.tool_calls or [])]
    text = _text_of(message.content)
    if uses or not text or not offered:
        return uses, text
    written = written_calls(text[:MAX_CHARACTERS], offered)
    if written.problem:
        details[MALFORMED] = written.problem
    if not written.uses:
        return [], text
    details["tool_calls_in_text"] = True
    details["written"] = text[:MAX_CHARACTERS]
    return written.uses, written.words or None


def _text_of(content: Any) -> str | None:
    """The text of a message; of a message in parts, the parts of type text.

    Thinking is no answer: other parts and fields, such as `reasoning_content`, are never read.
    """
    if isinstance(content, str):
        return valid(content)
    if not isinstance(content, list):
        return None
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return valid("".join(part["text"] for part in parts if isinstance(part.get("text"), str)))


def _distinct(uses: list[ToolUse]) -> list[ToolUse]:
    """The same uses with distinct ids: some servers give all of them the same, or none."""
    ids = [use.id for use in uses]
    if len(set(ids)) == len(ids):
        return uses
    return [use.model_copy(update={"id": f"call_{number}"}) for number, use in enumerate(uses)]


def _use(call: Any, number: int) -> ToolUse:
    function = getattr(call, "function", None)
    name = valid(str(getattr(function, "name", None) or ""))[:200]
    arguments = getattr(function, "arguments", None)
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolUse(id=valid(str(call.id or f"call_{number}"))[:200], name=name, arguments=valid(text)[:MAX_CHARACTERS])


def _bounded(text: str, details: dict[str, Any]) -> str:
    text = valid(text)
    if len(text) > MAX_CHARACTERS:
        details["cut_from_characters"] = len(text)
    return text[:MAX_CHARACTERS]


def read_usage(usage: CompletionUsage | None) -> Usage | None:
    """Tokens as the server counted them; None if it did not."""
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    sent = max(0, usage.prompt_tokens or 0)
    return Usage(
        input_tokens=sent,
        cached_input_tokens=min(sent, max(0, cached or 0)),
        output_tokens=max(0, usage.completion_tokens or 0),
    )
