"""One call over the wire, with its attempts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from agenttune.llm.failures import Failure, Lasting, Passing, of_status, wait_s
from agenttune.llm.refused_options import refused_option, told, without
from agenttune.llm.responses import NoAnswer, read_answer, read_usage
from agenttune.protocol.model_calls import ChatMessage, Usage

LEFT_OUT = "left_out"
"""Key of `details`: what a server refused and the request now does without, told once."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How attempts follow each other; tests bring their own clock.

    Attributes:
        max_attempts: Of one call.
        timeout_s: How long one attempt may take.
        now_s: Unix time in seconds.
        sleep: Waits for so many seconds.
        jitter: A random number from 0 to 1.
    """

    max_attempts: int
    timeout_s: float
    now_s: Callable[[], float]
    sleep: Callable[[float], None]
    jitter: Callable[[], float]

    def retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_attempt(self.max_attempts),
            wait=self._wait_s,
            sleep=self.sleep,
            reraise=True,
        )

    def _wait_s(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        return wait_s(failure, state.attempt_number, self.jitter())


@dataclass
class Attempts:
    """All attempts of one call, and what came of them.

    Attributes:
        answer: None if every attempt failed; then `failure` says why.
        usage: Tokens of all attempts, as far as they were told.
        unanswered_usage: The part of them that brought no answer.
        unsupported: Options that the server has refused; grows.
        fixed: Options that this request cannot do without.
        left_out: What was refused in this call, in words.
    """

    client: openai.OpenAI
    pace: Pace
    unsupported: set[str]
    offered: Collection[str]
    fixed: Collection[str] = ()
    left_out: list[str] = field(default_factory=list)
    count: int = 0
    answer: ChatMessage | None = None
    details: dict[str, Any] = field(default_factory=dict)
    usage: Usage | None = None
    unanswered_usage: Usage | None = None
    failure: Failure | None = None

    def make(self, request: Mapping[str, Any]) -> None:
        """Try until there is an answer, or there will be none."""
        try:
            self.pace.retrying()(self._attempt, request)
        except Failure as failure:
            self.failure = failure
            if failure.status:
                self.details["status"] = failure.status
        except Exception as error:  # of the HTTP library or the client: no reason for a policy to die
            log.exception("a call of a language model failed in an unexpected way")
            self.failure = Lasting(f"{type(error).__name__}: {error}")
        if self.left_out:
            self.details[LEFT_OUT] = self.left_out
        if self.unanswered_usage is not None:
            self.details["unanswered_usage"] = self.unanswered_usage.model_dump()

    def _attempt(self, request: Mapping[str, Any]) -> None:
        self.count += 1
        try:
            self._take(self._completion(request))
        except (ValueError, TypeError, AttributeError) as error:  # a body that is no JSON, or of another shape
            raise Passing(f"the answer cannot be read: {type(error).__name__}: {error}") from None

    def _take(self, completion: ChatCompletion) -> None:
        usage = read_usage(completion.usage)
        self.usage = plus(self.usage, usage)
        try:
            self.answer, self.details = read_answer(completion, self.offered)
        except NoAnswer as error:
            self.unanswered_usage = plus(self.unanswered_usage, usage)
            if error.is_too_long:
                raise Lasting(f"{error}; raise llm.max_output_tokens") from None
            raise Passing(str(error)) from None
        self.details["served_by"] = str(completion.model)

    def _completion(self, request: Mapping[str, Any]) -> ChatCompletion:
        """The server's answer, to the request without what it has refused.

        Raises:
            Failure: There is none, or not of the protocol.
        """
        while True:
            sent = without(request, self.unsupported)
            try:
                completion = self.client.chat.completions.create(**sent)
            except openai.APIStatusError as error:
                if not self._can_do_without(error, sent):
                    raise of_status(error, self.pace.now_s()) from None
            except openai.APITimeoutError:
                raise Passing(f"no answer within {self.pace.timeout_s:g} s") from None
            except openai.APIError as error:
                cause = error.__cause__
                raise Passing(f"{error}{f' ({cause})' if cause else ''}") from None
            else:
                break
        if not isinstance(completion, ChatCompletion):
            raise Passing(f"the server's answer is no chat completion but {type(completion).__name__}")
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


def plus(one: Usage | None, other: Usage | None) -> Usage | None:
    """The sum; None only if neither is known."""
    if one is None or other is None:
        return other if one is None else one
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )
