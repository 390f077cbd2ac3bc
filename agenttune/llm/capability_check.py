"""The capability check: a small question, asked in each form until the server answers as that form demands."""

from __future__ import annotations

from collections.abc import Callable

from agenttune.llm.answer_text import Unreadable, answer_in
from agenttune.llm.chat_model import Protocol_
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage, ModelCalled

CHECK_TOOL = ToolShape(
    name="report_ready",
    description="Report that you are ready.",
    parameters={
        "type": "object",
        "properties": {"state": {"type": "string", "enum": ["ready"]}},
        "required": ["state"],
        "additionalProperties": False,
    },
)
CHECK_TEXT = "Report that you are ready: state is ready."
REFUSALS = frozenset({400, 405, 415, 422, 500, 501})
"""Statuses with which servers refuse what they do not know; some answer 500 to `json_schema` (measured)."""


def question() -> list[ChatMessage]:
    return [ChatMessage(role="user", content=CHECK_TEXT)]


def find_protocol(ask: Callable[[Protocol_], ModelCalled]) -> Protocol_:
    """The best form in which a model answers; `ask` makes the small call in one form."""
    tools = ask("tools")
    if is_understood(tools, "tools") and not tools.details.get("tool_calls_in_text"):
        return "tools"
    json = ask("json")
    if is_understood(json, "json"):
        return "json"
    if is_understood(tools, "tools"):
        return "tools"
    if tools.error and json.error:
        # Nothing has come yet: perhaps the model itself cannot be called.
        ask("text")
    return "text"


def is_understood(call: ModelCalled, protocol: Protocol_) -> bool:
    """Whether the answer came as this protocol says."""
    if call.error or call.answer is None:
        return False
    if protocol == "text":
        return True
    if protocol == "json":
        return _says_ready(call.answer.content)
    uses = call.answer.tool_uses
    return bool(uses) and uses[0].name == CHECK_TOOL.name and _says_ready(uses[0].arguments)


def _says_ready(text: str | None) -> bool:
    try:
        return answer_in(text, "state") == {"state": "ready"}
    except Unreadable:
        return False


def is_refused(call: ModelCalled) -> bool:
    """Whether the server lives but refuses this kind of request, so that another kind may be tried."""
    return bool(call.error) and call.details.get("status") in REFUSALS
