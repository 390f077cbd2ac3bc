"""Strict fakes for tests of agenttune and of what is built on it. They speak the real protocols; nothing is patched."""

from agenttune.testing.chat_request import ChatRequest
from agenttune.testing.endpoint import ScriptedEndpoint
from agenttune.testing.expert import PlaybookExpert
from agenttune.testing.steps import (
    Step,
    answers_nothing,
    calls,
    cuts,
    fails,
    fits,
    garbles,
    gives,
    has_no_choices,
    refuses,
    says,
)

__all__ = [
    "ChatRequest",
    "PlaybookExpert",
    "ScriptedEndpoint",
    "Step",
    "answers_nothing",
    "calls",
    "cuts",
    "fails",
    "fits",
    "garbles",
    "gives",
    "has_no_choices",
    "refuses",
    "says",
]
