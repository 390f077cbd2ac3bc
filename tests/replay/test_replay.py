"""A policy over a recorded run: what it would have done where, and nothing else happens."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agenttune.config import WakeSettings
from agenttune.control.reader import ControlReader
from agenttune.errors import UserError
from agenttune.llm.tools.run_metrics import run_curve
from agenttune.policy.base import Decision, Draft, Policy, PolicyContext
from agenttune.policy.load import load_policy
from agenttune.protocol.commands import CommandBase, DoEvaluate, UpdateOptimizer
from agenttune.protocol.events import Decided
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, ToolUse, Usage
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.protocol.reads import KnobsQuery, ObservationQuery
from agenttune.replay import ReplayControl, ReplayOutcome, admit, replay
from agenttune.replay.recordings import Recording, read_log, read_recording
from agenttune.replay.replay_control import Admitted
from agenttune.replay.transcripts import transcripts_of
from agenttune.store.run_log import RunLog
from tests.cli.conftest import agenttune
from tests.plugin_files import write_plugins
from tests.policy.conftest import decay
from tests.replay.conftest import EVERY_STEP, changes_of, diverging, history, steer, write_state


def over(recording: Recording, policy: Policy, wake: WakeSettings | None = None) -> ReplayOutcome:
    return replay(recording, lambda control, run_id: Admitted(policy), wake).outcome


def state_of(tmp_path: Path, losses: list[float]) -> Recording:
    return read_recording(write_state(tmp_path / "trainer_state.json", history(losses)))


@dataclass
class Eager:
    """Asks for a command whenever it is asked, and keeps what it was shown."""

    command: CommandBase = field(default_factory=DoEvaluate)
    seen: list[Observation] = field(default_factory=list)
    name: str = "eager"

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return Decision([Draft(self.command, "why not")], "why not")


class Slow(Eager):
    """Thinks in another thread."""

    def decide(self, observation: Observation) -> Decision:
        answer: Future[Decision] = Future()
        decide = super().decide
        threading.Thread(target=lambda: answer.set_result(decide(observation))).start()
        return Decision(reason="thinking", later=answer)


# -- where it acts --------------------------------------------------------------------------------------------------


def test_a_policy_finds_in_a_foreign_log_what_it_would_find_live(tmp_path: Path) -> None:
    outcome = over(state_of(tmp_path, diverging()), load_policy("guardian"))
    first = outcome.wanted[0]
    assert 80 < first.step <= 160
    assert (first.kind, first.arguments["lr"]) == ("update_optimizer", pytest.approx(1e-4))
    assert "divergence" in first.woken_by
    assert first.around.loss is not None
    assert first.around.loss_after is not None
    assert first.around.loss_after > first.around.loss
    assert "divergence" in {finding.kind for finding in outcome.findings}
    assert outcome.done == []


def test_a_healthy_recording_stays_untouched(tmp_path: Path) -> None:
    outcome = over(state_of(tmp_path, decay(300)), load_policy("guardian"))
    assert outcome.wanted == []
    assert outcome.decisions >= 300 / 20


def test_the_same_policy_over_its_own_run_wants_what_it_did(tmp_path: Path) -> None:
    run = steer(tmp_path / "runs", load_policy("guardian"))
    outcome = over(read_log(run.log), load_policy("guardian"), EVERY_STEP)
    assert [(w.step, w.arguments["lr"]) for w in outcome.wanted] == changes_of(run)
    assert [d.proposed_at_step for d in outcome.done] == [d.step for d in outcome.done]
    assert outcome.wanted[0].done[0].summary.startswith("lr 0.5 -> 0.05")
    run.close()


def test_another_policy_is_shown_beside_what_was_done(tmp_path: Path) -> None:
    run = steer(tmp_path / "runs", load_policy("guardian"))
    before = run.log.last_seq()
    outcome = over(read_log(run.log), load_policy("noop"))
    assert outcome.wanted == []
    assert [(d.step, d.author, d.proposed_at_step) for d in outcome.done] == [
        (step, "guardian", None) for step, _ in changes_of(run)
    ]
    assert run.log.last_seq() == before
    run.close()


def test_what_is_asked_for_changes_nothing_and_is_remembered(tmp_path: Path) -> None:
    policy = Eager(UpdateOptimizer(lr=0.5))
    outcome = over(state_of(tmp_path, [1.0] * 100), policy, WakeSettings(every_steps=25, early_until_step=0))
    assert [w.step for w in outcome.wanted] == [25, 50, 75, 100]
    last = policy.seen[-1]
    assert [c.submitted_step for c in last.commands] == [25, 50, 75]
    assert all(c.ack is None for c in last.commands)
    rate = last.knob("lr")
    assert rate is not None
    assert rate.effective == 1e-3
    assert any("a replay applies nothing" in note for note in outcome.notes)


def test_the_recorded_gate_would_have_refused(tmp_path: Path) -> None:
    run = steer(tmp_path / "runs", load_policy("noop"), lr=0.1, steps=30)
    outcome = over(read_log(run.log), Eager(UpdateOptimizer(lr=50.0)))
    assert outcome.wanted[0].refused.startswith("guardrail:bounds: lr 50 is outside")
    run.close()


def test_a_policy_sees_the_run_as_it_stood_and_no_further(tmp_path: Path) -> None:
    policy = Eager()
    over(
        state_of(tmp_path, [float(step) for step in range(1, 101)]),
        policy,
        WakeSettings(every_steps=30, early_until_step=0),
    )
    assert [observation.step for observation in policy.seen] == [30, 50, 90, 100]
    for observation in policy.seen:
        assert observation.series["loss"].steps[-1] == observation.step
        assert all(e.step <= observation.step for e in observation.evaluations)
    assert policy.seen[1].evaluations[0].metrics["eval_loss"] == 50.0


def test_a_slow_policy_is_waited_for(tmp_path: Path) -> None:
    outcome = over(
        state_of(tmp_path, [1.0] * 60), Slow(), WakeSettings(every_steps=20, early_until_step=0, on_evaluation=False)
    )
    assert [w.step for w in outcome.wanted] == [20, 40, 60]


def test_a_policy_that_fails_does_not_look_like_one_that_is_content(tmp_path: Path) -> None:
    class Broken(Eager):
        def decide(self, observation: Observation) -> Decision:
            raise RuntimeError("no idea")

    outcome = over(state_of(tmp_path, [1.0] * 60), Broken())
    assert any("the policy failed" in note and "RuntimeError: no idea" in note for note in outcome.notes)


def test_tools_of_a_policy_read_the_recording_as_far_as_it_has_come(tmp_path: Path) -> None:
    longest: list[int] = []

    @dataclass
    class Reading(Eager):
        reader: ControlReader | None = None

        def decide(self, observation: Observation) -> Decision:
            assert self.reader is not None
            longest.append(run_curve(self.reader, "loss").steps[-1])
            assert self.reader.read(ObservationQuery()).step == observation.step
            assert [knob.name for knob in self.reader.read(KnobsQuery()).knobs] == ["lr"]
            return Decision()

    def make(control: ReplayControl, run_id: str) -> Admitted:
        return Admitted(Reading(reader=ControlReader(control, run_id)))

    outcome = replay(
        state_of(tmp_path, [1.0] * 60), make, WakeSettings(every_steps=20, early_until_step=0, on_evaluation=False)
    ).outcome
    assert longest == [20, 40, 60]
    assert outcome.notes == []


# -- language models ------------------------------------------------------------------------------------------------


def test_a_policy_with_a_model_is_not_asked_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="makes no calls by itself: --allow-calls"):
        admit("llm", PolicyContext(), allow_calls=False)


def test_the_shipped_default_is_replayed_on_its_rules_and_says_so(tmp_path: Path) -> None:
    admitted = admit("default", PolicyContext(), allow_calls=False)
    assert "--allow-calls" in admitted.note
    outcome = over(state_of(tmp_path, diverging()), admitted.policy)
    assert outcome.wanted[0].kind == "update_optimizer"
    assert outcome.calls == 0


def called(step: int, usd: float | None = 0.01) -> ModelCalled:
    return ModelCalled(
        policy="llm",
        purpose="decide",
        model="wise",
        endpoint="http://127.0.0.1:1",
        protocol="tools",
        messages=[ChatMessage(role="system", content="Be wise."), ChatMessage(role="user", content=f"step {step}?")],
        answer=ChatMessage(
            role="assistant", tool_uses=[ToolUse(id="1", name="update_optimizer", arguments='{"lr": 1}')]
        ),
        usage=Usage(input_tokens=100, output_tokens=10),
        usd=usd,
    )


def test_calls_of_a_replay_are_counted_and_failed_ones_told(tmp_path: Path) -> None:
    class Calling(Eager):
        def decide(self, observation: Observation) -> Decision:
            failed = called(1, usd=0.0).model_copy(update={"answer": None, "error": "503, three times"})
            return Decision(reason="held", calls=[called(1, usd=0.25), failed])

    outcome = over(
        state_of(tmp_path, [1.0] * 40), Calling(), WakeSettings(every_steps=20, early_until_step=0, on_evaluation=False)
    )
    assert (outcome.calls, outcome.usd) == (4, 0.5)
    assert outcome.notes == ["2 of 4 calls of a language model failed; the first: 503, three times"]


def with_calls(runs_dir: Path, usd: float | None = 0.01) -> RunLog:
    """A real log in which a model was asked twice, and the second answer was acted on."""
    run = steer(runs_dir, load_policy("noop"), lr=0.1, steps=30)
    run.close()
    log = RunLog.open(runs_dir / "r1")
    log.append(called(10, usd), step=10)
    log.append(Decided(policy="llm", woken_by="20 steps", reason="hold", based_on_step=10), step=10)
    log.append(called(20), step=20)
    proposal = Proposal(command=UpdateOptimizer(lr=1.0), author=Author(principal="agent", name="llm"))
    command_id = proposal.command_id
    log.submit(proposal, Verdict(decision="rejected", decided_by="bounds", reason="too much"))
    log.append(Decided(policy="llm", woken_by="finding", command_ids=[command_id], reason="raise"), step=20)
    return log


def test_recorded_calls_are_shown_with_what_came_of_them(runs_dir: Path) -> None:
    log = with_calls(runs_dir)
    found = transcripts_of(log)
    assert [(c.step, c.asked) for c in found.calls] == [(10, "step 10?"), (20, "step 20?")]
    assert (found.input_tokens, found.output_tokens) == (200, 20)
    assert found.usd == pytest.approx(0.02)
    first, second = (call.decision for call in found.calls)
    assert first is not None
    assert second is not None
    assert (first.reason, first.asked_for) == ("hold", [])
    assert [(i.kind, i.state.value) for i in second.asked_for] == [("update_optimizer", "rejected")]
    log.close()


def test_recorded_calls_on_the_command_line(tmp_path: Path, runs_dir: Path) -> None:
    with_calls(runs_dir, usd=None).close()
    shown = agenttune("replay", "r1", "--from-transcripts", cwd=tmp_path)
    assert shown.code == 0
    assert "2 calls, 200 tokens in, 20 out, price unknown" in shown.out
    assert "rejected" in shown.out
    found = json.loads(agenttune("replay", "r1", "--from-transcripts", "--json", cwd=tmp_path).out)
    assert found["usd"] is None
    assert [call["usd"] for call in found["calls"]] == [None, 0.01]


def test_a_run_without_calls_says_so(tmp_path: Path, runs_dir: Path) -> None:
    steer(runs_dir, load_policy("noop"), lr=0.1, steps=5).close()
    result = agenttune("replay", "r1", "--from-transcripts", cwd=tmp_path)
    assert (result.code, "holds no calls of a language model" in result.err) == (2, True)


# -- the command line -----------------------------------------------------------------------------------------------


def test_replay_on_the_command_line(tmp_path: Path, runs_dir: Path) -> None:
    steer(runs_dir, load_policy("guardian")).close()
    write_state(tmp_path / "out" / "checkpoint-200" / "trainer_state.json", history(diverging()))
    shown = agenttune("replay", "r1", "--policy", "guardian", "--every", "1", cwd=tmp_path)
    assert shown.code == 0
    assert "lr 0.5 -> 0.05" in shown.out
    assert "it would have given" in shown.out
    found = json.loads(agenttune("replay", "out", "--policy", "guardian", "--json", cwd=tmp_path).out)
    assert found["source"] == "trainer_state"
    assert found["wanted"][0]["kind"] == "update_optimizer"
    idle = agenttune("replay", "out", "--policy", "noop", cwd=tmp_path)
    assert "It would have done nothing." in idle.out


def test_a_policy_of_the_users_own_is_replayed_and_what_it_prints_is_not_in_the_answer(tmp_path: Path) -> None:
    write_plugins(tmp_path)
    write_state(tmp_path / "s.json", history(diverging()))
    plain = agenttune("replay", "s.json", "--policy", "./mine.py:Plain", "--json", cwd=tmp_path)
    assert json.loads(plain.out)["wanted"] == []
    halve = json.loads(agenttune("replay", "s.json", "--policy", "./mine.py:Halve", "--json", cwd=tmp_path).out)
    assert [wanted["kind"] for wanted in halve["wanted"]][:1] == ["update_optimizer"]
    raises = json.loads(agenttune("replay", "s.json", "--policy", "./mine.py:Raises", "--json", cwd=tmp_path).out)
    assert "the policy failed" in " ".join(raises["notes"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nothing", "--policy", "noop"), "nor is there a file 'nothing'"),
        (("a/b.json",), "no run and no file 'a/b.json'"),
        (("s.json", "--policy", "wisdom"), "no policy 'wisdom'"),
        (("s.json", "--tag", "loss"), "give it as NAME=TAG"),
        (("s.json", "--config", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_wrong_requests_are_answered_in_one_line(tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    write_state(tmp_path / "s.json", history([1.0] * 5))
    result = agenttune("replay", *arguments, cwd=tmp_path)
    assert result.code == 2
    assert problem in result.err
