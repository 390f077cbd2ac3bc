"""What was said to a language model and what it answered: the part of the log from which a run can be re-scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
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


class Cost(Record):
    """What calls of language models took. Nothing is guessed: what is not known is said.

    Attributes:
        failed_calls: Those of `calls` that brought no answer.
        usd: US dollars of the calls whose price is known; failed calls count where the server told their tokens.
        unpriced: Models whose price is not in `llm.prices`; with any, `usd` is not the whole.
        uncounted_calls: Answered calls of which the server did not tell the tokens.
    """

    calls: int = 0
    failed_calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unpriced: list[str] = Field(default_factory=list)
    uncounted_calls: int = 0
    models: list[str] = Field(default_factory=list)
    mean_latency_s: float | None = Field(None, description="Of the answered calls, with waiting times; none if none.")

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def whole_usd(self) -> float | None:
        """US dollars of all calls; None if the price of any is not known."""
        return None if self.unpriced else self.usd

    @classmethod
    def of(cls, calls: Iterable[ModelCalled]) -> Cost:
        """The sum of recorded calls."""
        known = list(calls)
        usages = [call.usage or Usage() for call in known]
        answered = [call for call in known if not call.error]
        # What brought neither answer nor count is taken to be free.
        unpriced = [call.model for call in known if call.usd is None and (call.usage is not None or not call.error)]
        return cls(
            calls=len(known),
            failed_calls=len(known) - len(answered),
            input_tokens=sum(usage.input_tokens for usage in usages),
            cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
            usd=min(sum(call.usd or 0.0 for call in known), sys.float_info.max),  # forged sums too stay numbers
            unpriced=list(dict.fromkeys(unpriced)),
            uncounted_calls=sum(call.usage is None for call in answered),
            models=list(dict.fromkeys(call.model for call in known)),
            mean_latency_s=sum(call.latency_s for call in answered) / len(answered) if answered else None,
        )


@dataclass
class Ledger:
    """What the models of a run have spent so far, for caps; `calls` of other processes are caught up with."""

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    uncounted_calls: int = 0

    @classmethod
    def of(cls, calls: Iterable[ModelCalled]) -> Ledger:
        """The sum of recorded calls; `usd` is None if the price of any is not known."""
        cost = Cost.of(calls)
        return cls(cost.calls, cost.tokens, cost.whole_usd, cost.uncounted_calls)

    def add(self, call: ModelCalled) -> None:
        one = Ledger.of([call])
        self.calls += one.calls
        self.tokens += one.tokens
        self.uncounted_calls += one.uncounted_calls
        self.usd = None if self.usd is None or one.usd is None else self.usd + one.usd

    def catch_up(self, known: Ledger) -> None:
        """Take over what was spent elsewhere; calls that only one of both ledgers has yet are not lost."""
        self.calls = max(self.calls, known.calls)
        self.tokens = max(self.tokens, known.tokens)
        self.uncounted_calls = max(self.uncounted_calls, known.uncounted_calls)
        self.usd = None if self.usd is None or known.usd is None else max(self.usd, known.usd)
