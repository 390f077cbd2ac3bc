"""What a policy gets from a model, whatever the server makes of the protocol."""

from __future__ import annotations

import json

import pytest

from agenttune.errors import ModelUnavailable
from agenttune.llm import answer_in
from agenttune.protocol.model_calls import ChatMessage, ToolUse
from agenttune.testing import ScriptedEndpoint, answers_nothing, calls, fails, gives, refuses, says
from tests.llm.clients import CHOICE, WAIT, ask, client, user


def test_parallel_tool_calls_come_as_they_were_written() -> None:
    step = calls(("wait", {"until_step": 5}), ("no_such_tool", {}), ("wait", "{not json"), text="I will wait.")
    with ScriptedEndpoint([step]) as endpoint:
        called = ask(client(endpoint), tools=[WAIT])
    assert called.answer is not None
    assert called.answer.content == "I will wait."
    assert [(use.name, use.arguments) for use in called.answer.tool_uses] == [
        ("wait", '{"until_step": 5}'),
        ("no_such_tool", "{}"),
        ("wait", "{not json"),
    ]
    assert len({use.id for use in called.answer.tool_uses}) == 3
    assert called.tools == ["wait"]
    assert endpoint.requests[0].body["tool_choice"] == "auto"


def test_a_conversation_with_tool_results_is_sent_in_the_servers_form() -> None:
    use = ToolUse(id="c1", name="functions.wait\ud800", arguments="{}")
    told = [
        ChatMessage(role="system", content="You steer."),
        user("now?"),
        ChatMessage(role="assistant", tool_uses=[use]),
        ChatMessage(role="tool", content="no such tool", tool_use_id="c1"),
    ]
    with ScriptedEndpoint([says("fine")]) as endpoint:
        ask(client(endpoint), *told, tools=[WAIT])
    sent = endpoint.requests[0].messages
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[2]["tool_calls"][0]["function"]["name"] == "functions_wait_"
    assert sent[3]["tool_call_id"] == "c1"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "wait", "arguments": {"until_step": 7}}',
        '{"name": "wait", "parameters": {"until_step": 7}}',
        '{"function": {"name": "wait", "arguments": "{\\"until_step\\": 7}"}}',
        '{"type": "function", "function": {"name": "wait", "arguments": {"until_step": 7}}}',
        '[{"name": "wait", "arguments": {"until_step": 7}}]',
        '{"tool_calls": [{"name": "wait", "arguments": {"until_step": 7}}]}',
        '```json\n{"name": "wait", "arguments": {"until_step": 7}}\n```',
        '<tool_call>\n{"name": "wait", "arguments": {"until_step": 7}}\n</tool_call>',
    ],
)
def test_tool_calls_that_a_weak_server_writes_into_the_text_are_read(text: str) -> None:
    with ScriptedEndpoint([says(text)]) as endpoint:
        called = ask(client(endpoint), tools=[WAIT])
    assert called.answer is not None
    assert called.answer.content is None
    [use] = called.answer.tool_uses
    assert (use.name, json.loads(use.arguments)) == ("wait", {"until_step": 7})
    assert called.details["tool_calls_in_text"] is True


@pytest.mark.parametrize(
    "text",
    [
        '{"loss": 2.5}',
        "I could wait (or not): nothing is wrong.",
        '<think>\n<tool_call>{"name": "wait", "arguments": {}}</tool_call>\n</think>\nI leave it alone.',
    ],
)
def test_other_text_stays_text(text: str) -> None:
    with ScriptedEndpoint([says(text)]) as endpoint:
        called = ask(client(endpoint), tools=[WAIT])
    assert called.answer is not None
    assert (called.answer.content, called.answer.tool_uses) == (text, [])
    assert "malformed" not in called.details


def test_json_in_the_text_is_no_tool_call_when_no_tools_were_offered() -> None:
    with ScriptedEndpoint([says('{"name": "wait", "arguments": {}}')]) as endpoint:
        called = ask(client(endpoint))
    assert called.answer is not None
    assert called.answer.tool_uses == []


def test_a_schema_is_asked_for_as_the_server_can() -> None:
    with ScriptedEndpoint(lambda request: gives({"action": "halve"}), supports=None) as endpoint:
        by_tool = ask(client(endpoint, protocol="tools"), schema=CHOICE)
        by_form = ask(client(endpoint, protocol="json"), schema=CHOICE, tools=[WAIT])
        open_schema = {**CHOICE, "additionalProperties": True}
        ask(client(endpoint, protocol="json"), schema=open_schema)
        chat = client(endpoint, protocol="auto")
        assert chat.protocol == "text"
        in_words = ask(chat, schema=CHOICE)
    for called in (by_tool, by_form, in_words):
        assert called.answer is not None
        assert answer_in(called.answer.content, "action") == {"action": "halve"}
        assert called.answer.tool_uses == []
    tool, form, loose, words = endpoint.requests
    assert tool.body["tool_choice"] == "required"
    assert list(tool.tools) == ["answer"]
    assert form.schema == CHOICE
    assert form.tools == {}
    assert form.body["response_format"]["json_schema"]["strict"] is True
    assert loose.body["response_format"]["json_schema"]["strict"] is False
    assert '"enum": ["hold", "halve"]' in words.last_text
    assert in_words.messages[-1].content == words.last_text  # what was sent is what is recorded


def test_a_refusal_is_an_answer_and_is_not_asked_again() -> None:
    with ScriptedEndpoint([refuses("No."), answers_nothing("content_filter")]) as endpoint:
        chat = client(endpoint)
        refused, filtered = ask(chat), ask(chat)
    assert refused.details["refusal"] == "No."
    assert "content filter" in filtered.details["refusal"]
    assert refused.attempts == filtered.attempts == 1


def test_an_answer_cut_at_its_length_is_handed_on_and_says_so() -> None:
    with ScriptedEndpoint([calls(("wait", '{"until_st')).ending("length")]) as endpoint:
        called = ask(client(endpoint), tools=[WAIT])
    assert called.answer is not None
    assert called.answer.tool_uses[0].arguments == '{"until_st'
    assert called.details["finish_reason"] == "length"


def test_a_model_that_thinks_until_its_tokens_are_used_up_is_not_asked_again() -> None:
    told = r"raise llm\.max_output_tokens"
    with ScriptedEndpoint([answers_nothing("length")]) as endpoint, pytest.raises(ModelUnavailable, match=told):
        ask(client(endpoint))


def test_a_hundred_kilobytes_are_bounded() -> None:
    with ScriptedEndpoint([says("é" * 100_000), calls(*[("wait", "x" * 100_000)] * 30)]) as endpoint:
        chat = client(endpoint)
        text, uses = ask(chat), ask(chat, tools=[WAIT])
    assert text.answer is not None
    assert uses.answer is not None
    assert len(text.answer.content or "") == 20_000
    assert text.details["cut_from_characters"] == 100_000
    assert len(uses.answer.tool_uses) == 16
    assert uses.details["tool_calls_dropped"] == 14
    assert max(len(use.arguments) for use in uses.answer.tool_uses) == 20_000


def test_halves_of_surrogate_pairs_neither_break_a_request_nor_a_record() -> None:
    with ScriptedEndpoint([says("fine \ud800")]) as endpoint:
        called = ask(client(endpoint), user("hostile \udfff text"))
    assert called.answer is not None
    assert called.answer.content == "fine ?"
    assert called.model_dump_json()
    assert endpoint.requests[0].last_text == "hostile ? text"


def test_settings_reach_the_server() -> None:
    with ScriptedEndpoint(lambda request: says("ok")) as endpoint:
        ask(client(endpoint, temperature=0.5, max_output_tokens=99, extra_body={"top_k": 1}))
        ask(client(endpoint, temperature=0.5, extra_body={"max_completion_tokens": 7}), temperature=0.0)
    first, second = (request.body for request in endpoint.requests)
    assert (first["temperature"], first["max_tokens"], first["top_k"]) == (0.5, 99, 1)
    assert second["temperature"] == 0.0
    assert second["max_completion_tokens"] == 7
    assert "max_tokens" not in second


def test_an_option_that_the_model_does_not_take_is_left_out_from_then_on() -> None:
    script = [fails(400, "no", param="temperature"), fails(400, "no", param="max_tokens"), says("a"), says("b")]
    with ScriptedEndpoint(script) as endpoint:
        chat = client(endpoint, temperature=0.3, max_output_tokens=50)
        ask(chat)
        ask(chat)
    for request in endpoint.requests[2:]:
        assert "temperature" not in request.body
        assert "max_tokens" not in request.body
        assert request.body["max_completion_tokens"] == 50


def test_keys() -> None:
    with ScriptedEndpoint([says("a")], key="right-key") as endpoint:
        ask(client(endpoint, environ={"OPENAI_API_KEY": "right-key"}))
    with ScriptedEndpoint([says("a"), says("b")]) as endpoint:
        ask(client(endpoint))
        ask(
            client(
                endpoint,
                base_url=None,
                environ={"OPENAI_BASE_URL": endpoint.base_url, "MY_KEY": "mine-1"},
                api_key_env="MY_KEY",
            )
        )
    assert endpoint.requests[0].headers["authorization"] == "Bearer none-needed"
    assert endpoint.requests[1].headers["authorization"] == "Bearer mine-1"
