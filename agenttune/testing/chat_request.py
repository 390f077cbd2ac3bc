"""What a Chat Completions endpoint gets, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from agenttune.llm import CHECK_TEXT

NAME = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")
ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRequest(Exception):
    """The request is nonsense; `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class ChatRequest:
    """One request as it came.

    Attributes:
        body: The JSON body.
        headers: With names in lower case.
    """

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])

    @property
    def last_text(self) -> str:
        """Content of the last message."""
        return str(self.messages[-1].get("content") or "")

    @property
    def text(self) -> str:
        """Contents of all messages, for looking whether something was told."""
        return "\n".join(str(message.get("content") or "") for message in self.messages)

    @property
    def tools(self) -> dict[str, dict[str, Any]]:
        """The functions offered, by name."""
        return {tool["function"]["name"]: tool["function"] for tool in self.body.get("tools") or []}

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of `response_format`, if there is one."""
        form = self.body.get("response_format") or {}
        return form["json_schema"]["schema"] if form.get("type") == "json_schema" else None

    @property
    def forced_tool(self) -> str | None:
        """The tool that must be called: the one named, or with `required` the first."""
        choice = self.body.get("tool_choice")
        if isinstance(choice, dict):
            return str(choice["function"]["name"])
        return next(iter(self.tools)) if choice == "required" else None

    @property
    def is_probe(self) -> bool:
        """Whether this is agenttune's question how the server answers."""
        return any(message.get("content") == CHECK_TEXT for message in self.messages)

    @property
    def sent_text(self) -> str:
        """What a provider would count and cache: tools, then messages."""
        return json.dumps([self.body.get("tools"), self.body.get("response_format")]) + json.dumps(self.messages)


def check(body: Any) -> None:
    """Refuse what a real endpoint would refuse.

    Raises:
        BadRequest: With the parameter that is wrong.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("you must provide a model", "model")
    _check_messages(body.get("messages"))
    _check_tools(body)
    if body.get("response_format") is not None:
        _check_form(body["response_format"])
    _check_numbers(body)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    awaited: list[str] = []
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRequest(f"role must be one of {', '.join(ROLES)}", f"{at}.role")
        if message["role"] == "tool":
            if message.get("tool_call_id") not in awaited:
                raise BadRequest("a tool's message must answer a tool call just made", f"{at}.tool_call_id")
            awaited.remove(message["tool_call_id"])
        elif awaited:
            raise BadRequest(f"tool calls without an answer: {', '.join(awaited)}", at)
        awaited += _tool_calls(message, at)
        _check_content(message, at)
    if awaited:
        raise BadRequest(f"tool calls without an answer: {', '.join(awaited)}", "messages")


def _tool_calls(message: dict[str, Any], at: str) -> list[str]:
    uses = message.get("tool_calls")
    if uses is None:
        return []
    if message["role"] != "assistant" or not isinstance(uses, list) or not uses:
        raise BadRequest("tool_calls must be a list with at least one call, of the assistant", f"{at}.tool_calls")
    for use in uses:
        function = use.get("function") or {}
        if use.get("type") != "function" or not use.get("id") or not isinstance(function.get("arguments"), str):
            raise BadRequest("a tool call has an id, type 'function', and arguments as text", f"{at}.tool_calls")
        if not NAME.match(str(function.get("name"))):
            raise BadRequest(f"the name {function.get('name')!r} does not match {NAME.pattern}", f"{at}.tool_calls")
    return [use["id"] for use in uses]


def _check_content(message: dict[str, Any], at: str) -> None:
    content = message.get("content")
    may_lack = message["role"] == "assistant" and message.get("tool_calls")
    if not isinstance(content, (str, list)) and not (content is None and may_lack):
        raise BadRequest("content must be text", f"{at}.content")


def _check_tools(body: dict[str, Any]) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is None:
        if choice not in (None, "none"):
            raise BadRequest("tool_choice is only allowed when tools are given", "tool_choice")
        return
    if not isinstance(tools, list) or not tools:
        raise BadRequest("tools must have at least one tool", "tools")
    names = [_tool_name(tool, number) for number, tool in enumerate(tools)]
    if len(set(names)) < len(names):
        raise BadRequest("two tools have the same name", "tools")
    if isinstance(choice, dict):
        if choice.get("type") != "function" or (choice.get("function") or {}).get("name") not in names:
            raise BadRequest("tool_choice names a function that is not in tools", "tool_choice")
    elif choice not in (None, "none", "auto", "required"):
        raise BadRequest("tool_choice must be none, auto, required or a function", "tool_choice")


def _tool_name(tool: Any, number: int) -> str:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not NAME.match(str(function.get("name"))):
        raise BadRequest(f"a tool is a function whose name matches {NAME.pattern}", f"tools[{number}]")
    parameters = function.get("parameters", {"type": "object"})
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise BadRequest("parameters must be a JSON schema of type object", f"tools[{number}].function.parameters")
    return str(function["name"])


def _check_form(form: Any) -> None:
    kind = form.get("type") if isinstance(form, dict) else None
    if kind in ("text", "json_object"):
        return
    inner = form.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or not NAME.match(str(inner.get("name"))) or not isinstance(inner["schema"], dict):
        raise BadRequest(
            "response_format must be text, json_object, or json_schema with name and schema", "response_format"
        )
    if inner.get("strict") and not _is_closed(inner["schema"]):
        raise BadRequest(
            "with strict, every object needs additionalProperties: false and all its properties in required",
            "response_format",
        )


def _is_closed(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(_is_closed(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        is_open = schema.get("additionalProperties") is not False
        if is_open or set(schema.get("required", [])) != set(schema.get("properties", {})):
            return False
    return all(_is_closed(part) for part in schema.values())


def _check_numbers(body: dict[str, Any]) -> None:
    heat = body.get("temperature")
    if heat is not None and (not isinstance(heat, (int, float)) or not 0 <= heat <= 2):
        raise BadRequest("temperature must be from 0 to 2", "temperature")
    longest = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if len(longest) > 1:
        raise BadRequest("give max_tokens or max_completion_tokens, not both", "max_tokens")
    for name in longest:
        if not isinstance(body[name], int) or body[name] < 1:
            raise BadRequest(f"{name} must be a whole number above 0", name)
    if body.get("stream"):
        raise BadRequest("this endpoint does not stream", "stream")
