"""Language models behind endpoints that speak OpenAI's Chat Completions."""

from agenttune.chat.base import ChatModel, Protocol_, Spent, is_configured
from agenttune.chat.budget import cost_usd
from agenttune.chat.guard import REMOTE_ENV
from agenttune.chat.openai_chat import OpenAIChat
from agenttune.chat.probing import PROBE_TEXT
from agenttune.chat.request import unwrapped
from agenttune.chat.transcript import resolve

__all__ = [
    "PROBE_TEXT",
    "REMOTE_ENV",
    "ChatModel",
    "OpenAIChat",
    "Protocol_",
    "Spent",
    "cost_usd",
    "is_configured",
    "resolve",
    "unwrapped",
]
