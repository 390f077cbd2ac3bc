"""One model proposes, another reviews; and rules stand by when a model is away. Over real HTTP."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import BudgetSettings, LlmSettings, ReviewerSettings
from agenttune.llm import OpenAIChat
from agenttune.policy.base import Decision, PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.policy.load import load_policy
from agenttune.policy.wrappers.alternatives import Escalation
from agenttune.policy.wrappers.second_opinion import SecondOpinion
from agenttune.policy.wrappers.simple import Background
from agenttune.policy.wrappers.wrapper import unavailable
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.observation import Observation
from agenttune.testing import ScriptedEndpoint, Step, answers_nothing, calls, cuts, fails, gives, says
from tests.llm_policy.fakes import FakeReader
from tests.policy.conftest import decay, observe
from tests.policy.test_composites import CUT, SAVE, Told, situations, wants

APPROVE = {"why": "the loss rose from 1.2 to 9", "verdict": "approve"}
VETO = {"why": "one bad point in 500", "verdict": "veto"}
SEEN = observe(decay(200), lr=0.1).model_copy(update={"capabilities": ["update_optimizer", "save_checkpoint"]})


def context_of(
    endpoint: ScriptedEndpoint, budgets: BudgetSettings | None = None, model: str = "scripted", **llm: Any
) -> PolicyContext:
    settings = LlmSettings(model=model, base_url=endpoint.base_url, max_attempts=1, timeout_s=10.0, **llm)
    reader = FakeReader(SEEN)
    return PolicyContext(llm=settings, budgets=budgets or BudgetSettings(), reader=reader, environ={})


def reviewed(endpoint: ScriptedEndpoint, decision: Decision, budgets: BudgetSettings | None = None) -> Decision:
    reviewer = Reviewer("reviewed", ReviewerSettings(), context_of(endpoint, budgets))
    return SecondOpinion(Told([decision]), reviewer=reviewer).decide(SEEN)


def test_only_what_the_reviewer_approves_is_asked_for_and_its_calls_are_recorded() -> None:
    with ScriptedEndpoint([gives(APPROVE), gives(VETO)]) as endpoint:
        decision = reviewed(endpoint, wants(CUT, SAVE))
        request = endpoint.requests[0]
    assert [draft.command for draft in decision.proposals] == [CUT.command]
    assert decision.proposals[0].rationale == "too high (reviewed: the loss rose from 1.2 to 9)"
    assert "update_optimizer approved: the loss rose" in decision.reason
    assert "save_checkpoint vetoed: one bad point in 500" in decision.reason
    assert [call.purpose for call in decision.calls if call.purpose != "probe"] == ["review", "review"]
    assert {call.prompts[0].name for call in decision.calls if call.purpose == "review"} == {"review"}
    assert '"lr": 0.01' in request.text
    assert "<data>too high</data>" in request.text


@pytest.mark.parametrize(
    "step",
    [
        says("Looks good to me!"),
        gives({"why": "sure", "verdict": "yes"}),
        gives({"verdict": "approve", "why": "x", "and": "more"}),
        answers_nothing(),
        fails(500, "boom"),
        cuts(),
    ],
    ids=["words", "other verdict", "unknown field", "nothing", "error", "cut off"],
)
def test_anything_but_an_approval_is_a_veto(step: Step) -> None:
    with ScriptedEndpoint([step], supports="json") as endpoint:
        decision = reviewed(endpoint, wants(CUT))
    assert decision.proposals == []
    assert "update_optimizer vetoed: no answer of the reviewer: " in decision.reason
    assert [call.purpose for call in decision.calls][-1] == "review"


def test_a_spent_budget_is_a_veto_and_makes_the_policy_unavailable() -> None:
    with ScriptedEndpoint([]) as endpoint:
        reviewer = Reviewer("reviewed", ReviewerSettings(), context_of(endpoint, BudgetSettings(max_calls=0)))
        policy = SecondOpinion(Told([wants(CUT)]), reviewer=reviewer)
        decision = policy.decide(SEEN)
        assert unavailable(policy).startswith("nobody reviews: ")
    assert decision.proposals == []
    assert "vetoed" in decision.reason


def test_nothing_is_reviewed_where_nothing_is_wanted() -> None:
    with ScriptedEndpoint([]) as endpoint:
        decision = reviewed(endpoint, Decision(reason="all is well"))
    assert decision == Decision(reason="all is well")


def test_from_a_file_it_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "reviewer.yaml").write_text("model: stern\ntemperature: 0.5\n", encoding="utf-8")
    text = "type: second_opinion\npolicy: guardian\nreviewer: reviewer.yaml\n"
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    gate = threading.Event()
    with ScriptedEndpoint([gives(APPROVE).when(gate)]) as endpoint:
        context = context_of(endpoint)
        here = PolicyContext(tmp_path, llm=context.llm, reader=context.reader, environ={})
        policy = load_policy("p.yaml", here)
        decision = policy.decide(situations()[4])
        assert decision.later is not None
        assert not decision.later.done()
        gate.set()
        final = decision.later.result(20)
        body = endpoint.requests[0].body
    assert isinstance(final.proposals[0].command, UpdateOptimizer)
    assert (body["model"], body["temperature"]) == ("stern", 0.5)


def answer_of(policy: Escalation, observation: Observation) -> Decision:
    decision = policy.decide(observation)
    return decision if decision.later is None else decision.later.result(20)


def test_the_rules_go_on_alone_while_the_endpoint_is_down_and_it_is_asked_again_when_it_is_back() -> None:
    now_s = 0.0
    with ScriptedEndpoint([calls(("wait", {"reason": "all is well"}))]) as endpoint:
        context = context_of(endpoint, protocol="tools")
        chat = OpenAIChat(context.llm, context.budgets, clock_s=lambda: now_s, sleep=lambda s: None)
        model = Background(LlmPolicy("llm", LlmFile(type="llm"), context, chat))
        guardian = load_policy("guardian")
        policy = Escalation("default", (guardian, model))
        endpoint.is_down = True
        first = answer_of(policy, SEEN)
        assert [call.error != "" for call in first.calls] == [True]
        reasons = [answer_of(policy, SEEN).reason for _ in range(2)]
        trouble = situations()[4]
        assert answer_of(policy, trouble).proposals == guardian.decide(trouble).proposals != []
        endpoint.is_down = False
        now_s = 1e6
        back = answer_of(policy, SEEN)
    assert "llm is left out: " in reasons[0]
    assert reasons[0].endswith("running on rules alone (guardian)")
    assert reasons[1] == "no rule applies"
    assert "llm is asked again" in back.reason
    assert [call.error for call in back.calls] == [""]


def test_a_spent_budget_leaves_the_rules_and_costs_nothing_more() -> None:
    with ScriptedEndpoint([calls(("wait", {"reason": "all is well"}))]) as endpoint:
        context = context_of(endpoint, BudgetSettings(max_calls=1), protocol="tools")
        policy = load_policy("default", context)
        assert isinstance(policy, Escalation)
        answers = [answer_of(policy, SEEN.model_copy(update={"step": 200 + 500 * i})) for i in range(4)]
    assert [len(answer.calls) for answer in answers] == [1, 0, 0, 0]
    told = [answer.reason for answer in answers if "left out" in answer.reason]
    assert len(told) == 1
    assert "running on rules alone (guardian)" in told[0]


def test_one_ledger_for_all_the_models_of_a_policy() -> None:
    script = [calls(("update_optimizer", {"lr": 0.01, "reason": "too high"})), gives(APPROVE)]
    with ScriptedEndpoint(script) as endpoint:
        context = context_of(endpoint, BudgetSettings(max_calls=2), protocol="tools")
        policy = load_policy("llm_reviewed", context)
        decision = policy.decide(SEEN)
        assert decision.later is not None
        final = decision.later.result(20)
        after = policy.decide(SEEN.model_copy(update={"step": 900}))
    assert [call.purpose for call in final.calls] == ["decide", "review"]
    assert context.spent.calls == 2
    assert after.later is None
    assert "budgets.max_calls" in after.reason
    assert after.reason.endswith("running on rules alone (guardian); no rule applies")
