"""Builds a Chat Completions request from messages and tools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agenttune.config import LlmSettings
from agenttune.llm.chat_model import Protocol_
from agenttune.llm.refused_options import schema_in_words
from agenttune.protocol.command_schemas import ToolShape
from agenttune.protocol.model_calls import ChatMessage

ANSWER_TOOL = "answer"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def valid(text: str) -> str:
    """The text with halves of surrogate pairs replaced: they can be neither sent nor stored."""
    return text.encode("utf-8", "replace").decode("utf-8")


def answer_tool(schema: dict[str, Any]) -> ToolShape:
    """A tool whose arguments are the answer."""
    return ToolShape(name=ANSWER_TOOL, description="Give your answer.", parameters=schema)


def sendable(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages without what cannot be sent: halves of surrogate pairs, and letters that no tool's name may have."""
    return [_sendable(message) for message in messages]


def _sendable(message: ChatMessage) -> ChatMessage:
    uses = [
        use.model_copy(update={"name": _NOT_IN_NAMES.sub("_", use.name)[:64] or "_", "arguments": valid(use.arguments)})
        for use in message.tool_uses
    ]
    content = None if message.content is None else valid(message.content)
    return message.model_copy(update={"content": content, "tool_uses": uses})


def as_told(messages: Sequence[ChatMessage], schema: dict[str, Any]) -> list[ChatMessage]:
    """The messages, with the schema in words at the end, for servers without `response_format`."""
    return sendable([*messages, ChatMessage(role="user", content=schema_in_words(schema))])


def build_request(
    llm: LlmSettings,
    messages: Sequence[ChatMessage],
    tools: Sequence[ToolShape],
    schema: dict[str, Any] | None,
    protocol: Protocol_,
    temperature: float | None,
    forced: bool,
    is_openai: bool,
) -> dict[str, Any]:
    """The arguments of `chat.completions.create`."""
    # Newer models of OpenAI refuse the old name, older servers do not know the new one.
    longest = "max_completion_tokens" if is_openai else "max_tokens"
    request: dict[str, Any] = {"model": llm.model, "messages": [_message(m) for m in messages]}
    if not {"max_tokens", "max_completion_tokens"} & set(llm.extra_body):
        request[longest] = llm.max_output_tokens
    if temperature is not None:
        request["temperature"] = temperature
    if tools:
        request["tools"] = [_tool(tool) for tool in tools]
        request["tool_choice"] = "required" if forced else "auto"
    if schema is not None and protocol == "json":
        form = {"name": ANSWER_TOOL, "schema": schema, "strict": _is_strict(schema)}
        request["response_format"] = {"type": "json_schema", "json_schema": form}
    if llm.extra_body:
        request["extra_body"] = llm.extra_body
    return request


def _message(message: ChatMessage) -> dict[str, Any]:
    raw: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_uses:
        raw["content"] = message.content
        raw["tool_calls"] = [
            {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}
            for use in message.tool_uses
        ]
    if message.tool_use_id is not None:
        raw["tool_call_id"] = message.tool_use_id
    return raw


def _tool(tool: ToolShape) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _is_strict(schema: Any) -> bool:
    """Whether strict mode takes a schema: every object is closed, and all its fields are required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        fields = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False or set(schema.get("required", [])) != fields:
            return False
    return all(map(_is_strict, schema.values()))
