"""Small models get one line and a short list: the line must be clear, and each action must do what it says."""

from __future__ import annotations

import json

import pytest

from agenttune.policy.base import Decision, PolicyContext
from agenttune.policy.llm.compact import ACTIONS, allowed_now, command_for, line_of, state_of
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.protocol.commands import CommandBase, DoEvaluate, SaveCheckpoint, UpdateOptimizer
from agenttune.protocol.model_calls import ChatMessage
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Change, CommandRecord
from tests.llm_policy.fakes import FakeReader, ScriptedChat, said
from tests.llm_policy.situations import SITUATIONS, Situation, observe
from tests.policy.conftest import AGENT, applied, decay

OPERATOR = Author(principal="operator", name="alice")


def choose(observation: Observation, *script: ChatMessage, max_lr: float = 1.0) -> tuple[Decision, ScriptedChat]:
    chat = ScriptedChat(list(script), "json")
    context = PolicyContext(reader=FakeReader(observation, max_lr=max_lr))
    policy = LlmPolicy("small", LlmFile(type="llm", form="compact"), context, chat)
    return policy.decide(observation), chat


def action(name: str, why: str = "because") -> ChatMessage:
    return said(json.dumps({"action": name, "why": why}))


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.name)
def test_a_clear_situation_has_a_clear_word_in_one_line(situation: Situation) -> None:
    line = line_of(situation.observation)
    assert line.startswith(f"state: {situation.word},")
    assert len(line.splitlines()) == 1
    assert len(line) < 400
    assert situation.right & set(allowed_now(situation.observation))


def test_no_two_situations_look_alike() -> None:
    assert len({state_of(s.observation) for s in SITUATIONS}) == len(SITUATIONS)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("halve", UpdateOptimizer(lr=0.05)),
        ("double", UpdateOptimizer(lr=0.2)),
        ("tenfold_down", UpdateOptimizer(lr=0.1 * 0.1)),
        ("tenfold_up", UpdateOptimizer(lr=1.0)),
        ("save", SaveCheckpoint()),
        ("evaluate", DoEvaluate()),
    ],
)
def test_an_action_is_its_command(name: str, command: CommandBase) -> None:
    decision, chat = choose(observe(decay(200), lr=0.1), action(name, "a good reason"))
    [draft] = decision.proposals
    assert draft.command == command
    assert draft.rationale == f"{name}: a good reason"
    assert chat.temperatures == [0.0]


def test_holding_changes_nothing_and_says_why() -> None:
    decision, _ = choose(observe(decay(200)), action("hold", "it goes well"))
    assert (decision.proposals, decision.reason) == ([], "hold: it goes well")


def test_the_answer_is_bound_to_what_can_be_done_now() -> None:
    seen = observe(decay(200)).model_copy(update={"capabilities": ["update_optimizer"]})
    _, chat = choose(seen, action("hold"))
    schema = chat.schemas[0]
    assert schema is not None
    assert schema["properties"]["action"]["enum"] == ["hold", "halve", "double", "tenfold_down", "tenfold_up"]
    assert (chat.sent[0][-1].content or "").endswith("Choose one of: hold, halve, double, tenfold_down, tenfold_up")


def test_undo_takes_back_the_newest_change() -> None:
    first, second = applied(50, 0.05, previous=0.1), applied(100, 0.01, previous=0.05)
    command, rationale = command_for("undo", observe(decay(200), commands=[first, second]))
    assert command == UpdateOptimizer(lr=0.05)
    assert rationale == f"undo of {second.command_id}"


def test_undo_of_a_scheduled_rate_gives_the_schedule_back_its_base() -> None:
    record = applied(50, 0.02, previous=0.04)
    assert record.ack is not None
    change = Change(name="lr", previous=0.04, requested=0.02, effective=0.02, previous_base=0.1, base=0.05)
    record = record.model_copy(update={"ack": record.ack.model_copy(update={"changes": [change]})})
    command, _ = command_for("undo", observe(decay(200), commands=[record]))
    assert command == UpdateOptimizer(lr=0.1, lr_sets="base")


def test_an_undo_is_not_itself_undone() -> None:
    first, second = applied(50, 0.05, previous=0.1), applied(100, 0.01, previous=0.05)
    undone = applied(150, 0.05, f"undo of {second.command_id}: worse", previous=0.01)
    command, _ = command_for("undo", observe(decay(200), commands=[first, second, undone]))
    assert command == UpdateOptimizer(lr=0.1)
    back = applied(160, 0.1, f"undo of {first.command_id}: worse", previous=0.05)
    assert "undo" not in allowed_now(observe(decay(200), commands=[first, second, undone, back]))


def later(record: CommandRecord, seq: int) -> CommandRecord:
    return record.model_copy(update={"submitted_seq": seq})


def test_undo_is_refused_where_it_would_override_a_person_or_has_nothing_to_take_back() -> None:
    mine = later(applied(50, 0.05, author=AGENT), 1)
    theirs = later(applied(100, 0.2, author=OPERATOR), 2)
    assert "undo" not in allowed_now(observe(decay(200), commands=[mine, theirs]))
    assert "undo" not in allowed_now(observe(decay(200), commands=[theirs]))
    assert "undo" in allowed_now(observe(decay(200), commands=[mine]))
    decision, chat = choose(observe(decay(200), commands=[theirs]), action("undo"), action("hold", "then not"))
    assert decision.reason == "hold: then not; refused: undo cannot be done now"
    assert "undo cannot be done now" in (chat.sent[1][-1].content or "")


def test_what_the_gate_refuses_is_not_offered_again() -> None:
    decision, chat = choose(observe(decay(200), lr=0.5), action("tenfold_up"), action("double"), max_lr=1.0)
    assert [d.command for d in decision.proposals] == [UpdateOptimizer(lr=1.0)]
    assert chat.schemas[1] is not None
    assert "tenfold_up" not in chat.schemas[1]["properties"]["action"]["enum"]
    assert "lr 5 is outside [0, 1]" in (chat.sent[1][-1].content or "")


def test_it_is_corrected_twice_and_then_holds() -> None:
    decision, chat = choose(observe(decay(200)), *[said("I cannot say.")] * 3)
    assert decision.proposals == []
    assert len(chat.sent) == 3
    assert "given up after 2 corrections: your answer could not be read: it holds no JSON object" in decision.reason


def test_an_action_in_plain_words_is_asked_for_again() -> None:
    words = said("I would halve the rate, not undo it.")
    decision, chat = choose(observe(decay(200), lr=0.1), words, action("hold", "no"))
    assert decision.proposals == []
    assert decision.reason.startswith("hold: no; refused: your answer could not be read: ")
    assert "no JSON object with 'action'" in (chat.sent[1][-1].content or "")


@pytest.mark.parametrize(
    "text",
    [
        '<think>Should I halve the rate? The loss still falls, so no.</think>\n{"action": "hold", "why": "it falls"}',
        'I thought of undo. {"action": "hold", "why": "fine"}',
        '{"why": "no need to halve", "action": "hold",}',
        '{"action": "Hold", "why": "to double now would be too early"}',
    ],
)
def test_what_was_weighed_and_dropped_is_not_carried_out(text: str) -> None:
    decision, _ = choose(observe(decay(200), lr=0.1), said(text))
    assert decision.proposals == []
    assert decision.reason.startswith("hold: ")


def test_a_rate_that_is_not_known_cannot_be_halved() -> None:
    seen = observe(decay(200)).model_copy(update={"knobs": []})
    assert allowed_now(seen) == ["hold", "save", "evaluate"]
    assert "learning rate unknown" in line_of(seen)


def test_the_line_of_a_run_without_anything_is_still_a_line() -> None:
    assert line_of(observe()).startswith("state: UNKNOWN, no loss yet | step 0 of 1000 | ")
    assert set(allowed_now(observe())) <= set(ACTIONS)
