"""The interface of a language model: it can be asked, it has a ledger of costs, and it may be unavailable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from agenttune.config import LlmSettings
from agenttune.llm.endpoints import why_no_client
from agenttune.llm.transcript import redacted
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage, Ledger, ModelCalled, PromptUsed, Purpose

OPENAI_URL = "https://api.openai.com/v1"
Protocol_ = Literal["tools", "json", "text"]
"""How a model answers: with tool calls, with JSON that the server holds to a schema, or in words."""


class ChatModel(Protocol):
    """A language model with its ledger."""

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> Protocol_:
        """Known after `check_capabilities`; before, what the settings say."""

    @property
    def spent(self) -> Ledger: ...

    def unavailable(self) -> str:
        """Why no call would be made now: a cap is reached or the circuit breaker is open; empty if one would."""

    def check_capabilities(self, policy: str) -> list[ModelCalled]:
        """Find out with small real calls how the model answers; returns these calls, none if it is known.

        Raises:
            BudgetSpent: A cap is reached.
            ModelUnavailable: The endpoint does not answer.
        """

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
        """One call, with its retries.

        Args:
            messages: The conversation so far.
            policy: Who asks, for the log.
            purpose: What for, for the log.
            tools: Offered to the model; only with protocol `tools`.
            schema: JSON schema of the answer wanted.
            prompts: Templates that went into the messages, for the log.
            temperature: Instead of the configured one.

        Returns:
            The call, with its answer.

        Raises:
            BudgetSpent: A cap is reached; no call was made.
            ModelUnavailable: No answer came; it has the failed call for the log.
        """


def is_configured(llm: LlmSettings, environ: Mapping[str, str]) -> str:
    """Why there is no language model to ask, in one line; empty if there is."""
    if not llm.model:
        return "no language model: set llm.model in the config file"
    url = llm.base_url or environ.get("OPENAI_BASE_URL") or ""
    if url and not url.startswith(("http://", "https://")):
        shown = redacted(url if "://" in url else f"://{url}").removeprefix("://")  # a password needs no scheme
        return f"the endpoint {shown!r} is no URL: write it as http://127.0.0.1:8080/v1 (llm.base_url)"
    if not url and not environ.get(llm.api_key_env):
        return f"no key for {llm.model}: set {llm.api_key_env}, or llm.base_url for a server that needs none"
    return why_no_client(url or OPENAI_URL)
