"""A Chat Completions endpoint that answers as a test says: real HTTP, strict about what it gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal

from agenttune.protocol.model_calls import Usage
from agenttune.testing.chat_request import BadRequest, ChatRequest, check
from agenttune.testing.steps import Step, fails, fits, says
from agenttune.testing.wire import Wire

Script = Iterable[Step] | Callable[[ChatRequest], Step]
Supports = Literal["tools", "json", "text"]
CHARACTERS_A_TOKEN = 4
"""For tokens that no step gives (rule of thumb for English)."""


class ScriptedEndpoint:
    """A server on a free loopback port, in a thread of its own. Use it in a `with` statement::

        with ScriptedEndpoint([calls(("wait", {})), fails(429, retry_after=2), says("hold")]) as endpoint:
            llm = LlmSettings(model="scripted", base_url=endpoint.base_url)
            ...
        assert endpoint.requests[0].tools

    It refuses nonsense with a 400 of OpenAI's shape, and is strict: a request beyond the script, a request that was
    refused, an error in the script's function, and a step that nobody asked for fail the test at the end of the
    `with` block.

    Args:
        script: Steps in the order of the requests; or a function from each request to its step.
        supports: What the server can do, for agenttune's probes, which it answers by itself: `tools` (and JSON),
            `json`, or only `text`. A probe of more is answered in words, as weak servers do; any other request for
            more is refused. None: probes are requests like others, and nothing is refused for wanting too much.
        model: The only model that it knows; None: any.
        key: The key that requests must carry; None: any, or none.

    Attributes:
        requests: What was asked, without the probes that it answered by itself.
        probes: Those probes.
        is_down: While true, every connection is closed without an answer.
    """

    def __init__(
        self,
        script: Script = (),
        supports: Supports | None = "tools",
        model: str | None = None,
        key: str | None = None,
    ) -> None:
        self._steps = None if callable(script) else list(script)
        self._answer: Callable[[ChatRequest], Step] = script if callable(script) else self._next
        self._supports, self._model, self._key = supports, model, key
        self._lock = threading.Lock()
        self._seen: list[str] = []
        self._problems: list[str] = []
        self.requests: list[ChatRequest] = []
        self.probes: list[ChatRequest] = []
        self.is_down = False
        self._wire = Wire(self)

    @property
    def base_url(self) -> str:
        """For `llm.base_url`."""
        return f"http://127.0.0.1:{self._wire.port}/v1"

    def __enter__(self) -> ScriptedEndpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if error is None:
            self.assert_done()

    def close(self) -> None:
        """Be gone at once, as a server that was killed: connections are refused, answers under way never come."""
        self._wire.close()

    def reopen(self) -> None:
        """Listen again, at the same port, after `close`."""
        self._wire = Wire(self, self._wire.port)

    def assert_done(self) -> None:
        """Check that every step was asked for, and nothing else.

        Raises:
            AssertionError: With what is left, or what went wrong.
        """
        left = len(self._steps) if self._steps is not None else 0
        problems = [*self._problems, *([f"steps of the script that were not asked for: {left}"] if left else [])]
        if problems:
            raise AssertionError("scripted endpoint: " + "; ".join(problems))

    def respond(self, body: Any, headers: dict[str, str]) -> tuple[Step, ChatRequest | None]:
        """What to answer, as the server's threads ask; whatever a test must hear of is noted."""
        with self._lock:
            try:
                check(body)
                request = ChatRequest(body, headers)
                return self._scripted(request), request
            except BadRequest as error:
                self._problems.append(f"refused a request: {error.param}: {error}")
                return fails(400, str(error), type="invalid_request_error", param=error.param), None
            except Exception as error:  # of the script's function too: noted here, raised by assert_done
                self._problems.append(f"{type(error).__name__}: {error}")
                return fails(400, f"the script failed: {error}", type="scripted"), None

    def completion(self, step: Step, request: ChatRequest) -> dict[str, Any]:
        """The body of an answer."""
        message = _message(step, request)
        reason = step.finish_reason or ("tool_calls" if message.get("tool_calls") else "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        made: dict[str, Any] = {
            "id": f"chatcmpl-{len(self.requests)}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": request.body["model"],
            "choices": [] if step.shape == "no_choices" else [choice],
        }
        if step.tells_usage:
            made["usage"] = _usage(step.usage or self._count(request, json.dumps(message)))
        return made

    def _next(self, request: ChatRequest) -> Step:
        if not self._steps:
            raise LookupError(f"request {len(self.requests)} is beyond the script: {request.last_text[:100]!r}")
        return self._steps.pop(0)

    def _scripted(self, request: ChatRequest) -> Step:
        if self._key is not None and request.headers.get("authorization") != f"Bearer {self._key}":
            return fails(401, "incorrect API key provided", code="invalid_api_key")
        if self._model is not None and request.body["model"] != self._model:
            return fails(404, f"the model {request.body['model']!r} does not exist", code="model_not_found")
        if self._supports is not None and request.is_probe:
            self.probes.append(request)
            return fits() if self._can_do(request) else says("Yes, I am ready.")
        if not self._can_do(request):
            field = "tools" if request.tools else "response_format"
            raise BadRequest(f"this server supports {self._supports} only", field)
        self.requests.append(request)
        return self._answer(request)

    def _can_do(self, request: ChatRequest) -> bool:
        wants = 2 if request.tools else 1 if request.schema is not None else 0
        return self._supports is None or ("text", "json", "tools").index(self._supports) >= wants

    def _count(self, request: ChatRequest, answer: str) -> Usage:
        """Tokens, with the longest prefix that was sent before as the provider's cache."""
        with self._lock:
            text = request.sent_text
            cached = max((_shared(text, seen) for seen in self._seen), default=0)
            self._seen.append(text)
        return Usage(
            input_tokens=len(text) // CHARACTERS_A_TOKEN,
            cached_input_tokens=cached // CHARACTERS_A_TOKEN,
            output_tokens=len(answer) // CHARACTERS_A_TOKEN,
        )


def _message(step: Step, request: ChatRequest) -> dict[str, Any]:
    text, uses = step.text, step.tool_calls
    if step.shape == "fitting":
        text, uses = _fitting(step, request)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": step.refusal}
    if uses:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(uses)
        ]
    return message


def _fitting(step: Step, request: ChatRequest) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    forced = request.forced_tool
    if forced is not None:
        parameters = request.tools[forced].get("parameters", {"type": "object"})
        return None, ((forced, step.text or json.dumps(example_of(parameters))),)
    return step.text or json.dumps(example_of(request.schema or {})), ()


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
    }


def _shared(one: str, other: str) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def example_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A value that obeys the schema, as far as the common keywords go: the first choice, the smallest number."""
    root = schema if root is None else root
    if "$ref" in schema:
        part: Any = root
        for key in str(schema["$ref"]).removeprefix("#/").split("/"):
            part = part[key]
        return example_of(part, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], root)
    kind = schema.get("type", "object")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example_of(fields[name], root) for name in schema.get("required", [])}
    if kind == "array":
        return [example_of(schema.get("items", {}), root)] * int(schema.get("minItems", 0))
    if kind == "string":
        return "x" * max(1, int(schema.get("minLength", 1)))
    if kind in ("number", "integer"):
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"boolean": False, "null": None}[kind]
