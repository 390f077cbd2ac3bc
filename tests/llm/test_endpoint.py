"""The scripted endpoint is as strict as a real one, so that a test which passes against it means something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from agenttune.testing import ChatRequest, ScriptedEndpoint, Step, calls, fits, gives, says

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "properties": {}}}}
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def post(endpoint: ScriptedEndpoint, body: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.base_url}/chat/completions", json=body, timeout=10)


@contextmanager
def faulty(endpoint: ScriptedEndpoint, words: str) -> Iterator[ScriptedEndpoint]:
    """A block at whose end the endpoint complains."""
    with pytest.raises(AssertionError, match=words), endpoint:
        yield endpoint


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], "body"),
        ({"messages": HELLO}, "model"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        (
            {"model": "m", "messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "messages[0].tool_call_id",
        ),
        ({"model": "m", "messages": HELLO, "tools": []}, "tools"),
        ({"model": "m", "messages": HELLO, "tools": [TOOL, TOOL]}, "tools"),
        ({"model": "m", "messages": HELLO, "tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
        ({"model": "m", "messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"model": "m", "messages": HELLO, "tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"model": "m", "messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        (
            {
                "model": "m",
                "messages": HELLO,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": OPEN_SCHEMA, "strict": True},
                },
            },
            "response_format",
        ),
        ({"model": "m", "messages": HELLO, "temperature": 3}, "temperature"),
        ({"model": "m", "messages": HELLO, "max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    ],
)
def test_nonsense_is_refused_and_fails_the_test(body: Any, param: str) -> None:
    with faulty(ScriptedEndpoint(), "refused a request") as endpoint:
        reply = post(endpoint, body)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param
        assert endpoint.requests == []


def test_a_tool_call_that_was_not_answered_is_refused() -> None:
    use = {"id": "c1", "type": "function", "function": {"name": "wait", "arguments": "{}"}}
    told = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [use]}, {"role": "user", "content": "and?"}]
    with faulty(ScriptedEndpoint(), "without an answer: c1") as endpoint:
        assert post(endpoint, {"model": "m", "messages": told}).status_code == 400


def test_a_request_beyond_the_script_fails_the_test() -> None:
    with faulty(ScriptedEndpoint([says("one")]), "request 2 is beyond the script: 'hello'") as endpoint:
        assert post(endpoint, {"model": "m", "messages": HELLO}).status_code == 200
        assert post(endpoint, {"model": "m", "messages": HELLO}).status_code == 400


def test_a_step_that_nobody_asked_for_fails_the_test() -> None:
    with faulty(ScriptedEndpoint([says("one"), says("two")]), "not asked for: 1") as endpoint:
        post(endpoint, {"model": "m", "messages": HELLO})


def test_an_error_in_the_scripts_function_fails_the_test() -> None:
    def script(request: ChatRequest) -> Step:
        raise KeyError(request.last_text)

    with faulty(ScriptedEndpoint(script), "KeyError: 'hello'") as endpoint:
        assert post(endpoint, {"model": "m", "messages": HELLO}).status_code == 400


def test_more_than_it_supports_is_refused() -> None:
    with faulty(ScriptedEndpoint([says("never")], supports="json"), "supports json only") as endpoint:
        assert post(endpoint, {"model": "m", "messages": HELLO, "tools": [TOOL]}).status_code == 400


def test_a_wrong_key_and_an_unknown_model_are_answered_as_a_provider_does() -> None:
    with ScriptedEndpoint(key="right", model="m") as endpoint:
        body = {"model": "m", "messages": HELLO}
        assert post(endpoint, body).json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": "Bearer right"}
        url = f"{endpoint.base_url}/chat/completions"
        assert httpx.post(url, json={**body, "model": "x"}, headers=right).json()["error"]["code"] == "model_not_found"


def test_a_function_sees_each_request_and_schemas_are_obeyed() -> None:
    schema = {
        "type": "object",
        "$defs": {"Kind": {"enum": ["b", "c"]}},
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "many": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
            "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "left_out": {"type": "string"},
        },
        "required": ["kind", "many", "either"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}

    def script(request: ChatRequest) -> Step:
        return fits() if request.schema else calls(("wait", {}), ("wait", "{broken"))

    with ScriptedEndpoint(script) as endpoint:
        told = post(endpoint, {"model": "m", "messages": HELLO, "response_format": form}).json()
        message = post(endpoint, {"model": "m", "messages": HELLO, "tools": [TOOL]}).json()["choices"][0]["message"]
        assert told["choices"][0]["message"]["content"] == '{"kind": "b", "many": [3, 3], "either": null}'
        assert [use["function"]["arguments"] for use in message["tool_calls"]] == ["{}", "{broken"]
        assert list(endpoint.requests[1].tools) == ["wait"]


def test_a_prefix_that_was_sent_before_counts_as_cached() -> None:
    long = [{"role": "system", "content": "s" * 4000}]
    with ScriptedEndpoint(lambda request: gives({})) as endpoint:
        first = post(endpoint, {"model": "m", "messages": [*long, *HELLO]}).json()["usage"]
        second = post(endpoint, {"model": "m", "messages": [*long, {"role": "user", "content": "more"}]}).json()[
            "usage"
        ]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert 1000 <= second["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens"]


def test_after_close_nothing_answers_until_it_is_opened_again() -> None:
    with ScriptedEndpoint([says("back")]) as endpoint:
        endpoint.close()
        with pytest.raises(httpx.ConnectError):
            post(endpoint, {"model": "m", "messages": HELLO})
        endpoint.reopen()
        assert post(endpoint, {"model": "m", "messages": HELLO}).status_code == 200
        endpoint.is_down = True
        with pytest.raises(httpx.RemoteProtocolError):
            post(endpoint, {"model": "m", "messages": HELLO})
