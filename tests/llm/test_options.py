"""What a server does not take is left out, wherever and however it says so; a bound is never lost without a word."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from agenttune.errors import ModelUnavailable
from agenttune.llm.refused_options import AUTO, DROPPABLE, refused_option, without
from agenttune.testing import ChatRequest, ScriptedEndpoint, Step, fails, fits, garbles, says
from tests.llm.clients import CHOICE, WAIT, ask, client

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 99,
    "temperature": 0.0,
    "top_p": 0.9,
    "tools": [{}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    "parallel_tool_calls": False,
    "seed": 1,
    "stream_options": {},
    "extra_body": {"chat_template_kwargs": {}, "top_k": 3},
}


def detail(kind: str, *loc: str | int, msg: str = "") -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": list(loc), "msg": msg, "input": REQUEST}]}


@pytest.mark.parametrize(
    ("status", "message", "param", "body", "option"),
    [
        # OpenAI, with and without `param`
        (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
              "instead.", None, {}, "max_tokens"),
        (400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is "
              "supported.", None, {}, "temperature"),
        (400, "no", "temperature", {}, "temperature"),
        (400, "Unrecognized request argument supplied: seed", None, {}, "seed"),
        (400, "Unrecognized request arguments supplied: parallel_tool_calls, seed", None, {}, "parallel_tool_calls"),
        (400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
         "response_format", {}, "response_format"),
        # Azure
        (400, "Model m is enabled only for api versions; stream_options is not supported.", None, {}, "stream_options"),
        # vLLM
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', None, {}, AUTO),
        (400, "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k'), 'msg': 'Extra inputs are not permitted'}]", None,
         {}, "top_k"),
        # LiteLLM
        (400, "litellm.UnsupportedParamsError: groq does not support parameters: ['parallel_tool_calls'], for model=m.",
         None, {}, "parallel_tool_calls"),
        (500, "litellm.UnsupportedParamsError: m does not support parameters: {'top_p': 0.9}", None, {}, "top_p"),
        # pydantic-style bodies
        (422, "422", None, detail("extra_forbidden", "body", "parallel_tool_calls"), "parallel_tool_calls"),
        (422, "422", None, detail("literal_error", "body", "response_format", "type"), "response_format"),
        (422, "422", None, {"error": {"message": "x", "param": "chat_template_kwargs"}}, "chat_template_kwargs"),
        # Anthropic-compatible
        (400, "temperature: Extra inputs are not permitted", None, {}, "temperature"),
        (400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one.", None, {},
         "temperature"),
        # Gemini-compatible
        (400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.', None, {}, "seed"),
        (400, "x", None, {"error": {"details": [{"fieldViolations": [{"field": "generationConfig.topP"}]}]}}, "top_p"),
        (400, "Function calling with toolChoice is not supported by this model", None, {}, AUTO),
        # What is none of it
        (400, "This model's maximum context length is 8192 tokens; you asked for 9000.", "messages", {}, None),
        (400, "max_tokens is too large: 99. This model supports at most 64 completion tokens.", None, {}, None),
        (400, "max_tokens is too large", "max_tokens", {}, None),
        (404, "The model `m` does not exist", "model", {}, None),
        (401, "temperature is not supported", None, {}, None),
        (429, "temperature is not supported", "temperature", {}, None),
        (500, "internal error", None, {}, None),
        (400, "Invalid schema for function 'update': 'temperature' is not permitted", "tools[0].function.parameters",
         {}, None),
        (422, "422", None, detail("missing", "body", "messages", 0, "content", msg="temperature unknown"), None),
        (400, "the temperature of the room is fine", None, {}, None),
        (400, "unsupported: max_output_tokens", None, {}, None),
    ],
)  # fmt: skip
def test_the_option_is_learned_from_whatever_the_server_says(
    status: int, message: str, param: str | None, body: dict[str, Any], option: str | None
) -> None:
    assert refused_option(status, message, param, body, REQUEST) == option


def test_each_option_can_be_done_without() -> None:
    assert without(REQUEST, ["max_tokens"])["max_completion_tokens"] == 99
    assert "max_completion_tokens" not in without(REQUEST, ["max_tokens", "max_completion_tokens"])
    assert without(REQUEST, [AUTO])["tool_choice"] == "required"
    assert without(REQUEST, ["top_k"])["extra_body"] == {"chat_template_kwargs": {}}
    in_words = without(REQUEST, ["response_format"])
    assert "JSON schema" in in_words["messages"][-1]["content"]
    assert set(without(REQUEST, DROPPABLE)) == {"model", "messages", "tools", "extra_body"}


def test_a_server_that_takes_almost_nothing_is_asked_without_end_never(caplog: pytest.LogCaptureFixture) -> None:
    """In words only, one after the other; each is told once, in the process's log and in the run's."""

    def strict(request: ChatRequest) -> Step:
        known = {"model", "messages"}
        more = next((name for name in request.body if name not in known), None)
        return says("hello") if more is None else fails(400, f"Unrecognized request argument supplied: {more}")

    with ScriptedEndpoint(strict, supports=None) as endpoint, caplog.at_level(logging.WARNING, "agenttune"):
        chat = client(endpoint, temperature=0.1, extra_body={"top_k": 3, "seed": 1})
        first, second = ask(chat), ask(chat)
        sent = len(endpoint.requests)
    assert first.answer is not None
    assert (first.answer.content, first.attempts) == ("hello", 1)
    assert len(first.details["left_out"]) == sent - 2 == 5
    assert any("the server's own bound on an answer's length holds" in words for words in first.details["left_out"])
    assert "left_out" not in second.details
    assert len([record for record in caplog.records if "refuses an option" in record.message]) == 5


def test_a_server_that_goes_on_refusing_what_was_left_out_is_a_fault() -> None:
    broken = fails(400, "temperature is not supported")
    with ScriptedEndpoint([broken, broken]) as endpoint, pytest.raises(ModelUnavailable, match="not supported"):
        ask(client(endpoint, temperature=0.1))


def test_a_bound_that_is_too_high_is_told_and_not_dropped() -> None:
    words = "max_tokens is too large: 2000. This model supports at most 64 completion tokens."
    refusal = fails(400, words, param="max_tokens")
    with ScriptedEndpoint([refusal]) as endpoint, pytest.raises(ModelUnavailable, match="at most 64"):
        ask(client(endpoint))


def test_a_form_that_is_refused_is_asked_for_in_words() -> None:
    def no_form(request: ChatRequest) -> Step:
        return fails(422, "response_format: unsupported") if request.schema else says('{"action": "hold"}')

    with ScriptedEndpoint(no_form, supports=None) as endpoint:
        ask(client(endpoint, protocol="json"), schema=CHOICE)
        assert '"enum": ["hold", "halve"]' in endpoint.requests[1].last_text


def test_a_refused_form_in_a_probe_is_the_answer() -> None:
    def words_only(request: ChatRequest) -> Step:
        if request.tools or request.schema:
            return fails(400, "tools, tool_choice and response_format are not supported")
        return says("I am ready.")

    with ScriptedEndpoint(words_only, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto", max_attempts=1)
        chat.check_capabilities("p")
    assert chat.protocol == "text"


def test_a_server_that_can_only_be_told_to_call_a_tool_is_told_so() -> None:
    """vLLM without a parser takes `required`, with which it is probed, and refuses `auto`."""

    def vllm(request: ChatRequest) -> Step:
        if request.body.get("tool_choice") == "auto":
            return fails(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        return fits()

    with ScriptedEndpoint(vllm, supports=None) as endpoint:
        chat = client(endpoint, protocol="auto")
        chat.check_capabilities("p")
        called = ask(chat, tools=[WAIT])
    assert called.answer is not None
    assert called.answer.tool_uses[0].name == "wait"
    assert "has to call a tool" in called.details["left_out"][0]


def test_a_pydantic_body_over_http() -> None:
    body = json.dumps(detail("extra_forbidden", "body", "temperature", msg="Extra inputs are not permitted"))
    refusal = garbles(body)
    with ScriptedEndpoint([refusal.__class__(**{**vars(refusal), "status": 422}), says("hello")]) as endpoint:
        called = ask(client(endpoint, temperature=0.1))
    assert called.answer is not None
    assert called.answer.content == "hello"
