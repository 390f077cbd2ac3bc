"""The loop between a run and a policy: it wakes when it should, says each thing once, and survives everything else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenttune.agent import EFFECT_STEPS, REARM_STEPS, AgentLoop, is_new
from agenttune.config import WakeSettings
from agenttune.control import AgentRecord, ApprovalDecision, Control, LocalControl
from agenttune.errors import ServerUnreachable
from agenttune.policy.base import Decision, Draft, NoopPolicy
from agenttune.protocol.commands import CommandBase, UpdateOptimizer
from agenttune.protocol.events import (
    BranchStarted,
    Decided,
    DecisionAwaited,
    Evaluated,
    Found,
    NoteAdded,
    PolicyAttached,
    PolicyDetached,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval, State, Verdict
from agenttune.protocol.reads import R, RunQuery
from agenttune.protocol.run_info import RunInfo
from tests.policy.conftest import SteeredRun, applied, observe

RARELY = WakeSettings(every_steps=10_000, early_until_step=0)


class Scripted:
    """A policy that answers with what it is told to and remembers what it was asked; strict about being asked."""

    name = "scripted"

    def __init__(self, *answers: Decision | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[Observation] = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        answer = self.answers.pop(0) if self.answers else Decision(reason="nothing to do")
        if isinstance(answer, Exception):
            raise answer
        return answer


class Flaky(Control):
    """A control whose server is away for the calls whose numbers are given."""

    def __init__(self, inner: LocalControl, away: Callable[[int], bool]) -> None:
        self.inner, self.away, self.calls = inner, away, 0

    def _reach(self) -> LocalControl:
        self.calls += 1
        if self.away(self.calls):
            raise ServerUnreachable("not there")
        return self.inner

    def runs(self) -> list[RunInfo]:
        return self._reach().runs()

    def read(self, run_id: str, query: RunQuery[R]) -> R:
        return self._reach().read(run_id, query)

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        return self._reach().submit(run_id, proposal)

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        return self._reach().dry_run(run_id, proposal)

    def decide(self, run_id: str, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        return self._reach().decide(run_id, command_id, decision)

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        return self._reach().end_standing_approval(run_id, kind, author)

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        return self._reach().record(run_id, body, step)


def loop_of(control: LocalControl | Flaky, policy: Any, wake: WakeSettings | None = None) -> AgentLoop:
    return AgentLoop(control, "r1", policy, wake or WakeSettings(stall_after_s=1e9), clock_s=lambda: 0.0)


def bodies(control: LocalControl, kind: type) -> list[Any]:
    return [event.body for event in control.events("r1") if isinstance(event.body, kind)]


def steps(run: SteeredRun, count: int) -> None:
    for _ in range(count):
        run.step()


def set_lr(lr: float, valid_for_steps: int | None = None) -> Decision:
    command: CommandBase = UpdateOptimizer(lr=lr)
    return Decision([Draft(command, "because", valid_for_steps)], "because")


def test_a_policy_is_asked_every_n_steps_and_not_in_between(run: SteeredRun, control: LocalControl) -> None:
    policy = Scripted()
    loop = loop_of(control, policy, WakeSettings(every_steps=20, early_until_step=0))
    for _ in range(10):
        steps(run, 5)
        loop.tick()
        loop.tick()
    assert [o.step for o in policy.seen] == [20, 40]


def test_what_a_policy_decides_on_while_the_run_goes_back_is_not_asked_of_the_new_branch(
    run: SteeredRun, control: LocalControl
) -> None:
    class Slow(Scripted):
        def decide(self, observation: Observation) -> Decision:
            run.log.append(BranchStarted(name="again", parent="main", checkpoint_id="c"), step=10, branch="again")
            return super().decide(observation)

    steps(run, 20)
    loop_of(control, Slow(set_lr(0.05)), WakeSettings(every_steps=20, early_until_step=0)).tick()
    (asked,) = control.commands("r1")
    assert (asked.state, asked.proposal.based_on_branch) == (State.SUPERSEDED, "main")
    assert asked.verdict is not None
    assert "the run has left" in asked.verdict.reason


def test_an_evaluation_wakes_the_policy_unless_switched_off(run: SteeredRun, control: LocalControl) -> None:
    asked = []
    for wake in (RARELY, RARELY.model_copy(update={"on_evaluation": False})):
        policy = Scripted()
        loop = loop_of(control, policy, wake)
        steps(run, 3)
        loop.tick()
        run.log.append(Evaluated(metrics={"eval_loss": 1.0}), step=3)
        loop.tick()
        loop.tick()
        asked.append(len(policy.seen))
    assert asked == [1, 0]
    assert "evaluation at step 3" in bodies(control, Decided)[0].woken_by


def test_a_finding_wakes_the_policy_which_sees_it_and_it_is_recorded_once(
    run: SteeredRun, control: LocalControl
) -> None:
    run.valley.lr = 0.5
    policy = Scripted()
    loop = loop_of(control, policy, RARELY)
    for _ in range(12):
        steps(run, 2)
        loop.tick()
    kinds = [found.finding.kind for found in bodies(control, Found)]
    assert kinds.count("divergence") == 1
    assert any(f.kind == "divergence" for f in policy.seen[-1].findings)
    assert bodies(control, Decided)[0].woken_by.startswith("finding ")


def test_a_proposal_carries_its_author_its_step_and_its_last_step(run: SteeredRun, control: LocalControl) -> None:
    steps(run, 20)
    loop_of(control, Scripted(set_lr(0.05, valid_for_steps=30))).tick()
    [record] = control.commands("r1")
    proposal = record.proposal
    assert (proposal.author.principal, proposal.author.name) == ("agent", "scripted")
    assert (proposal.based_on_step, proposal.valid_until_step, proposal.rationale) == (20, 50, "because")
    assert bodies(control, Decided)[0].command_ids == [record.command_id]
    run.step()
    assert run.valley.lr == 0.05


def test_nothing_is_decided_while_an_own_command_waits_for_the_trainer(run: SteeredRun, control: LocalControl) -> None:
    policy = Scripted(set_lr(0.05))
    loop = loop_of(control, policy)
    steps(run, 20)
    loop.tick()
    run.log.append(Evaluated(metrics={"eval_loss": 1.0}), step=20)
    loop.tick()
    assert len(policy.seen) == 1
    run.step()
    loop.tick()
    assert len(policy.seen) == 2
    assert policy.seen[1].commands[0].state is State.APPLIED


def test_a_refused_proposal_is_recorded_with_its_verdict(run: SteeredRun, control: LocalControl) -> None:
    steps(run, 20)
    loop_of(control, Scripted(set_lr(99.0))).tick()
    [record] = control.commands("r1")
    assert record.state is State.REJECTED
    steps(run, 1)
    assert run.valley.lr == 0.1


def test_a_policy_that_fails_is_recorded_and_asked_again(
    run: SteeredRun, control: LocalControl, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Scripted(KeyError("lr"), set_lr(0.05))
    loop = loop_of(control, policy)
    for _ in range(2):
        steps(run, 20)
        assert loop.tick()
    first, second = bodies(control, Decided)
    assert first.reason == "the policy failed: KeyError: 'lr'"
    assert "Traceback" in caplog.text
    assert second.command_ids


def test_the_same_nothing_is_not_written_again_and_again(run: SteeredRun, control: LocalControl) -> None:
    policy = Scripted()
    loop = loop_of(control, policy)
    for _ in range(5):
        steps(run, 20)
        loop.tick()
    assert len(policy.seen) == 5
    assert len([d for d in bodies(control, Decided) if "finding" not in d.woken_by]) == 1


def test_the_policy_and_its_checksum_are_in_the_log_from_start_to_end(run: SteeredRun, control: LocalControl) -> None:
    loop = AgentLoop(control, "r1", NoopPolicy(), WakeSettings(), details={"sha256": "abc"}, clock_s=lambda: 0.0)
    assert loop.tick()
    [attached] = bodies(control, PolicyAttached)
    assert (attached.policy, attached.details) == ("noop", {"sha256": "abc"})
    run.finish()
    assert not loop.tick()
    [detached] = bodies(control, PolicyDetached)
    assert detached.reason == "the run is finished"


def test_run_returns_when_the_run_ends_and_when_it_is_told_to_stop(run: SteeredRun, control: LocalControl) -> None:
    stop = threading.Event()
    stop.set()
    loop_of(control, NoopPolicy()).run(stop)
    run.finish()
    loop_of(control, NoopPolicy()).run()
    assert bodies(control, PolicyDetached)


def test_an_agent_that_is_told_to_stop_says_so_in_the_log(run: SteeredRun, control: LocalControl) -> None:
    stop = threading.Event()

    class StopsWhenAsked(Scripted):
        def decide(self, observation: Observation) -> Decision:
            stop.set()
            return super().decide(observation)

    steps(run, 20)
    loop_of(control, StopsWhenAsked()).run(stop)
    assert [body.reason for body in bodies(control, PolicyDetached)] == ["the agent was stopped"]


def test_a_stalled_run_is_found_without_any_step(run: SteeredRun, control: LocalControl) -> None:
    steps(run, 3)
    patient = LocalControl(control.runs_dir, clock=lambda: 9e9)
    loop = loop_of(patient, Scripted(), WakeSettings(stall_after_s=100.0))
    loop.tick()
    loop.tick()
    assert [f.finding.kind for f in bodies(control, Found)] == ["stall"]


def test_a_restarted_agent_does_not_repeat_what_the_killed_one_found_or_asked(
    run: SteeredRun, control: LocalControl, runs_dir: Path
) -> None:
    run.valley.lr = 0.5
    steps(run, 14)
    loop_of(control, Scripted(set_lr(0.1)), RARELY).tick()
    found = len(bodies(control, Found))
    assert found >= 1
    policy = Scripted()
    again = loop_of(LocalControl(runs_dir), policy, RARELY)
    again.tick()
    assert len(bodies(control, Found)) == found
    assert policy.seen == []
    assert len(control.commands("r1")) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_goes_away_at_any_call_loses_and_doubles_nothing(
    run: SteeredRun, control: LocalControl, seed: int
) -> None:
    draw = random.Random(seed)
    flaky = Flaky(control, lambda call: draw.random() < 0.4)
    loop = loop_of(flaky, Scripted(set_lr(0.05), set_lr(0.04)))
    run.valley.lr = 0.1
    for _ in range(8):
        steps(run, 10)
        for _ in range(30):
            try:
                loop.tick()
            except ServerUnreachable:
                continue
    assert [c.proposal.command for c in control.commands("r1")] == [UpdateOptimizer(lr=0.05), UpdateOptimizer(lr=0.04)]
    assert len(bodies(control, PolicyAttached)) == 1
    decided = [i for body in bodies(control, Decided) for i in body.command_ids]
    assert decided == [c.command_id for c in control.commands("r1")]


def test_run_waits_for_a_server_that_is_away(run: SteeredRun, control: LocalControl) -> None:
    flaky = Flaky(control, lambda call: call <= 2)
    run.finish()
    loop_of(flaky, NoopPolicy()).run()
    assert len(bodies(control, PolicyDetached)) == 1


class BetweenReads:
    """A clock of a control: what somebody else writes, after the run's state is read and before its events are."""

    def __init__(self, write: Callable[[], object]) -> None:
        self.write: Callable[[], object] | None = write

    def __call__(self) -> float:
        write, self.write = self.write, None
        if write is not None:
            write()
        return time.time()


def test_a_wait_that_begins_while_the_agent_first_looks_is_answered(run: SteeredRun, runs_dir: Path) -> None:
    """Training waited for its whole limit: the view was of the step before, and had the event that told of the wait."""
    steps(run, 3)
    run.log.update_info(rules={"wake": {"mode": "lockstep", "every_steps": 4}})

    def wait() -> None:
        run.step()
        run.log.append(DecisionAwaited(reason="4 steps", limit_s=60.0), step=4)

    control = LocalControl(runs_dir, clock=BetweenReads(wait))
    loop_of(control, NoopPolicy()).tick()
    [decided] = bodies(control, Decided)
    assert (decided.based_on_step, decided.awaited_seq) == (4, control.events("r1", kinds=["decision_awaited"])[0].seq)


def test_who_reads_on_from_a_view_misses_nothing_that_was_written_while_it_was_made(
    run: SteeredRun, runs_dir: Path
) -> None:
    note = NoteAdded(text="hello", author="ann")
    control = LocalControl(runs_dir, clock=BetweenReads(lambda: run.log.append(note)))
    seen = control.observe("r1")
    assert [event.body for event in control.events("r1", since=seen.last_seq)] == [note]


def test_looking_is_paced_by_what_it_costs(run: SteeredRun, control: LocalControl) -> None:
    now = [0.0]

    class Slow(Flaky):
        def observe(self, run_id: str) -> Observation:
            now[0] += 0.01
            return super().observe(run_id)

    slow = Slow(control, lambda call: False)
    policy = Scripted()
    loop = AgentLoop(slow, "r1", policy, WakeSettings(every_steps=1), clock_s=lambda: now[0])
    looked = []
    for _ in range(50):
        run.step()
        now[0] += 0.05
        before = len(policy.seen)
        loop.tick()
        looked.append(len(policy.seen) - before)
    assert 4 <= sum(looked) <= 7  # a look of 10 ms every 500 ms, ticks every 50 ms


@pytest.mark.parametrize(("between", "is_told"), [(100, True), (20, False)])
def test_an_agent_that_cannot_keep_up_says_once_how_far_it_is_behind_and_what_to_do(
    run: SteeredRun, control: LocalControl, between: int, is_told: bool
) -> None:
    """Steps of 2 ms: decisions came hundreds of steps late, and nobody was told."""
    now = [0.0]
    loop = AgentLoop(control, "r1", NoopPolicy(), WakeSettings(every_steps=20), clock_s=lambda: now[0])
    for _ in range(8):
        steps(run, between)
        now[0] += 0.002 * between
        loop.tick()
    told = [body for body in bodies(control, Decided) if body.woken_by == "pace"]
    assert len(told) == is_told
    for body in told:
        assert "looks every 100 steps (0.2 s), not every 20" in body.reason
        assert "wake.mode: lockstep" in body.reason
        assert "wake.every_steps: 100" in body.reason


def spike(step: int, severity: str = "warning") -> Finding:
    return Finding.model_validate(
        {"kind": "spike", "severity": severity, "metric": "loss", "step": step, "summary": "x"}
    )


def test_a_finding_is_new_again_only_after_a_change_had_its_chance_or_much_later() -> None:
    known = [spike(100)]
    assert is_new(spike(100), observe([1.0]))
    assert not is_new(spike(150), observe([1.0], findings=known))
    assert is_new(spike(150, "critical"), observe([1.0], findings=known))
    assert is_new(spike(100 + REARM_STEPS), observe([1.0], findings=known))
    changed = observe([1.0], findings=known, commands=[applied(110, 1e-4)])
    assert not is_new(spike(110 + EFFECT_STEPS - 1), changed)
    assert is_new(spike(110 + EFFECT_STEPS), changed)
    late = observe([1.0], findings=[spike(1000)])
    assert not is_new(spike(1900), late)
    assert is_new(spike(2000), late)
