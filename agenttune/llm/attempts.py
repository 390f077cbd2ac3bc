"""One call over the wire: tried, its answer read, tried again; and the circuit breaker between calls.

tenacity repeats and waits. What it is told here is ours: a server's Retry-After counts, an answer that cannot be read
is tried again too, and a spent quota is not, though it comes with the status of a rate limit. The client's own retries
see only statuses.
"""

from __future__ import annotations

import email.utils
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from agenttune.llm.refused_options import refused_option, told, without
from agenttune.llm.requests import valid
from agenttune.llm.written_calls import written_calls
from agenttune.protocol.model_calls import ChatMessage, ToolUse, Usage

TEMPORARY_STATUSES = frozenset({408, 409, 425, 429})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""Between two attempts, doubling; a server's own Retry-After is kept up to the longest (guess)."""
FIRST_REST_S, LONGEST_REST_S = 30.0, 600.0
"""Between two calls of an endpoint that failed, doubling with every failure in a row (guess)."""
LEFT_OUT = "left_out"
"""Key of `details`: what a server refused and the request now does without, told once."""
MAX_CHARACTERS = 20_000
"""Longest text of an answer that is kept: ten times what a decision needs (guess)."""
MAX_TOOL_USES = 16
MALFORMED = "malformed"
"""Key of `details`: the problem with a text that is an attempt at tool calls."""
log = logging.getLogger(__name__)


class NoAnswer(Exception):
    """The server's answer is empty.

    Args:
        message: What is missing.
        is_too_long: The model reached the bound on its output before it answered.
    """

    def __init__(self, message: str, is_too_long: bool = False) -> None:
        super().__init__(message)
        self.is_too_long = is_too_long


class AttemptFailed(Exception):
    """An attempt gave no answer.

    Args:
        message: What went wrong.
        status: The server's; 0 where there is none.
        retry_after: The server's header, where there is one.
        is_temporary: Whether the same request may do better the next time.
    """

    def __init__(
        self, message: str, status: int = 0, retry_after: str | None = None, is_temporary: bool = True
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.is_temporary = status, retry_after, is_temporary


def retrying(
    max_attempts: int, now_s: Callable[[], float], sleep: Callable[[float], None], jitter: Callable[[], float]
) -> Retrying:
    """Repeats what raises a temporary `AttemptFailed`.

    Args:
        max_attempts: Of one call.
        now_s: Unix time in seconds.
        sleep: Waits for so many seconds.
        jitter: A random number from 0 to 1, which spreads clients out.
    """

    def wait_s(state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        told_s = retry_after_s(failure.retry_after, now_s()) if isinstance(failure, AttemptFailed) else None
        if told_s is not None:
            return min(told_s, LONGEST_WAIT_S)
        return min(FIRST_WAIT_S * 2.0 ** (state.attempt_number - 1), LONGEST_WAIT_S) * (0.5 + jitter() / 2)

    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.is_temporary),
        stop=stop_after_attempt(max_attempts),
        wait=wait_s,
        sleep=sleep,
        reraise=True,
    )


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if there is none that can be read."""
    try:
        seconds = float(header or "nan")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header or "").timestamp() - now_s
        except (TypeError, ValueError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


@dataclass
class Attempts:
    """All attempts of one call, and what came of them.

    Attributes:
        unsupported: Options that the server has refused; grows.
        offered: Names of the tools that the model has.
        fixed: Options that this request cannot do without.
        left_out: What was refused in this call, in words.
        answer: None if every attempt failed; then `failure` says why.
        usage: Tokens of all attempts, as far as they were told.
        unanswered_usage: The part of them that brought no answer.
    """

    client: openai.OpenAI
    retrying: Retrying
    unsupported: set[str]
    offered: Collection[str]
    fixed: Collection[str] = ()
    left_out: list[str] = field(default_factory=list)
    count: int = 0
    answer: ChatMessage | None = None
    details: dict[str, Any] = field(default_factory=dict)
    usage: Usage | None = None
    unanswered_usage: Usage | None = None
    failure: str = ""

    def make(self, request: Mapping[str, Any]) -> None:
        """Try until there is an answer, or there will be none."""
        try:
            self.retrying(self._attempt, request)
        except AttemptFailed as error:
            self.failure = str(error)
            if error.status:
                self.details["status"] = error.status
        except Exception as error:  # of the HTTP library or the client: no reason for a policy to die
            log.exception("a call of a language model failed in an unexpected way")
            self.failure = f"{type(error).__name__}: {error}"
        if self.left_out:
            self.details[LEFT_OUT] = self.left_out
        if self.unanswered_usage is not None:
            self.details["unanswered_usage"] = self.unanswered_usage.model_dump()

    def _attempt(self, request: Mapping[str, Any]) -> None:
        self.count += 1
        try:
            self._take(self._completion(request))
        except (ValueError, TypeError, AttributeError) as error:  # a body that is no JSON, or of another shape
            raise AttemptFailed(f"the answer cannot be read: {type(error).__name__}: {error}") from None

    def _take(self, completion: ChatCompletion) -> None:
        usage = read_usage(completion.usage)
        self.usage = plus(self.usage, usage)
        try:
            self.answer, self.details = read_answer(completion, self.offered)
        except NoAnswer as error:
            self.unanswered_usage = plus(self.unanswered_usage, usage)
            hint = "; raise llm.max_output_tokens" if error.is_too_long else ""
            raise AttemptFailed(f"{error}{hint}", is_temporary=not error.is_too_long) from None
        self.details["served_by"] = str(completion.model)

    def _completion(self, request: Mapping[str, Any]) -> ChatCompletion:
        """The server's answer, to the request without what it has refused.

        Raises:
            AttemptFailed: There is none, or it is no chat completion.
        """
        while True:
            sent = without(request, self.unsupported)
            try:
                completion = self.client.chat.completions.create(**sent)
            except openai.APIStatusError as error:
                if not self._can_do_without(error, sent):
                    raise _of_status(error) from None
            except openai.APITimeoutError:
                raise AttemptFailed(f"no answer within {self.client.timeout:g} s") from None
            except openai.APIError as error:
                cause = error.__cause__
                raise AttemptFailed(f"{error}{f' ({cause})' if cause else ''}") from None
            else:
                break
        if not isinstance(completion, ChatCompletion):
            raise AttemptFailed(f"the server's answer is no chat completion but {type(completion).__name__}")
        return completion

    def _can_do_without(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Whether the server refuses an option that can be left out; it is from now on, so that this ends."""
        option = refused_option(error.status_code, error.message, error.param, error.body, sent)
        if option is None or option in self.fixed or option in self.unsupported:
            return False
        self.unsupported.add(option)
        words = told(option, sent, self.unsupported)
        log.warning("the server of %s refuses an option (%s): %s", sent.get("model"), error.status_code, words)
        self.left_out.append(words)
        return True


def _of_status(error: openai.APIStatusError) -> AttemptFailed:
    """What an error status means. A spent quota comes as 429 too, and waiting does not fill it."""
    status = error.status_code
    is_temporary = status in TEMPORARY_STATUSES or (status >= 500 and status != 501)
    return AttemptFailed(
        f"{status}: {error.message}",
        status,
        error.response.headers.get("retry-after"),
        is_temporary and error.code != "insufficient_quota",
    )


def plus(one: Usage | None, other: Usage | None) -> Usage | None:
    """The sum; None only if neither is known."""
    if one is None or other is None:
        return other if one is None else one
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )


# -- reading an answer --------------------------------------------------------------------------------------------


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


class CircuitBreaker:
    """Leaves an endpoint alone after failures in a row, longer each time; then one more call is a trial.

    Args:
        clock_s: Monotonic time in seconds.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.succeeded()

    def succeeded(self) -> None:
        self._rest_s, self._until_s, self._reason = 0.0, float("-inf"), ""

    def failed(self, reason: str) -> None:
        self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S)
        self._until_s, self._reason = self._clock_s() + self._rest_s, reason

    def why_not(self) -> str:
        """Why no call should be made now; empty if one may be."""
        left_s = self._until_s - self._clock_s()
        return f"{self._reason}; it is left alone for {left_s:.0f} s more" if left_s > 0 else ""
