"""A client with a clock of its own: no test waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenttune.config import BudgetSettings, LlmSettings
from agenttune.llm import OpenAIChat
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage, Ledger, ModelCalled
from agenttune.testing import ScriptedEndpoint

WAIT = ToolShape(
    name="wait",
    description="Do nothing for now.",
    parameters={"type": "object", "properties": {"until_step": {"type": "integer"}}, "additionalProperties": False},
)
CHOICE: dict[str, Any] = {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["hold", "halve"]}},
    "required": ["action"],
    "additionalProperties": False,
}
NOON_S = 1_800_000_000.0
"""Unix time at which tests begin: Fri, 15 Jan 2027 08:00:00 GMT."""


@dataclass
class Clock:
    """Time passes when somebody sleeps, or when a test says so."""

    passed_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.passed_s

    def unix(self) -> float:
        return NOON_S + self.passed_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.passed_s += seconds


def client(
    endpoint: ScriptedEndpoint | str,
    clock: Clock | None = None,
    budgets: BudgetSettings | None = None,
    spent: Ledger | None = None,
    environ: Mapping[str, str] | None = None,
    **llm: Any,
) -> OpenAIChat:
    """A client of an endpoint; `llm` are further settings. The jitter is fixed at its middle."""
    clock = clock or Clock()
    url = endpoint if isinstance(endpoint, str) else endpoint.base_url
    settings = LlmSettings(**{"model": "scripted", "base_url": url, "protocol": "tools", **llm})
    return OpenAIChat(
        settings,
        budgets or BudgetSettings(),
        spent,
        environ or {},
        clock_s=clock.monotonic,
        now_s=clock.unix,
        sleep=clock.sleep,
        jitter=lambda: 1.0,
    )


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def ask(chat: OpenAIChat, *messages: ChatMessage, **options: Any) -> ModelCalled:
    return chat.ask(messages or [user("What now?")], policy="p", purpose="decide", **options)
