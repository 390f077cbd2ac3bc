"""The whole path with a real model and a real server. It proves the path, not wisdom: this model decides by chance."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jsonschema
import pytest

from agenttune.config import BudgetSettings, GoalSettings
from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.errors import BudgetSpent, ModelUnavailable
from agenttune.llm import OpenAIChat, resolve
from agenttune.policy.base import Decision, Draft, PolicyContext
from agenttune.policy.llm.compact import ACTIONS, action_schema, command_for, line_of, read_action
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.protocol.model_calls import ChatMessage, Ledger
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, State
from tests.local_llm.conftest import LocalServer, started
from tests.policy.conftest import SteeredRun, Valley

pytestmark = pytest.mark.llm

SYSTEM = ChatMessage(role="system", content="You watch the training of a neural network. Choose one action.")
LINES = (
    "The loss has risen from 1.2 to 9.4 and is still rising. Learning rate 0.5.",
    "The loss falls steadily. Learning rate 0.001.",
    "The loss has not moved in 300 steps. Learning rate 1e-7.",
)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def test_a_probe_finds_out_that_this_server_is_to_be_asked_for_json(server: LocalServer) -> None:
    chat = server.chat()
    calls = chat.check_capabilities("compact")
    # Its template drops tools without a word, so that only a real call shows it.
    assert chat.protocol == "json"
    assert [call.error for call in calls] == [""] * len(calls)
    assert all(call.usage is not None and call.usage.total_tokens > 0 for call in calls)


def test_answers_obey_the_schema_and_are_counted(server: LocalServer) -> None:
    chat, schema = server.chat("json"), action_schema(ACTIONS)
    calls = [chat.ask([SYSTEM, user(line)], policy="compact", purpose="decide", schema=schema) for line in LINES]
    for call in calls:
        assert call.answer is not None
        jsonschema.validate(json.loads(call.answer.content or ""), schema)
        assert call.usage is not None
        assert call.usd == pytest.approx((call.usage.input_tokens + 4 * call.usage.output_tokens) / 1e6)
        assert call.latency_s > 0
    assert chat.spent == Ledger.of(calls)
    assert calls[0].messages[0].content == SYSTEM.content
    assert [call.messages[0].content for call in calls[1:]] == [None, None]
    assert [call.messages[0] for call in resolve(calls)] == [calls[0].messages[0]] * 3
    # llama.cpp keeps the prefix of the last request, and says so.
    assert calls[2].usage is not None
    assert calls[2].usage.cached_input_tokens > 0


def test_a_server_that_is_still_starting_is_waited_for(tmp_path: Path) -> None:
    with started(tmp_path / "server.log") as starting:
        llm = starting.llm("json").model_copy(update={"max_attempts": 300})
        chat = OpenAIChat(llm, BudgetSettings(), environ={}, sleep=lambda seconds: time.sleep(min(seconds, 0.2)))
        call = chat.ask([user("hello")], policy="p", purpose="decide", schema=action_schema(["hold"]))
        assert call.attempts > 1
        assert call.answer is not None
        assert json.loads(call.answer.content or "")["action"] == "hold"
    with pytest.raises(ModelUnavailable, match="Connection error"):
        OpenAIChat(llm.model_copy(update={"max_attempts": 1}), BudgetSettings(), environ={}).ask(
            [user("hello")], policy="p", purpose="decide"
        )


def test_a_budget_ends_the_asking(server: LocalServer) -> None:
    chat = OpenAIChat(server.llm("json"), BudgetSettings(max_tokens=10), environ={})
    chat.ask([user("hello")], policy="p", purpose="decide", schema=action_schema(["hold"]))
    with pytest.raises(BudgetSpent, match="budget of 10 tokens"):
        chat.ask([user("hello")], policy="p", purpose="decide")


def submitted(control: LocalControl, run: SteeredRun, draft: Draft, seen: Observation) -> State:
    author = Author(principal="agent", name="llm_compact")
    proposal = Proposal(command=draft.command, author=author, rationale=draft.rationale, based_on_step=seen.step)
    return control.submit("r1", proposal).state


def test_what_a_compact_policy_asks_for_passes_the_gate(server: LocalServer, tmp_path: Path) -> None:
    run = SteeredRun(tmp_path, Valley(lr=0.19))
    control = LocalControl(tmp_path)
    context = PolicyContext(goal=GoalSettings(), llm=server.llm(), reader=ControlReader(control, "r1"), environ={})
    policy = LlmPolicy("llm_compact", LlmFile(type="llm", form="compact", every_steps=20), context)
    decisions: list[Decision] = []
    for _ in range(3):
        for _ in range(30):
            run.step()
        seen = control.observe("r1")
        decision = policy.decide(seen)
        decisions.append(decision)
        assert decision.reason.split(":")[0] in ACTIONS
        for draft in decision.proposals:
            assert submitted(control, run, draft, seen) is State.QUEUED
        run.apply_queued()
    calls = [call for decision in decisions for call in decision.calls]
    assert [call.purpose for call in calls if call.purpose == "probe"]
    assert len([call for call in calls if call.purpose == "decide"]) >= 3
    assert all(call.prompts and call.protocol == "json" for call in calls if call.purpose == "decide")
    run.close()


def test_a_change_that_the_model_chose_is_applied(server: LocalServer, tmp_path: Path) -> None:
    run = SteeredRun(tmp_path, Valley(lr=0.19))
    control = LocalControl(tmp_path)
    for _ in range(40):
        run.step()
    seen = control.observe("r1")
    schema = action_schema(["halve", "tenfold_down"])
    call = server.chat("json").ask([SYSTEM, user(line_of(seen))], policy="p", purpose="decide", schema=schema)
    assert call.answer is not None
    action, why = read_action(call.answer.content or "")
    command, _ = command_for(action, seen)
    assert command is not None
    assert submitted(control, run, Draft(command, why), seen) is State.QUEUED
    run.apply_queued()
    assert run.valley.lr == pytest.approx({"halve": 0.095, "tenfold_down": 0.019}[action])
    run.close()
