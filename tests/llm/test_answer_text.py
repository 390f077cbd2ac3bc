"""What a model answered is its answer proper: thinking, drafts and quotations are never carried out.

A user would lose a run: an approver that drafted "approve" and then rejected would have let the command through.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agenttune.agent.model_approver import Ruling, _no_answer
from agenttune.llm.answer_text import Unreadable, answer_in, without_thinking
from agenttune.policy.llm.reviewer import _read
from agenttune.policy.wrappers.second_opinion import Review, _veto

VERDICTS = ("approve", "edit", "reject", "escalate")
YES, NO = '{"why": "looks fine", "verdict": "approve"}', '{"why": "breaks the constraint", "verdict": "reject"}'


def verdict(text: str) -> str:
    """What the gate's reviewer is taken to say."""
    called: Any = SimpleNamespace(answer=SimpleNamespace(content=text))
    return _read(called, Ruling, _no_answer).verdict


def opinion(text: str) -> str:
    """What the second opinion is taken to say."""
    called: Any = SimpleNamespace(answer=SimpleNamespace(content=text))
    return _read(called, Review, _veto).verdict


@pytest.mark.parametrize(
    "text",
    [
        f"First idea:\n```json\n{YES}\n```\nBut the constraint forbids it. Final answer:\n```json\n{NO}\n```",
        f"<think>\nperhaps\n```json\n{YES}\n```\nno, it breaks the constraint\n</think>\n{NO}",
        f"<think>\nperhaps {YES}? no.\n</think>\n{NO}",
        f"perhaps {YES}? no.\n</think>\n{NO}",
        f"<think>\nperhaps {YES}",
        f"{YES}\n<think>wait, no\n{NO}",
        f"{YES}\n<think>wait, no: {NO}</think>",
        f"{NO}\n{YES}",
        f"{NO}\nThe rationale says:\n</think>\n{YES}",
        f"The rationale wants me to say {YES}",
        f"> {YES}\nI cannot follow that.",
        f"{YES}\nOn reflection I reject it.",
        f"{YES}\n" + '{"why": "breaks the constraint", "verdict": "rej',
        '{"draft": {"verdict": "approve"}, "why": "but it breaks the constr',
        '{"verdict": "approve", "verdict": "reject", "why": "x"}',
        f"{YES}\n" + "{'why': 'breaks it', 'verdict': 'reject'}",
        f"{YES}\n" + '{"why": "breaks it", "Verdict": "Reject"}',
        f"{YES}\n" + '{"final": {"why": "breaks it", "verdict": "reject"}}',
        f"[{YES}, {NO}]",
        '{"why": "it says </think> ' + YES.replace('"', '\\"') + '", "verdict": "reject"}',
        f"<|channel|>analysis<|message|>{YES}<|end|><|start|>assistant<|channel|>final<|message|>{NO}<|return|>",
        f"analysisWe could {YES}assistantfinal{NO}",
        f"[THINK]{YES}[/THINK]{NO}",
        "I approve this.",
        "",
    ],
)
def test_what_was_not_approved_in_the_end_is_not_approved(text: str) -> None:
    assert verdict(text) in ("reject", "escalate")
    assert opinion(text.replace("reject", "veto").replace("Reject", "Veto")) == "veto"


@pytest.mark.parametrize(
    "text",
    [
        YES,
        f"```json\n{YES}\n```",
        f"<think>no: {NO}</think>{YES}",
        f"<thinking budget='1'>no:\n{NO}\n</thinking>\n\n{YES}",
        f"Okay, so the loss fell.\n</think>\n\n{YES}",
        f"<|channel|>analysis<|message|>{NO}<|end|><|start|>assistant<|channel|>final<|message|>{YES}<|return|>",
        f"◁think▷{NO}◁/think▷{YES}",
        f"{YES}\n{YES}",
        '{\n  "why": "it fell // really", /* so */\n  "verdict": "approve", // yes\n}',
        '{"why": "two\nlines, {braces} and a </think>", "verdict": "approve"}',
        'For {"lr": 0.01} this is my answer:\n{"why": "fine", "verdict": "approve"}',
    ],
)
def test_a_final_approval_is_one(text: str) -> None:
    assert verdict(text) == "approve"


def test_an_answer_that_was_cut_at_its_length_has_not_decided() -> None:
    """The rest may have said the opposite; through the whole reviewer, over HTTP."""
    from agenttune.config import ReviewerSettings
    from agenttune.policy.llm.reviewer import Reviewer
    from agenttune.testing import ScriptedEndpoint, says
    from tests.policy.test_composites import CUT
    from tests.policy.test_second_opinion import SEEN, context_of

    with ScriptedEndpoint([says(f"{YES}\nBut").ending("length")], supports="text") as endpoint:
        reviewer = Reviewer("r", ReviewerSettings(), context_of(endpoint))
        ruling, _ = reviewer.ask(CUT, SEEN, Ruling, _no_answer)
    assert ruling.verdict == "escalate"


def test_a_plan_may_have_a_parameter_of_the_same_name_and_names_are_given_once() -> None:
    assert answer_in('{"reasoning": "r", "start": {"start": 1}}', "start")["start"] == {"start": 1}
    for text in ('{"start": {"lr": 1, "lr": 2}}', '{"start": {"lr": NaN}}', '{"start": {"lr": 1e999}}'):
        with pytest.raises(Unreadable):
            answer_in(text, "start")


def test_true_is_not_one_and_order_is_no_difference() -> None:
    assert answer_in('{"start": {"a": 1, "b": 2}}\n{"start": {"b": 2, "a": 1}}', "start")
    with pytest.raises(Unreadable, match="differ"):
        answer_in('{"start": {"a": 1}}\n{"start": {"a": true}}', "start")


def test_thinking_is_no_part_of_what_was_said() -> None:
    assert without_thinking("<think>hm {</think>\n\nAll is well.") == "All is well."
    assert without_thinking("hm</think>All is well.<thinking>or") == "All is well."
    assert without_thinking(None) == without_thinking("<think>only this") == ""


@pytest.mark.parametrize("text", ["{" * 20_000, '{"a":' * 4_000, '{"' * 10_000, '{"\\' * 6_000, "<think>" * 3_000])
def test_hostile_texts_are_given_up_quickly(text: str) -> None:
    with pytest.raises(Unreadable):
        answer_in(text, "verdict")


# -- whatever surrounds an answer --------------------------------------------------------------------------------------

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters='{}"[]<>|◁▷`/\\'), max_size=20)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8), st.just('}"{ </think> <think> ```')),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def answers(draw: st.DrawFn, said: str | None = None) -> tuple[str, str]:
    """An object that is an answer, as a model may write it, and its verdict."""
    chosen = said or draw(st.sampled_from(VERDICTS))
    other = draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=2))
    value = {"why": draw(st.text(max_size=20)), **other, "verdict": chosen}
    if len({key.strip().casefold() for key in value}) < len(value):
        value = {"why": "x", "verdict": chosen}
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2])))
    if draw(st.booleans()):
        text = text[:-1] + ",}"
    return (f"```json\n{text}\n```" if draw(st.booleans()) else text), chosen


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A text with an answer in the end; that answer, and the verdicts that stand beside it outside of thinking."""
    parts, standing = [], []
    if draw(st.booleans()):
        begin, end = draw(st.sampled_from(TAGS))
        drafts = [draw(answers())[0] for _ in range(draw(st.integers(0, 2)))]
        parts.append(begin + draw(WORDS) + "\n".join(drafts) + draw(WORDS) + end)
    for _ in range(draw(st.integers(0, 2))):
        text, chosen = draw(answers())
        parts += [draw(WORDS), text]
        standing.append(chosen)
    final, chosen = draw(answers())
    return (
        "\n".join([*parts, draw(WORDS), final]) + draw(st.sampled_from(["", "\n", "\n\n<|im_end|>"])),
        chosen,
        standing,
    )


@settings(max_examples=150, deadline=None)
@given(texts())
def test_it_is_the_final_answer_or_none(made: tuple[str, str, list[str]]) -> None:
    text, final, standing = made
    try:
        found = answer_in(text, "verdict", choices=VERDICTS)["verdict"]
    except Unreadable:
        # A whole final answer with nothing against it is not lost.
        assert any(other != final for other in standing)
    else:
        assert found == final
        assert all(other == final for other in standing)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            WORDS,
            answers("approve").map(lambda made: made[0]),
            st.sampled_from([part for pair in TAGS for part in pair] + ["{", "}", '"', "```", "//", ","]),
        ),
        max_size=6,
    ),
    answers("reject"),
    st.sampled_from(["", "\n", " ", "\nso: "]),
)
def test_nothing_in_front_of_a_rejection_makes_it_an_approval(
    parts: list[str], rejection: tuple[str, str], between: str
) -> None:
    assert verdict("\n".join(parts) + between + rejection[0]) != "approve"


@settings(max_examples=100, deadline=None)
@given(answers("approve"), st.integers(1, 60), answers("reject"))
@example(('{"verdict": "approve"}', "approve"), 19, ('{"why": "a brace }\\n", "verdict": "reject"}', "reject"))
def test_a_rejection_that_was_cut_off_does_not_leave_the_draft(
    draft: tuple[str, str], cut: int, rejection: tuple[str, str]
) -> None:
    """Whatever is left of the final object, the draft before it is not the answer."""
    start = rejection[0].removeprefix("```json\n")
    assert verdict(f"{draft[0]}\n{start[: max(1, min(cut, start.rindex('}') - 1))]}") != "approve"
