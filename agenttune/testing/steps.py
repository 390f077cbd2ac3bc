"""What a scripted endpoint answers to one request."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal

from agenttune.protocol.model_calls import Usage

Shape = Literal["completion", "fitting", "error", "garbled", "cut", "no_choices"]


@dataclass(frozen=True)
class Step:
    """One answer. Made by the functions below, such as `says("hold")`, and refined by the methods.

    Attributes:
        shape: What kind of answer; `fitting` is made up from the schema that the request wants.
        text: The message's `content`.
        tool_calls: Name and arguments (as text, which need not be JSON) of each tool call.
        refusal: The message's `refusal`.
        finish_reason: Default: `tool_calls` with tool calls, else `stop`.
        status: HTTP status.
        error: Message of an error.
        error_fields: `code`, `param` and `type` of an error.
        headers: Further headers of the answer.
        delay_s: Real seconds before the answer.
        gate: The answer waits until this is set.
        usage: Tokens told; None: counted, four characters a token, with the longest prefix seen before as cached.
        tells_usage: Whether the answer says anything about tokens.
    """

    shape: Shape = "completion"
    text: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    status: int = 200
    error: str = ""
    error_fields: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    gate: threading.Event | None = None
    usage: Usage | None = None
    tells_usage: bool = True

    def after(self, delay_s: float) -> Step:
        """The same, so many real seconds later."""
        return replace(self, delay_s=delay_s)

    def when(self, gate: threading.Event) -> Step:
        """The same, once the event is set: a slow model without a clock."""
        return replace(self, gate=gate)

    def using(self, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> Step:
        """The same, with these tokens told."""
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cached_input_tokens=cached_input_tokens)
        return replace(self, usage=usage)

    def without_usage(self) -> Step:
        """The same, from a server that does not count tokens."""
        return replace(self, tells_usage=False)

    def ending(self, finish_reason: str) -> Step:
        """The same, with this finish reason, such as `length`."""
        return replace(self, finish_reason=finish_reason)


def says(text: str) -> Step:
    """Answer with a text, which may be long."""
    return Step(text=text)


def calls(*uses: tuple[str, dict[str, Any] | str], text: str | None = None) -> Step:
    """Answer with tool calls, several at once too: `calls(("wait", {"until_step": 300}))`.

    Arguments given as a string are sent as they are, so that they can be malformed.
    """
    made = tuple((name, given if isinstance(given, str) else json.dumps(given)) for name, given in uses)
    return Step(tool_calls=made, text=text)


def gives(value: Any) -> Step:
    """Answer with a JSON value: as text, or, where the request forces a tool, as that tool's arguments."""
    return Step(shape="fitting", text=json.dumps(value))


def fits() -> Step:
    """Answer with the simplest value that obeys the schema, or arguments of the tool, that the request wants."""
    return Step(shape="fitting")


def refuses(reason: str = "I cannot help with that.") -> Step:
    """The model refuses."""
    return Step(refusal=reason)


def answers_nothing(finish_reason: str = "stop") -> Step:
    """An answer without text or tool calls; `content_filter` is what a provider's filter leaves."""
    return Step(text="", finish_reason=finish_reason)


def has_no_choices() -> Step:
    """A completion whose list of choices is empty."""
    return Step(shape="no_choices")


def fails(
    status: int, message: str = "scripted failure", retry_after: str | float | None = None, **fields: str
) -> Step:
    """An HTTP error.

    Args:
        status: Such as 429 or 500.
        message: What the server says.
        retry_after: Its `Retry-After`: seconds, or an HTTP date.
        fields: `code`, `param` or `type` of the error.
    """
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return Step(shape="error", status=status, error=message, error_fields=tuple(fields.items()), headers=headers)


def cuts(text: str = "this will never arrive whole") -> Step:
    """The connection breaks off in the middle of the body."""
    return Step(shape="cut", text=text)


def garbles(body: str = '{"choices": [{"message"') -> Step:
    """Status 200 with a body that is no JSON, or not the one that was asked for."""
    return Step(shape="garbled", text=body)
