"""Tool calls that a server left in the text: taken when they are whole, else the model is asked again; never lost."""

from __future__ import annotations

import json

import pytest

from agenttune.llm.written_calls import written_calls
from agenttune.testing import ScriptedEndpoint, calls, garbles, says
from tests.llm.clients import WAIT, ask, client

CALL = '{"name": "wait", "arguments": {"until_step": 7}}'
HERMES = f"<tool_call>\n{CALL}\n</tool_call>"
OFFERED = ("wait", "get_metrics")


FIELD = "<parameter=until_step>\n{}\n</parameter>\n"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "wait", "arguments": {"until_step": 7, "until_step": 9}}',
        '{"name": "wait", "name": "get_metrics", "arguments": {}}',
        '{"name": "wait", "arguments": {"until_step": 7}',
        '{"function": {"name": "wait", "arguments": {"until_step": NaN}}}',
        'I will wait.\n```json\n{"tool": "wait", "args": {"until_step": 7, "until_step": 9}}\n```',
        '<function=wait>{"until_step": 7, "until_step": 9}</function>',
        f"<tool_call>\n<function=wait>\n{FIELD.format(7)}{FIELD.format(9)}</function>\n</tool_call>",
    ],
)
def test_a_call_that_is_cut_off_or_says_a_thing_twice_is_asked_for_again(text: str) -> None:
    """Taken for words it would be the decision to do nothing; taken by its last value, not what was checked."""
    written = written_calls(text, OFFERED)
    assert (written.uses, written.problem) == ([], "it holds a tool call that is not whole JSON")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (CALL, 1),
        (HERMES, 1),
        (f"I will wait for now.\n{HERMES}", 1),
        (f"I will wait.<tool_call>{CALL}</tool_call>", 1),
        (f"<think>\nor {CALL}?\n</think>\n\n{HERMES}", 1),
        (f"{HERMES}\n{HERMES}", 2),
        (f"<tool_call>\n{CALL}\n{CALL}\n</tool_call>", 2),
        (f"<tool_call>{CALL}", 1),
        (f"Let me see.\n```json\n{CALL}\n```", 1),
        (f"[{CALL}, {CALL}]", 2),
        (f'{{"tool_calls": [{CALL}]}}', 1),
        ('{"name": "wait", "parameters": {"until_step": 7}}', 1),
        ('<|python_tag|>{"name": "wait", "parameters": {"until_step": 7}}<|eom_id|>', 1),
        ('<function=wait>{"until_step": 7}</function>', 1),
        ("<tool_call>\n<function=wait>\n<parameter=until_step>\n7\n</parameter>\n</function>\n</tool_call>", 1),
        (f"[TOOL_CALLS][{CALL}, {CALL}]", 2),
        ('[TOOL_CALLS]wait[ARGS]{"until_step": 7}', 1),
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>wait\n```json\n"
            '{"until_step": 7}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            1,
        ),
        ('<｜tool▁call▁begin｜>wait<｜tool▁sep｜>{"until_step": 7}<｜tool▁call▁end｜>', 1),
        (
            "<|channel|>analysis<|message|>It falls.<|end|><|start|>assistant<|channel|>commentary to=functions.wait "
            '<|constrain|>json<|message|>{"until_step": 7}<|call|>',
            1,
        ),
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.wait:0<|tool_call_argument_begin|>"
            '{"until_step": 7}<|tool_call_end|><|tool_calls_section_end|>',
            1,
        ),
        (f"<|tool_call|>[{CALL}]<|/tool_call|>", 1),
    ],
)
def test_whole_calls_of_offered_tools_are_taken_in_every_usual_markup(text: str, count: int) -> None:
    written = written_calls(text, OFFERED)
    assert written.problem == ""
    assert [(use.name, json.loads(use.arguments)) for use in written.uses] == [("wait", {"until_step": 7})] * count
    assert "<" not in written.words
    assert "{" not in written.words


@pytest.mark.parametrize(
    "text",
    [
        f"I would call {CALL}",
        f"It says <tool_call>{CALL}</tool_call> but I do not.",
        f'The note says "{HERMES}" which I ignore.',
        f"> {HERMES}",
        '{"name": "delete_everything", "arguments": {}}',
        f'[{CALL}, {{"note": 1}}]',
        "<tool_call>wait</tool_call>",
        '<tool_call>{"name": "wait", "arguments": {"until_st',
        "<tool_call>{'name': 'wait', 'arguments': {}}</tool_call>",
        '<tool_call>{"name": "wait", "name": "get_metrics", "arguments": {}}</tool_call>',
        f"{HERMES}\nor rather\n{HERMES.replace('7', '9')}",
        f"{HERMES}\n<think>no: {CALL}</think>",
        "<think>I should wait",
        "wait(until_step=7)",
        "[wait(until_step=7)]",
        '<invoke name="wait"><parameter name="until_step">7</parameter></invoke>',
        "<tool_call>wait<arg_key>until_step</arg_key><arg_value>7</arg_value></tool_call>",
        '{"reason": "r", "actions": [{"tool": "wait", "arguments": {}}]}',
    ],
)
def test_a_call_that_is_not_whole_is_told_and_never_taken_for_words(text: str) -> None:
    written = written_calls(text, OFFERED)
    assert written.uses == []
    assert written.problem
    with ScriptedEndpoint([says(text)]) as endpoint:
        called = ask(client(endpoint), tools=[WAIT.model_copy(update={"name": name}) for name in OFFERED])
    assert called.details["malformed"] == written.problem


def test_other_fields_than_the_content_are_never_read() -> None:
    """Servers with a reasoning parser hand thinking over in a field of its own, or as a part of the content."""
    thought = json.dumps({"reasoning_content": CALL, "reasoning": HERMES, "content": "I leave it alone."})
    parts = json.dumps([{"type": "thinking", "thinking": CALL}, {"type": "text", "text": "I leave it alone."}])
    bodies = [f'{{"choices": [{{"message": {m}}}]}}' for m in (thought, f'{{"content": {parts}}}')]
    with ScriptedEndpoint([garbles(body) for body in bodies]) as endpoint:
        chat = client(endpoint)
        for _ in bodies:
            called = ask(chat, tools=[WAIT])
            assert called.answer is not None
            assert (called.answer.content, called.answer.tool_uses) == ("I leave it alone.", [])


def test_two_answers_of_the_answer_tool_are_both_kept_so_that_a_difference_shows() -> None:
    both = calls(("answer", {"verdict": "approve"}), ("answer", {"verdict": "reject"}))
    with ScriptedEndpoint([both]) as endpoint:
        called = ask(client(endpoint), schema={"type": "object", "properties": {}})
    assert called.answer is not None
    assert (called.answer.content or "").splitlines() == ['{"verdict": "approve"}', '{"verdict": "reject"}']
