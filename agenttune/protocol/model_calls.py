"""What was said to a language model and what it answered: the part of the log from which a run can be re-scored."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from agenttune.protocol.proposals import Record

Purpose = Literal["probe", "decide", "review", "plan", "reflect"]
Role = Literal["system", "user", "assistant", "tool"]


def _if_possible(usd: float | None) -> float | None:
    """A cost that is none, in a log from before such were refused, is not known: a cap on money counts as reached."""
    return usd if usd is not None and math.isfinite(usd) and usd >= 0 else None


def _not_negative(count: int) -> int:
    return max(0, count)


Tokens = Annotated[int, AfterValidator(_not_negative)]


class ToolUse(Record):
    """A tool that the model asks for. `arguments` is the text as it came, which need not be JSON."""

    id: str
    name: str
    arguments: str


class ChatMessage(Record):
    """One message of a conversation.

    Attributes:
        content: The text; None where there is none, or where it was recorded before under the same `sha256`.
        sha256: Of the text, in transcripts only.
    """

    role: Role
    content: str | None = None
    tool_uses: list[ToolUse] = Field(default_factory=list)
    tool_use_id: str | None = Field(None, description="Of a tool's answer: the use that it answers.")
    sha256: str | None = None


class PromptUsed(Record):
    """A template that went into a call."""

    name: str
    sha256: str
    path: str = ""


class Usage(Record):
    """Tokens of one call as the provider counted them; `cached_input` is a part of `input`."""

    input_tokens: Tokens = 0
    cached_input_tokens: Tokens = 0
    output_tokens: Tokens = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class ModelCalled(Record):
    """One call of a language model, with its attempts. Secrets are removed before this is made."""

    kind: Literal["model_called"] = "model_called"
    policy: str
    purpose: Purpose
    model: str
    endpoint: str = Field(description="Scheme, host and port; never credentials.")
    protocol: Literal["tools", "json", "text"]
    prompts: list[PromptUsed] = Field(default_factory=list)
    tools: list[str] = Field(default_factory=list, description="Names of the tools that were offered.")
    messages: list[ChatMessage] = Field(default_factory=list, description="What was sent.")
    answer: ChatMessage | None = None
    usage: Usage | None = Field(None, description="None where the server did not say.")
    usd: Annotated[float | None, AfterValidator(_if_possible)] = Field(
        None, description="None: the price of this model is not in the config."
    )
    latency_s: float = Field(0.0, description="With waiting times between attempts.")
    attempts: int = 1
    error: str = ""
    details: dict[str, Any] = Field(default_factory=dict, description="Such as the provider's finish reason.")
