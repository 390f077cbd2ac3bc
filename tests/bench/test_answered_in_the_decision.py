"""A model that evaluates or tries something out gets the figures in the same decision, at the same step of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.bench.in_process import RUN_ID
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.policy.load import open_policy
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.commands import DoEvaluate, UpdateOptimizer
from agenttune.protocol.events import Decided
from agenttune.protocol.proposals import CommandRecord, Proposal, State
from agenttune.store.run_log import RunLog
from agenttune.testing import ChatRequest, ScriptedEndpoint, calls, says
from agenttune.testing.steps import Step
from tests.llm_policy.fakes import FakeReader, ScriptedChat, said, uses
from tests.policy.conftest import decay, observe

FACTS = task_facts("sim_curve")
WHY = "the loss fell from 2.3 to 1.1"
ARMS = [{"lr_factor": 0.5}, {"lr_factor": 2.0}]


class Curious:
    """Evaluates, then tries, then changes, each after it has read what came of the one before; once."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self._wants: list[tuple[str, dict[str, Any]]] = [
            ("evaluate", {}),
            ("trial", {"arms": ARMS, "steps": 4}),
            ("change", {"lr_factor": 0.5}),
        ]

    def __call__(self, request: ChatRequest) -> Step:
        if len(request.messages) > 2:
            self.read.append(request.last_text)
        if not self._wants:
            return says("hold")
        name, given = self._wants.pop(0)
        return calls((name, {**given, "reason": WHY}))


def play(folder: Path, curious: Curious) -> Outcome:
    settings: dict[str, Any] = {
        "wake": {"early_until_step": 0, "every_steps": 20, "lockstep_limit_s": 60},
        "budgets": {"max_probe_frac": 0.5},
        "gate": {"cooldown_steps": 0},
    }
    scenario = Scenario(task="sim_curve", fault="healthy", recipe=FACTS.recipe.with_changes(steps=100, eval_every=50))
    made = Cell(scenario=scenario, seed=0, split="development", contender="policy", spec={}, settings=settings)
    with ScriptedEndpoint(curious) as endpoint:
        asked = PolicySettings(policy="llm", model="m", base_url=endpoint.base_url)
        return PolicyContender(asked).play(Trial(made, FACTS, folder, folder.parent))


def test_an_evaluation_and_a_trial_are_answered_while_training_waits(tmp_path: Path) -> None:
    curious, folder = Curious(), tmp_path / "cell"
    folder.mkdir()
    outcome = play(folder, curious)
    assert outcome.failure == ""
    evaluated, tried = curious.read[:2]
    assert FACTS.metric in evaluated
    assert "training loss of each trial: (nothing changed) " in tried
    assert "(lr=" in tried
    assert [(i.kind, i.state) for i in outcome.interventions] == [
        *(("do_evaluate", "applied"), ("probe", "applied"), ("update_optimizer", "applied"))
    ]
    [step] = {i.step for i in outcome.interventions}
    log = RunLog.open(folder / RUN_ID)
    acks = {r.command.kind: r.ack.step for r in log.commands() if r.ack is not None}
    decided = [e.body for e in log.events(kinds=["decided"]) if isinstance(e.body, Decided) and e.body.command_ids]
    log.close()
    assert set(acks.values()) == {step}, "all three at the step that it was asked about"
    assert [len(one.command_ids) for one in decided] == [3]


class Silent:
    """A run that takes commands and does not answer."""

    def __init__(self, state: State = State.QUEUED) -> None:
        self.asked: list[Proposal] = []
        self._state = state

    def ask(self, proposal: Proposal, wait_s: float) -> CommandRecord:
        self.asked.append(proposal)
        return CommandRecord(proposal=proposal, state=self._state, submitted_seq=1)


@pytest.mark.parametrize(
    ("state", "words"), [(State.QUEUED, "no answer in 2 s"), (State.PROPOSED, "it waits for somebody's approval")]
)
def test_an_answer_that_does_not_come_is_not_waited_for_without_end(state: State, words: str) -> None:
    seen, run = observe(decay(200)), Silent(state)
    chat = ScriptedChat([uses(("evaluate", {"reason": WHY}), ("change", {"lr": 0.01, "reason": WHY})), said("fine")])
    seen = seen.model_copy(update={"capabilities": ["do_evaluate", "update_optimizer"]})
    context = PolicyContext(reader=FakeReader(seen), asker=run)
    decision = LlmPolicy("llm", LlmFile(type="llm", answer_limit_s=2.0), context, chat).decide(seen)
    assert words in (chat.sent[1][-2].content or "")
    assert [p.command for p in run.asked] == [DoEvaluate()]
    assert [d.command for d in decision.proposals] == [UpdateOptimizer(lr=0.01)]
    assert decision.submitted == [run.asked[0].command_id]


@pytest.mark.parametrize("answer_limit_s", [0.0, 60.0])
def test_without_somebody_to_ask_it_is_noted_like_any_other(answer_limit_s: float) -> None:
    seen, run = observe(decay(200)).model_copy(update={"capabilities": ["do_evaluate"]}), Silent()
    chat = ScriptedChat([uses(("do_evaluate", {"reason": WHY}))])
    context = PolicyContext(reader=FakeReader(seen), asker=None if answer_limit_s else run)
    decision = LlmPolicy("llm", LlmFile(type="llm", answer_limit_s=answer_limit_s), context, chat).decide(seen)
    assert [d.command for d in decision.proposals] == [DoEvaluate()]
    assert (decision.submitted, run.asked) == ([], [])


@pytest.mark.parametrize(("name", "may_ask"), [("llm", True), ("default", True), ("llm_shadow", False)])
def test_a_policy_in_shadow_asks_for_nothing_in_the_midst_of_a_decision(name: str, may_ask: bool) -> None:
    context = PolicyContext(asker=Silent())
    [model] = [part for part in walk(open_policy(name, context).policy) if isinstance(part, LlmPolicy)]
    assert (model._context.asker is not None) == may_ask
    assert model._context.spent is context.spent, "one ledger for all models of a policy"
