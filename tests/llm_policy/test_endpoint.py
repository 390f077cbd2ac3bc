"""The whole policy over real HTTP: however an endpoint behaves, it ends in a decision that says what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import BudgetSettings, GoalSettings, LlmSettings
from agenttune.errors import ConfigError
from agenttune.llm import OpenAIChat
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.policy.load import load_policy, open_policy
from agenttune.policy.wrappers.simple import Background
from agenttune.policy.wrappers.wrapper import notice_of, unavailable
from agenttune.protocol.commands import SaveCheckpoint, UpdateOptimizer
from agenttune.protocol.model_calls import ModelCalled, Usage
from agenttune.protocol.observation import Observation
from agenttune.testing import ScriptedEndpoint, answers_nothing, calls, fails, gives, refuses, says
from tests.llm_policy.fakes import FakeReader
from tests.llm_policy.situations import SITUATIONS, observe
from tests.policy.conftest import decay

CUT = {"lr": 0.01, "reason": "the loss rose from 1.2 to 9"}
TOO_HIGH = {"lr": 50.0, "reason": "faster"}


def run_at(step: int = 200) -> Observation:
    return observe(decay(step), lr=0.1, evals=[(100, 2.0)])


def context_of(endpoint: ScriptedEndpoint, seen: Observation | None = None, **more: Any) -> PolicyContext:
    llm = LlmSettings(model="scripted", base_url=endpoint.base_url, max_attempts=1, timeout_s=10.0)
    return PolicyContext(llm=llm, reader=FakeReader(seen or run_at()), environ={}, **more)


def policy_of(endpoint: ScriptedEndpoint, seen: Observation | None = None, **more: Any) -> LlmPolicy:
    return LlmPolicy("llm", LlmFile(type="llm"), context_of(endpoint, seen, **more))


def test_a_conversation_with_tools_over_http() -> None:
    script = [
        calls(("get_metrics", {"metric": "step_loss"}), ("save_checkpoint", {"tag": "before", "reason": "in case"})),
        calls(("update_optimizer", CUT), text="It diverges."),
    ]
    with ScriptedEndpoint(script) as endpoint:
        decision = policy_of(endpoint).decide(run_at())
        first, second = endpoint.requests
    assert [d.command for d in decision.proposals] == [SaveCheckpoint(tag="before"), UpdateOptimizer(lr=0.01)]
    assert decision.reason == "It diverges."
    assert [c.purpose for c in decision.calls] == ["probe", "decide", "decide"]
    assert {"change", "look", "wait"} <= set(first.tools)
    assert second.messages[: len(first.messages)] == first.messages
    assert [m["role"] for m in second.messages[2:]] == ["assistant", "tool", "tool"]


def test_wrong_calls_are_mended_twice_over_http_and_then_it_ends() -> None:
    script = [calls(("update_optimizer", TOO_HIGH))] * 3
    with ScriptedEndpoint(script) as endpoint:
        decision = policy_of(endpoint).decide(run_at())
    assert decision.proposals == []
    assert "given up after 2 corrections" in decision.reason


def test_a_server_without_tools_answers_with_json() -> None:
    wrong = {"reason": "up", "actions": [{"tool": "update_optimizer", "arguments": TOO_HIGH}]}
    right = {"reason": "It diverges.", "actions": [{"tool": "update_optimizer", "arguments": CUT}]}
    with ScriptedEndpoint([gives(wrong), gives(right)], supports="json") as endpoint:
        decision = policy_of(endpoint).decide(run_at())
        request = endpoint.requests[0]
    assert [d.command for d in decision.proposals] == [UpdateOptimizer(lr=0.01)]
    assert {call.protocol for call in decision.calls if call.purpose == "decide"} == {"json"}
    assert request.schema is not None
    assert "- change: " in request.text


def test_a_server_with_neither_answers_in_words() -> None:
    words = 'Well: {"reason": "r", "actions": [{"tool": "update_optimizer", "arguments": {"lr": 0.01, "reason": "x"}}]}'
    with ScriptedEndpoint([says(words)], supports="text") as endpoint:
        decision = policy_of(endpoint).decide(run_at())
        request = endpoint.requests[0]
    assert [d.command for d in decision.proposals] == [UpdateOptimizer(lr=0.01)]
    assert [m["role"] for m in request.messages] == ["system", "user"], "tools are listed once, in the stable part"


def test_a_refusal_an_empty_answer_and_an_error_are_holds_that_say_so() -> None:
    for step, words in (
        (refuses("I cannot help with that."), "the model refused: I cannot help with that."),
        (answers_nothing("content_filter"), "content filter"),
        (fails(500, "boom"), "boom"),
    ):
        with ScriptedEndpoint([step]) as endpoint:
            decision = policy_of(endpoint).decide(run_at())
        assert decision.proposals == []
        assert words in decision.reason
        assert len(decision.calls) == 2


def test_100_kb_of_text_are_a_hold_with_a_bounded_reason() -> None:
    with ScriptedEndpoint([says("nothing to do " * 7000)]) as endpoint:
        decision = policy_of(endpoint).decide(run_at())
    assert decision.proposals == []
    assert decision.reason.startswith("nothing to do nothing to do")
    assert len(decision.reason) < 1100


def test_an_endpoint_that_was_killed_is_asked_again_when_it_is_back() -> None:
    now_s = [0.0]
    with ScriptedEndpoint([says("fine"), says("fine again")]) as endpoint:
        context = context_of(endpoint)
        chat = OpenAIChat(context.llm, context.budgets, context.spent, {}, clock_s=lambda: now_s[0])
        policy = LlmPolicy("llm", LlmFile(type="llm"), context, chat)
        assert policy.decide(run_at(200)).reason == "fine"
        endpoint.close()
        failed = policy.decide(run_at(400))
        assert (failed.proposals, len(failed.calls)) == ([], 1)
        assert failed.calls[0].error
        assert policy.unavailable()
        waiting = policy.decide(run_at(420))
        assert (waiting.skipped, waiting.calls) == (True, [])
        assert waiting.reason.startswith(failed.reason[:40])
        endpoint.reopen()
        now_s[0] += 3600
        assert policy.unavailable() == ""
        assert policy.decide(run_at(421)).reason == "fine again"


def test_caps_end_the_calls_and_survive_a_restart_of_the_agent() -> None:
    budgets = BudgetSettings(max_calls=2)
    with ScriptedEndpoint([says("fine")]) as endpoint:
        context = context_of(endpoint, budgets=budgets)
        policy = LlmPolicy("llm", LlmFile(type="llm"), context)
        made = policy.decide(run_at(200)).calls
        capped = policy.decide(run_at(400))
        assert (len(made), capped.calls, capped.proposals) == (2, [], [])
        assert "budgets.max_calls" in capped.reason
        reader = FakeReader(run_at(), earlier=made)
        restarted = LlmPolicy(
            "llm", LlmFile(type="llm"), PolicyContext(llm=context.llm, budgets=budgets, reader=reader)
        )
        assert "budgets.max_calls" in restarted.unavailable()
        assert "budgets.max_calls" in restarted.decide(run_at(600)).reason


def test_a_cap_reached_in_the_middle_leaves_what_was_decided() -> None:
    script = [calls(("update_optimizer", CUT), ("get_findings", {}))]
    with ScriptedEndpoint(script) as endpoint:
        decision = policy_of(endpoint, budgets=BudgetSettings(max_calls=2)).decide(run_at())
    assert [d.command for d in decision.proposals] == [UpdateOptimizer(lr=0.01)]
    assert "budgets.max_calls" in decision.reason


def test_the_prefix_is_the_same_in_every_decision() -> None:
    with ScriptedEndpoint([says("fine"), says("fine")]) as endpoint:
        policy = policy_of(endpoint)
        policy.decide(run_at(200))
        decision = policy.decide(run_at(900).model_copy(update={"notes": ["alice: careful"]}))
        first, second = endpoint.requests
    assert first.messages[:-1] == second.messages[:-1]
    assert first.body["tools"] == second.body["tools"]
    assert first.last_text != second.last_text
    usage = decision.calls[0].usage
    assert isinstance(usage, Usage)
    assert usage.cached_input_tokens > 0.5 * usage.input_tokens


def test_goal_constraints_and_context_of_the_user_reach_the_model() -> None:
    goal = GoalSettings(
        metric="accuracy", direction="maximize", constraints=["keep it small"], context="A fine-tune.\nOf X."
    )
    with ScriptedEndpoint([says("fine")]) as endpoint:
        policy_of(endpoint, goal=goal).decide(run_at())
        text = endpoint.requests[0].messages[0]["content"]
    assert "Goal: maximize <data>accuracy</data>." in text
    assert "- keep it small" in text
    assert "A fine-tune.\nOf X." in text


def test_the_compact_form_over_http() -> None:
    diverging = SITUATIONS[0].observation
    with ScriptedEndpoint([gives({"action": "tenfold_down", "why": "it diverges"})], supports="json") as endpoint:
        policy = LlmPolicy("small", LlmFile(type="llm", form="compact"), context_of(endpoint, diverging))
        decision = policy.decide(diverging)
        request = endpoint.requests[0]
    [draft] = decision.proposals
    assert isinstance(draft.command, UpdateOptimizer)
    assert draft.command.lr == pytest.approx(0.03)
    assert request.body["temperature"] == 0.0
    assert request.last_text.startswith("state: DIVERGING")


def test_without_a_model_the_policy_says_so_and_changes_nothing() -> None:
    policy = load_policy("llm", PolicyContext(reader=FakeReader(run_at()), environ={}))
    assert isinstance(policy, Background)
    assert "set llm.model" in unavailable(policy)
    assert notice_of(policy) == unavailable(policy)
    later = policy.decide(run_at()).later
    assert later is not None
    decision = later.result(timeout=30)
    assert (decision.proposals, decision.calls, decision.skipped) == ([], [], True)
    assert "set llm.model" in decision.reason


@pytest.mark.parametrize("name", ["llm", "llm_compact"])
def test_a_shipped_policy_is_checked_without_a_run_or_a_network(name: str) -> None:
    llm = LlmSettings(model="m", base_url="http://127.0.0.1:9/v1")
    loaded = open_policy(name, PolicyContext(llm=llm, environ={}))
    assert loaded.policy.name == name
    assert unavailable(loaded.policy) == ""
    assert loaded.notice == ""


def test_a_model_of_its_own_is_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("type: llm\nmodel: other\n", encoding="utf-8")
    with ScriptedEndpoint([says("fine")], model="other") as endpoint:
        policy = load_policy(str(tmp_path / "mine.yaml"), context_of(endpoint))
        later = policy.decide(run_at()).later
        assert later is not None
        assert later.result(timeout=30).reason == "fine"


def break_prompt(folder: Path) -> None:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "llm_system.j2").write_text("{# variables: gaol #}\n{{ gaol }}", encoding="utf-8")


def wrong_key(folder: Path) -> None:
    (folder / "policies").mkdir()
    (folder / "policies" / "llm.yaml").write_text("type: llm\nevery: 5\n", encoding="utf-8")


@pytest.mark.parametrize(("spoil", "words"), [(break_prompt, "variable gaol"), (wrong_key, "llm.yaml:2: every")])
def test_what_is_wrong_in_the_users_folder_is_said_before_the_run(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_policy("llm", PolicyContext(project=tmp_path))
    assert words in caught.value.message


def test_calls_of_a_run_are_recorded_with_prompts_and_tools() -> None:
    with ScriptedEndpoint([says("fine")]) as endpoint:
        decision = policy_of(endpoint).decide(run_at())
    call = decision.calls[-1]
    assert isinstance(call, ModelCalled)
    assert [used.name for used in call.prompts] == ["llm_system", "llm_observation"]
    assert "change" in call.tools
    assert (call.policy, call.purpose) == ("llm", "decide")
