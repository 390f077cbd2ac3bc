"""Language models behind endpoints that speak OpenAI's Chat Completions.

The client itself, `OpenAIChat`, is loaded when it is first asked for: importing the `openai` package takes seconds
(measured: 3 s on two cores), which a run without a model need not wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agenttune.llm.answer_text import Unreadable, answer_in, without_thinking
from agenttune.llm.budget import cost_usd
from agenttune.llm.capability_check import CHECK_TEXT
from agenttune.llm.chat_model import ChatModel, Protocol_, is_configured
from agenttune.llm.endpoints import REMOTE_ENV
from agenttune.llm.transcript import resolve

if TYPE_CHECKING:
    from agenttune.llm.openai_chat import OpenAIChat

__all__ = [
    "CHECK_TEXT",
    "REMOTE_ENV",
    "ChatModel",
    "OpenAIChat",
    "Protocol_",
    "Unreadable",
    "answer_in",
    "cost_usd",
    "is_configured",
    "resolve",
    "without_thinking",
]


def __getattr__(name: str) -> Any:
    if name == "OpenAIChat":
        from agenttune.llm.openai_chat import OpenAIChat

        return OpenAIChat
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
