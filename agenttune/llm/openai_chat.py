"""A language model behind the official `openai` client, with retries, a ledger, caps and transcripts."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from agenttune.config import BudgetSettings, LlmSettings
from agenttune.errors import BudgetSpent, ConfigError, ModelUnavailable
from agenttune.llm.answer_text import without_thinking
from agenttune.llm.attempts import Attempts, CircuitBreaker, retrying
from agenttune.llm.budget import cap_reached, check_price, cost_usd
from agenttune.llm.capability_check import CHECK_TOOL, find_protocol, is_refused, question
from agenttune.llm.chat_model import OPENAI_URL, Protocol_, is_configured
from agenttune.llm.endpoints import check_allowed, endpoint_of, http_client
from agenttune.llm.requests import ANSWER_TOOL, answer_tool, as_told, build_request, sendable
from agenttune.llm.transcript import TranscriptWriter, secrets_of
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage, Ledger, ModelCalled, PromptUsed, Purpose

NO_KEY = "none-needed"
"""Sent to servers that need no key; the client refuses to send none."""
ERROR_CHARACTERS = 500


class OpenAIChat:
    """A model behind an endpoint. Used from one thread at a time.

    Args:
        llm: Which model, where, and how long to wait.
        budgets: Caps on calls, tokens and money.
        spent: What was spent before, by the same run.
        environ: Holds the key.
        clock_s: Monotonic time in seconds.
        now_s: Unix time in seconds.
        sleep: Waits for so many seconds.
        jitter: A random number from 0 to 1.

    Raises:
        ConfigError: No model is configured, or a cap on money is set and the model's price is not.
    """

    def __init__(
        self,
        llm: LlmSettings,
        budgets: BudgetSettings,
        spent: Ledger | None = None,
        environ: Mapping[str, str] = os.environ,
        clock_s: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        problem = is_configured(llm, environ)
        if problem:
            raise ConfigError(problem, field="llm")
        check_price(llm, budgets)
        self._llm, self._budgets, self._clock_s = llm, budgets, clock_s
        self._spent = Ledger() if spent is None else spent
        self._url = llm.base_url or environ.get("OPENAI_BASE_URL") or OPENAI_URL
        key = environ.get(llm.api_key_env)
        self._transcript = TranscriptWriter(*([key] if key else []), *secrets_of(self._url))
        # Retries are `attempts.py`'s: counted, told in the log, and also after an answer that cannot be read.
        self._client = openai.OpenAI(
            api_key=key or NO_KEY,
            base_url=self._url,
            max_retries=0,
            timeout=llm.timeout_s,
            http_client=http_client(self._url),
        )
        self._retrying = retrying(llm.max_attempts, now_s, sleep, jitter)
        self._breaker = CircuitBreaker(clock_s)
        self._protocol: Protocol_ | None = None if llm.protocol == "auto" else llm.protocol
        self._unsupported: set[str] = set()
        self._unreported: list[ModelCalled] = []

    @property
    def name(self) -> str:
        return self._llm.model or ""

    @property
    def protocol(self) -> Protocol_:
        return self._protocol or "text"

    @property
    def spent(self) -> Ledger:
        return self._spent

    @property
    def endpoint(self) -> str:
        """Scheme, host and port of what is called."""
        return endpoint_of(self._url)

    def unavailable(self) -> str:
        return cap_reached(self._budgets, self._spent) or self._breaker.why_not()

    def check_capabilities(self, policy: str) -> list[ModelCalled]:
        if self._protocol is not None:
            return []
        # Calls of a check that broke off are reported by the next one.
        calls = self._unreported
        self._protocol = find_protocol(lambda protocol: self._check(policy, protocol, calls))
        self._unreported = []
        return calls

    def _check(self, policy: str, protocol: Protocol_, calls: list[ModelCalled]) -> ModelCalled:
        """One small call; a server that refuses the request itself does not have the protocol."""
        tools = [CHECK_TOOL] if protocol == "tools" else []
        schema = CHECK_TOOL.parameters if protocol == "json" else None
        call = self._call(question(), policy, "probe", protocol, tools, schema, (), None, forced=True)
        if call.error and (protocol == "text" or not is_refused(call)):
            self._breaker.failed(call.error)
            raise ModelUnavailable(call.error, call)
        calls.append(call)
        return call

    def ask(
        self,
        messages: Sequence[ChatMessage],
        *,
        policy: str,
        purpose: Purpose,
        tools: Sequence[ToolShape] = (),
        schema: dict[str, Any] | None = None,
        prompts: Sequence[PromptUsed] = (),
        temperature: float | None = None,
    ) -> ModelCalled:
        protocol = self.protocol
        is_forced = schema is not None and protocol == "tools"
        if is_forced and schema is not None:
            # Its tool calls are known to work; its `response_format` may not.
            tools, schema = [answer_tool(schema)], None
        elif protocol != "tools":
            tools = []
        call = self._call(messages, policy, purpose, protocol, tools, schema, prompts, temperature, is_forced)
        if call.error:
            self._breaker.failed(call.error)
            raise ModelUnavailable(call.error, call)
        self._breaker.succeeded()
        return call

    def _call(
        self,
        messages: Sequence[ChatMessage],
        policy: str,
        purpose: Purpose,
        protocol: Protocol_,
        tools: Sequence[ToolShape],
        schema: dict[str, Any] | None,
        prompts: Sequence[PromptUsed],
        temperature: float | None,
        forced: bool,
    ) -> ModelCalled:
        """One call with its retries, entered in the ledger; an error is told in the record, not raised."""
        reached = cap_reached(self._budgets, self._spent)
        if reached:
            raise BudgetSpent(reached, field="budgets")
        check_allowed(self._url)
        told = sendable(messages) if schema is None or protocol == "json" else as_told(messages, schema)
        heat = self._llm.temperature if temperature is None else temperature
        request = build_request(self._llm, told, tools, schema, protocol, heat, forced, self._is_openai)
        # A capability check asks what the server can do: there, a refused form is the answer.
        fixed = {"response_format", "tools"} if purpose == "probe" else set[str]()
        attempts = Attempts(self._client, self._retrying, self._unsupported, [tool.name for tool in tools], fixed)
        began_s = self._clock_s()
        attempts.make(request)
        call = ModelCalled(
            policy=policy,
            purpose=purpose,
            model=self.name,
            endpoint=self.endpoint,
            protocol=protocol,
            prompts=list(prompts),
            tools=list(attempts.offered),
            messages=self._transcript.record(told),
            answer=self._transcript.clean_message(_answer(attempts)),
            usage=attempts.usage,
            usd=cost_usd(attempts.usage, self._llm.prices.get(self.name)),
            latency_s=self._clock_s() - began_s,
            attempts=attempts.count,
            error=self._said(attempts),
            details=self._clean_details(attempts.details),
        )
        self._spent.add(call)
        return call

    def _clean_details(self, details: dict[str, Any]) -> dict[str, Any]:
        return {name: self._transcript.clean(part) if isinstance(part, str) else part for name, part in details.items()}

    @property
    def _is_openai(self) -> bool:
        return urlsplit(self._url).hostname == urlsplit(OPENAI_URL).hostname

    def _said(self, attempts: Attempts) -> str:
        if not attempts.failure:
            return ""
        return self._transcript.clean(f"{self.name} at {self.endpoint}: {attempts.failure}")[:ERROR_CHARACTERS]


def _answer(attempts: Attempts) -> ChatMessage | None:
    """The answer, as text also where it came as arguments of the answer tool; of several uses, all of them."""
    answer = attempts.answer
    if answer is None or not any(use.name == ANSWER_TOOL for use in answer.tool_uses):
        return answer
    parts = [without_thinking(answer.content), *(use.arguments for use in answer.tool_uses)]
    return ChatMessage(role="assistant", content="\n".join(filter(None, parts)))
