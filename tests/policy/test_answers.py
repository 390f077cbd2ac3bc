"""Decisions that come later: nobody waits for them, late ones do no harm, and what they cost is known."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.errors import ConfigError
from agenttune.policy.base import Decision, Draft, NoopPolicy
from agenttune.policy.load import LoadedPolicy, open_policy
from agenttune.policy.wrappers.simple import Background
from agenttune.protocol.commands import AddNote, UpdateOptimizer
from agenttune.protocol.events import BranchStarted, Decided, Evaluated, PolicyAttached, PolicyDetached, PolicyRequested
from agenttune.protocol.model_calls import ModelCalled, Usage
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, State, Verdict
from tests.policy.conftest import SteeredRun
from tests.policy.test_loop import Scripted, bodies, set_lr, steps

OPERATOR = Author(principal="operator", name="ann")
PATIENCE_S = 30.0
"""For a thread to do what takes it microseconds."""


def call(usd: float = 0.01) -> ModelCalled:
    usage = Usage(input_tokens=100, output_tokens=10)
    return ModelCalled(
        policy="slow", purpose="decide", model="m", endpoint="http://e", protocol="tools", usage=usage, usd=usd
    )


@dataclass
class Slow:
    """A policy that answers when the test says so."""

    name: str = "slow"
    seen: list[Observation] = field(default_factory=list)
    answers: list[Future[Decision]] = field(default_factory=list)

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        self.answers.append(Future())
        return Decision(reason="thinking", later=self.answers[-1])


class RulesAndSlow(Background):
    """Halves a rate above 0.05 by itself, and asks the slow policy about everything else."""

    def decide(self, observation: Observation) -> Decision:
        rate = observation.knob("lr")
        if rate is not None and rate.effective > 0.05:
            return Decision([Draft(UpdateOptimizer(lr=rate.effective / 2), "too high")], "too high")
        return super().decide(observation)


class Stuck:
    """A policy whose endpoint never answers."""

    name = "stuck"

    def __init__(self) -> None:
        self.asked, self.release = threading.Event(), threading.Event()

    def decide(self, observation: Observation) -> Decision:
        self.asked.set()
        self.release.wait(PATIENCE_S)
        return Decision([Draft(UpdateOptimizer(lr=1e-3), "late")], "late", calls=[call()])


def loop_of(control: LocalControl, policy: Any, **more: Any) -> AgentLoop:
    wake = WakeSettings(stall_after_s=1e9)
    return AgentLoop(control, "r1", policy, wake, clock_s=lambda: 0.0, shutdown_grace_s=0.01, **more)


def asked_at_20(run: SteeredRun, control: LocalControl, **more: Any) -> tuple[AgentLoop, Slow]:
    """A loop whose slow policy has been asked at step 20."""
    policy = Slow()
    loop = loop_of(control, policy, **more)
    steps(run, 20)
    loop.tick()
    assert len(policy.answers) == 1
    return loop, policy


def test_an_answer_rests_on_the_step_it_was_asked_at(run: SteeredRun, control: LocalControl) -> None:
    loop, policy = asked_at_20(run, control)
    assert bodies(control, Decided) == []
    steps(run, 5)
    policy.answers[0].set_result(Decision([Draft(UpdateOptimizer(lr=0.05), "because", 30)], "because", calls=[call()]))
    loop.tick()
    [record] = control.commands("r1")
    assert (record.proposal.based_on_step, record.proposal.valid_until_step, record.submitted_step) == (20, 50, 25)
    [decided] = bodies(control, Decided)
    assert (decided.based_on_step, decided.command_ids) == (20, [record.command_id])
    kinds = [event.body.kind for event in control.events("r1")]
    assert kinds.index("model_called") < kinds.index("proposed") < kinds.index("decided")


@pytest.mark.parametrize("case", ["branch", "command", "queued", "expired"])
def test_an_answer_about_a_run_that_has_moved_on_changes_nothing(
    run: SteeredRun, control: LocalControl, case: str
) -> None:
    loop, policy = asked_at_20(run, control)
    if case == "branch":
        run.log.append(BranchStarted(name="b1", parent="main", from_step=10), step=10)
    if case in ("command", "queued"):
        control.submit("r1", Proposal(command=UpdateOptimizer(lr=0.08), author=OPERATOR))
    if case != "queued":
        steps(run, 11 if case == "expired" else 1)
    policy.answers[0].set_result(Decision([Draft(UpdateOptimizer(lr=0.01), "because", 10)], "because", calls=[call()]))
    loop.tick()
    assert [c.proposal.author.principal for c in control.commands("r1")].count("agent") == 0
    reason = bodies(control, Decided)[0].reason
    said = {"branch": "gone to branch b1", "expired": "valid until step 30, the answer came at step 31"}
    assert "update_optimizer not asked for" in reason
    assert said.get(case, "update_optimizer by ann came between") in reason
    assert len(bodies(control, ModelCalled)) == 1


def test_an_answer_at_the_last_step_it_is_valid_for_is_still_asked_for(run: SteeredRun, control: LocalControl) -> None:
    loop, policy = asked_at_20(run, control)
    steps(run, 10)
    policy.answers[0].set_result(Decision([Draft(UpdateOptimizer(lr=0.01), "because", 10)], "because"))
    loop.tick()
    [record] = control.commands("r1")
    assert (record.proposal.valid_until_step, record.submitted_step, record.state) == (30, 30, State.QUEUED)


def test_a_remark_or_an_evaluation_in_between_takes_nothing_from_an_answer(
    run: SteeredRun, control: LocalControl
) -> None:
    loop, policy = asked_at_20(run, control)
    control.submit("r1", Proposal(command=AddNote(text="hello"), author=OPERATOR))
    steps(run, 1)
    policy.answers[0].set_result(set_lr(0.05))
    loop.tick()
    assert [c.proposal.command.kind for c in control.commands("r1")] == ["add_note", "update_optimizer"]


def test_a_policy_that_never_answers_leaves_rules_and_training_alone(run: SteeredRun, control: LocalControl) -> None:
    stuck = Stuck()
    loop = loop_of(control, RulesAndSlow(stuck))
    run.valley.lr = 0.04
    run._tell_knobs()
    steps(run, 20)
    loop.tick()
    assert stuck.asked.wait(PATIENCE_S)
    run.valley.lr = 0.08  # somebody else's mistake, while the model is still thinking
    run._tell_knobs()
    steps(run, 20)
    loop.tick()
    steps(run, 1)
    assert run.valley.lr == 0.04
    run.finish()
    assert not loop.tick()
    last, detached = control.events("r1")[-2:]
    assert isinstance(last.body, Decided)
    assert last.body.reason == "no answer yet to what was asked at step 20; its cost is not recorded"
    assert isinstance(detached.body, PolicyDetached)
    stuck.release.set()


def test_an_answer_that_comes_as_the_run_ends_is_recorded_with_its_cost(run: SteeredRun, control: LocalControl) -> None:
    loop, policy = asked_at_20(run, control)
    run.finish()
    policy.answers[0].set_result(Decision(set_lr(0.01).proposals, "too late", calls=[call(0.5)]))
    loop.detach("the run is finished")  # before it looked for answers
    assert [c.usd for c in bodies(control, ModelCalled)] == [0.5]
    assert control.commands("r1") == []
    assert "left before it could ask" in bodies(control, Decided)[0].reason


def test_a_failure_in_the_thread_is_recorded_and_the_policy_is_asked_again(
    run: SteeredRun, control: LocalControl
) -> None:
    class Fails(Scripted):
        def decide(self, observation: Observation) -> Decision:
            super().decide(observation)
            raise KeyError("lr")

    policy = Fails()
    loop = loop_of(control, Background(policy))
    for count in (1, 2):
        steps(run, 20)
        loop.tick()
        for answer in loop._turns.answers:
            answer.later.exception(PATIENCE_S)
        loop.tick()
        assert len(policy.seen) == count
    assert bodies(control, Decided)[0].reason == "the policy failed: KeyError: 'lr'"


def test_what_happened_while_it_was_thinking_wakes_the_policy_afterwards(
    run: SteeredRun, control: LocalControl
) -> None:
    stuck = Stuck()
    loop = loop_of(control, Background(stuck))
    steps(run, 20)
    loop.tick()
    run.log.append(Evaluated(metrics={"eval_loss": 1.0}), step=20)
    steps(run, 1)
    loop.tick()
    assert bodies(control, Decided) == []
    stuck.release.set()
    [answer] = loop._turns.answers
    answer.later.result(PATIENCE_S)
    loop.tick()
    steps(run, 1)
    loop.tick()
    assert loop._turns.answers[0].asked.woken_by == ["evaluation at step 20"]


def test_calls_and_shadowed_commands_of_any_decision_are_recorded(run: SteeredRun, control: LocalControl) -> None:
    draft = Draft(UpdateOptimizer(lr=0.03), "in its place I would")
    policy = Scripted(Decision(reason="only looking", shadowed=[draft], calls=[call(), call()]))
    loop = loop_of(control, policy)
    steps(run, 20)
    loop.tick()
    [decided] = bodies(control, Decided)
    assert [(s.command, s.rationale) for s in decided.shadowed] == [(UpdateOptimizer(lr=0.03), "in its place I would")]
    assert len(bodies(control, ModelCalled)) == 2
    assert policy.seen[0].woken_by == ["5 steps"], "as often as it is asked early in a run"
    assert control.commands("r1") == []


def test_a_verdict_that_was_not_given_at_once_wakes_the_policy(run: SteeredRun, control: LocalControl) -> None:
    class AsksAPerson(LocalControl):
        """A gate that leaves commands for a person to judge."""

        def submit(self, run_id: str, proposal: Proposal) -> Any:
            record = super().submit(run_id, proposal)
            with self.log(run_id).transaction():
                waiting = record.model_copy(update={"state": State.PROPOSED})
                self.log(run_id)._db.execute(
                    "UPDATE commands SET state = 'proposed', record = ?", (waiting.model_dump_json(),)
                )
            return waiting

    asking = AsksAPerson(control.runs_dir)
    policy = Scripted(set_lr(0.05))
    loop = loop_of(asking, policy)
    steps(run, 20)
    loop.tick()
    loop.tick()
    [record] = asking.commands("r1")
    no = Verdict(decision="rejected", decided_by="ann", reason="no")
    refused = record.model_copy(update={"state": State.REJECTED, "verdict": no})
    with run.log.transaction():
        run.log._db.execute("UPDATE commands SET state = 'rejected', record = ?", (refused.model_dump_json(),))
    steps(run, 1)
    loop.tick()
    assert policy.seen[1].woken_by == ["update_optimizer rejected"]


def test_a_remark_of_an_operator_wakes_the_policy_which_reads_it(run: SteeredRun, control: LocalControl) -> None:
    run.log.update_info(capabilities=["update_optimizer", "add_note"])
    policy = Scripted()
    loop = loop_of(control, policy)
    steps(run, 1)
    loop.tick()
    control.submit("r1", Proposal(command=AddNote(text="mind the rate"), author=OPERATOR))
    agent = Author(principal="agent", name="other")
    control.submit("r1", Proposal(command=AddNote(text="to myself"), author=agent))
    steps(run, 1)
    loop.tick()
    [seen] = policy.seen
    assert seen.woken_by == ["note by ann"]
    assert seen.notes == ["ann: mind the rate"]


def ask_for(control: LocalControl, policy: str | None) -> None:
    control.record("r1", PolicyRequested(policy=policy, author="ann"), 20)


def test_a_policy_is_swapped_and_the_answer_of_the_old_one_dropped(run: SteeredRun, control: LocalControl) -> None:
    loop, slow = asked_at_20(run, control, load=open_policy)
    ask_for(control, "noop")
    assert loop.tick()
    slow.answers[0].set_result(Decision(set_lr(0.01).proposals, "late", calls=[call()]))
    loop.tick()
    assert [a.policy for a in bodies(control, PolicyAttached)] == ["slow", "noop"]
    assert bodies(control, PolicyAttached)[1].details["sha256"]
    assert bodies(control, PolicyDetached)[0].reason == "noop was asked for by ann"
    assert control.commands("r1") == []
    assert "noop was asked for by ann" in bodies(control, Decided)[0].reason
    assert len(bodies(control, ModelCalled)) == 1
    assert loop.author.name == "noop"


def test_a_policy_that_cannot_be_loaded_leaves_the_old_one_at_work(run: SteeredRun, control: LocalControl) -> None:
    def load(name: str) -> LoadedPolicy:
        if name == "broken":
            raise ZeroDivisionError("in its own code")
        raise ConfigError(f"no policy {name!r}; there are: noop")

    policy = Scripted()
    loop = loop_of(control, policy, load=load)
    loop.tick()
    for name in ("nope", "broken"):
        ask_for(control, name)
        assert loop.tick()
    steps(run, 20)
    loop.tick()
    assert len(policy.seen) == 1
    reasons = [d.reason for d in bodies(control, Decided)][:2]
    assert reasons == [
        "scripted stays: no policy 'nope'; there are: noop",
        "scripted stays: ZeroDivisionError: in its own code",
    ]
    assert bodies(control, PolicyDetached) == []


def test_a_policy_that_is_sent_away_leaves_and_the_run_goes_on(run: SteeredRun, control: LocalControl) -> None:
    loop = loop_of(control, NoopPolicy())
    loop.tick()
    ask_for(control, None)
    assert not loop.tick()
    assert not loop.tick()
    assert [d.reason for d in bodies(control, PolicyDetached)] == ["sent away by ann"]
    assert len(bodies(control, PolicyAttached)) == 1
    assert control.info("r1").is_live


def test_one_question_at_a_time(tmp_path: Path, run: SteeredRun, control: LocalControl) -> None:
    stuck = Stuck()
    policy = Background(stuck)
    steps(run, 3)
    first = policy.decide(control.observe("r1"))
    assert policy.decide(control.observe("r1")).reason == "still thinking since step 3"
    stuck.release.set()
    assert first.later is not None
    assert first.later.result(PATIENCE_S).reason == "late"
    assert policy.decide(control.observe("r1")).later is not None
    assert (policy.name, policy.unavailable(), policy.notice) == ("stuck", "", "")
