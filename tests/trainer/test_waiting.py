"""While training waits for the agent, what others ask for is served, and only the agent's answer lets go of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import agenttune
from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import READER, LocalControl
from agenttune.control.reader import ControlReader
from agenttune.llm.tools import Toolbox
from agenttune.policy.base import Decision, Draft
from agenttune.policy.load import LoadedPolicy
from agenttune.policy.wrappers.simple import Background
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.events import Decided, PolicyAttached, PolicyDetached, PolicyRequested
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal
from agenttune.protocol.reads import RunReader
from agenttune.store.run_log import RunLog
from agenttune.trainer import Options
from agenttune.trainer.execution.lockstep import RESTART_S, Lockstep
from tests.trainer.conftest import Points, TinyModel
from tests.trainer.test_lockstep import LONG_S, attended, awaited, decided, lockstep_run, own, train

__all__ = ["own"]
pytestmark = pytest.mark.trainer
ANN = Author(principal="operator", name="ann")
EVERY, STEPS = 4, 10


class ReadsFirst:
    """Looks at the model's norms, as a language model does with its tools, and then cuts the rate."""

    name = "reads first"

    def __init__(self) -> None:
        self.reader: RunReader | None = None
        self.seen: list[tuple[int, str]] = []

    def decide(self, observation: Observation) -> Decision:
        assert self.reader is not None
        self.seen.append(
            (observation.step, Toolbox(self.reader, observation).call("get_model_tree", {"norms": True}).text)
        )
        rate = 1e-3 / (1 + len(self.seen))
        return Decision([Draft(UpdateOptimizer(lr=rate), "as the norms say", valid_for_steps=2)], "norms")


def test_a_model_that_reads_the_norms_in_lockstep_decides_about_the_very_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = ReadsFirst()
    policy.reader = ControlReader(LocalControl(tmp_path / "runs"), "r1")
    how = {"max_steps": 12, "lr_scheduler_type": "constant"}
    _, log = train(tmp_path, monkeypatch, Background(policy), **how)
    assert [step for step, _ in policy.seen] == [5, 10]
    assert all("weight_norm" in tree for _, tree in policy.seen)
    cuts = [c for c in log.commands() if c.proposal.command.kind == "update_optimizer"]
    assert [(c.ack.step, c.ack.outcome) for c in cuts if c.ack is not None] == [(5, "applied"), (10, "applied")]
    assert decided(log) == [5, 10]


# -- what happens while it waits -----------------------------------------------------------------------------------


@dataclass
class Asked:
    """A policy whose answers come when the test gives them."""

    name: str = "asked"
    answers: list[Future[Decision]] = field(default_factory=list)

    def decide(self, observation: Observation) -> Decision:
        self.answers.append(Future())
        return Decision(reason="thinking", later=self.answers[-1])


@dataclass
class StepMetrics:
    """A run of a plain loop that waits at step 4, as others see it."""

    folder: Path
    policy: Asked = field(default_factory=Asked)

    def __post_init__(self) -> None:
        self.log = lockstep_run(self.folder, EVERY, limit_s=20.0)
        self.control = LocalControl(self.folder.parent)

    def submit(self, command: dict[str, Any], author: Author = ANN) -> CommandRecord:
        proposal = Proposal.model_validate({"command": command, "author": author})
        return self.control.submit("r1", proposal)

    def ack(self, record: CommandRecord) -> tuple[str, int]:
        """Outcome and step of a command's answer."""
        for _ in range(6000):
            found = self.control.command("r1", record.command_id)
            if found.ack is not None:
                return found.ack.outcome, found.ack.step
            time.sleep(0.01)
        raise AssertionError(f"no answer to {record.proposal.command.kind}")

    def answer(self, *commands: Draft) -> None:
        """The agent's decision; it is asked once training waits."""
        for _ in range(6000):
            if self.policy.answers:
                break
            time.sleep(0.01)
        self.policy.answers[-1].set_result(Decision(list(commands), "decided"))

    def wait_until_asked(self) -> None:
        """What lets training go on may end the run before the agent has looked at it."""
        for _ in range(6000):
            if self.policy.answers:
                return
            time.sleep(0.01)
        raise AssertionError("the agent was not asked")

    def train(self, steps: int = STEPS) -> list[float]:
        """The rates of the updates, in order."""
        model, used = TinyModel(), list[float]()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = Options(runs_dir=self.folder.parent, server=False)

        def evaluate() -> dict[str, float]:
            return {"loss": 1.0}

        loader = DataLoader(Points(16), batch_size=4, shuffle=True)
        run = agenttune.session(model=model, optimizer=optimizer, options=options, evaluate=evaluate, max_steps=steps)
        with run as session:
            for batch in session.batches(loader):
                optimizer.zero_grad()
                loss = model(**batch)["loss"]
                loss.backward()
                if not session.run.session.is_trying:  # type: ignore[union-attr]
                    used.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                session.step(loss)
        return used


def held_run(
    folder: Path, while_it_waits: Callable[[StepMetrics], None], policy: Asked | None = None
) -> tuple[StepMetrics, Any]:
    """Train with an agent beside, and do something once training waits for it."""
    held, failed = StepMetrics(folder, policy or Asked()), list[BaseException]()

    def act() -> None:
        try:
            assert held.control.events("r1", wait_s=LONG_S, kinds=["decision_awaited"])
            while_it_waits(held)
        except BaseException as error:
            failed.append(error)

    actor = threading.Thread(target=act, daemon=True)
    actor.start()
    with attended(folder.parent, "r1", held.policy):
        used = held.train()
    actor.join(LONG_S)
    if failed:
        raise failed[0]
    return held, used


DISTURBANCES: dict[str, dict[str, Any]] = {
    "read": {"kind": "read_model", "norms": True},
    "note": {"kind": "add_note", "text": "hello"},
    "evaluate": {"kind": "do_evaluate"},
    "save": {"kind": "save_checkpoint", "keep_in": "memory"},
    "rate": {"kind": "update_optimizer", "weight_decay": 0.01},
    "probe": {"kind": "probe", "steps": 2, "candidates": [{"kind": "update_optimizer", "lr": 0.2}]},
    "pause": {"kind": "pause_training"},
}
CUT = Draft(UpdateOptimizer(lr=0.01), "the decision", valid_for_steps=0)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted(DISTURBANCES)), min_size=1, max_size=4), st.sampled_from([ANN, READER]))
def test_whatever_others_ask_for_is_served_and_the_decision_still_comes_first(
    tmp_path_factory: pytest.TempPathFactory, asked: list[str], author: Author
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "r1"
    acks: list[tuple[str, tuple[str, int]]] = []

    def disturb(held: StepMetrics) -> None:
        for name in asked:
            acks.append((name, held.ack(held.submit(DISTURBANCES[name], author))))
            if name == "pause":
                acks.append(("resume", held.ack(held.submit({"kind": "resume_training"}, author))))
        held.answer(CUT)
        held.policy.answers.clear()
        changed = any(name in ("rate", "probe") for name in asked)  # then the agent's answer is of another world
        expects.append(not changed)
        later(held)

    def later(held: StepMetrics) -> None:
        """The other questions of the run: a second one at step 4 after an evaluation, and one at step 8."""
        while held.control.info("r1").is_live:
            if held.policy.answers and not held.policy.answers[-1].done():
                held.policy.answers[-1].set_result(Decision(reason="nothing"))
            time.sleep(0.01)

    expects: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTTUNE_RUN_ID", "r1")
        patch.setenv("AGENTTUNE_RUNS_DIR", str(folder.parent))
        held, used = held_run(folder, disturb)
    assert [ack for ack in acks if ack[1] != ("applied", 4)] == []
    steps = [event.step for event in awaited(held.log)]
    assert steps == ([4, 4, 8] if "evaluate" in asked else [4, 8])
    assert len(used) == STEPS
    if expects[0]:
        assert used == [0.1] * 4 + [0.01] * 6


def test_a_return_by_somebody_else_lets_go_and_the_late_answer_does_not_count(own: Path) -> None:
    def go_back(held: StepMetrics) -> None:
        held.wait_until_asked()
        held.ack(held.submit({"kind": "save_checkpoint", "keep_in": "memory", "tag": "here"}))
        saved = held.log.events(kinds=["checkpoint_saved"])[-1].body.model_dump()["checkpoint_id"]
        assert held.ack(held.submit({"kind": "load_checkpoint", "checkpoint_id": saved})) == ("applied", 4)
        held.answer(CUT)
        while held.control.info("r1").is_live:
            if len(held.policy.answers) > 1 and not held.policy.answers[-1].done():
                held.policy.answers[-1].set_result(Decision(reason="nothing"))
            time.sleep(0.01)

    held, used = held_run(own, go_back)
    assert used == [0.1] * STEPS
    first, second = awaited(held.log)
    assert (first.step, first.branch, second.step) == (4, "main", 8)
    assert second.branch != "main"
    assert answered(held.log) == [first.seq, second.seq]


def answered(log: RunLog) -> list[int | None]:
    return [e.body.awaited_seq for e in log.events(kinds=["decided"]) if isinstance(e.body, Decided)]


def test_a_stop_lets_go_at_once(own: Path) -> None:
    held, used = held_run(own, stop)
    assert len(used) == EVERY
    assert held.log.info().status == "stopped"


def stop(held: StepMetrics) -> None:
    held.wait_until_asked()
    assert held.ack(held.submit({"kind": "stop_training", "save": False})) == ("applied", EVERY)
    held.answer()


def test_an_answer_that_comes_after_the_limit_is_no_decision_about_later_steps(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that thinks through two questions is asked a third time, about where the run then stands."""
    # The first wait has to end without an answer, and the answer to the second has to come before its end.
    log = lockstep_run(own, EVERY, limit_s=2.0)
    policy = Asked()

    def answer() -> None:
        control = LocalControl(own.parent)
        while len(waits := control.events("r1", kinds=["decision_awaited"], wait_s=1.0)) < 2 or not policy.answers:
            time.sleep(0.005)
        assert [event.step for event in waits] == [4, 8]
        policy.answers[0].set_result(Decision(reason="at last"))
        while len(policy.answers) < 2:
            time.sleep(0.005)
        policy.answers[1].set_result(Decision(reason="of step 8"))

    threading.Thread(target=answer, daemon=True).start()
    held = StepMetrics.__new__(StepMetrics)
    held.folder, held.policy = own, policy
    with attended(own.parent, "r1", policy):
        held.train()
    first, second = awaited(log)
    assert answered(log) == [first.seq, second.seq]
    assert decided(log) == [4, 8]


class LockstepBench:
    """A wait at step 4 over a real log, with a clock that is set by hand."""

    def __init__(self, folder: Path, limit_s: float = 60.0) -> None:
        self.log, self.now_s = lockstep_run(folder, EVERY, limit_s), 0.0
        self.reading = RunLog.open(folder)
        wake = WakeSettings(mode="lockstep", every_steps=EVERY, lockstep_limit_s=limit_s)
        self.lockstep = Lockstep(wake, self.reading, self.write, lambda: self.now_s)

    def write(self, job: Callable[[RunLog], object]) -> None:
        job(self.log)

    def begin(self, step: int = 4) -> int:
        self.lockstep.reach(step, None)
        assert self.lockstep.begin(step, "main")
        return awaited(self.log)[-1].seq

    def decide(self, step: int | None = 4, awaited_seq: int | None = None) -> None:
        self.log.append(Decided(policy="p", woken_by="w", based_on_step=step, awaited_seq=awaited_seq))


GONE = PolicyDetached(policy="p", reason="sent away")
SWAPPED = PolicyDetached(policy="p", reason="another was asked for", successor="q")
HERE = PolicyAttached(policy="q", pid=os.getpid())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(["read", "late", "none", "other", "gone", "swapped", "here", "mine", "old"]), max_size=8)
)
def test_only_the_decision_about_this_step_or_the_agents_leave_ends_a_wait(
    tmp_path_factory: pytest.TempPathFactory, happens: list[str]
) -> None:
    bench = LockstepBench(tmp_path_factory.mktemp("wait") / "r1")
    bench.log.append(HERE)
    seq = bench.begin()
    attached = True
    for what in happens:
        if what == "read":
            command = {"command": {"kind": "read_model"}, "author": READER}
            LocalControl(bench.log.folder.parent).submit("r1", Proposal.model_validate(command))
        elif what in ("gone", "swapped", "here"):
            bench.log.append({"gone": GONE, "swapped": SWAPPED, "here": HERE}[what])
            attached = what != "gone"
        else:
            decided = {"late": (4, seq - 1), "none": (4, 0), "other": (3, None), "mine": (9, seq), "old": (4, None)}
            bench.decide(*decided[what])
        if what in ("mine", "old") or not attached:
            assert not bench.lockstep.goes_on()
            return
        assert bench.lockstep.goes_on(), what


def test_the_limit_counts_waiting_and_not_the_time_that_others_commands_take(tmp_path: Path) -> None:
    bench = LockstepBench(tmp_path / "r1", limit_s=5.0)
    bench.log.append(HERE)
    bench.begin()
    bench.now_s += 100.0  # a pause, or an evaluation that was asked for
    assert bench.lockstep.goes_on()
    for _ in range(6):
        before_s = bench.now_s
        bench.lockstep._clock_s = iter([before_s, before_s + 1.0]).__next__
        bench.lockstep.idle()
        bench.now_s, bench.lockstep._clock_s = before_s + 1.0, lambda: bench.now_s
    assert not bench.lockstep.goes_on()


def test_an_agent_whose_process_was_killed_is_waited_for_as_long_as_a_restart_takes(tmp_path: Path) -> None:

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    bench = LockstepBench(tmp_path / "r1", limit_s=1000.0)
    bench.log.append(PolicyAttached(policy="p", pid=dead.pid, pid_started_s=1.0, host=platform.node()))
    bench.begin()
    assert bench.lockstep.goes_on()
    bench.now_s += RESTART_S - 1
    assert bench.lockstep.goes_on()
    bench.now_s += 2
    assert not bench.lockstep.goes_on()
    note = bench.log.events(kinds=["note_added"])[-1].body.model_dump()["text"]
    assert note == f"the process of policy p ({dead.pid}) is gone; training goes on until one is attached"
    bench.lockstep.reach(8, None)
    assert not bench.lockstep.begin(8, "main"), "nobody has come since"
    bench.log.append(HERE)
    bench.lockstep.reach(12, None)
    assert bench.lockstep.begin(12, "main")


def test_a_policy_that_takes_over_while_training_waits_is_asked_about_that_step(own: Path) -> None:
    log = lockstep_run(own, EVERY)
    control, slow, quick = LocalControl(own.parent), Asked(), Asked("quick")
    loop = AgentLoop(
        control,
        "r1",
        slow,
        WakeSettings(poll_s=0.02, early_until_step=0),
        load=lambda name: LoadedPolicy(quick, Path("quick"), ""),
    )

    def act() -> None:
        door = LocalControl(own.parent)
        door.events("r1", wait_s=LONG_S, kinds=["decision_awaited"])
        while not slow.answers:
            time.sleep(0.005)
        door.record("r1", PolicyRequested(policy="quick", author="ann"))
        while not quick.answers:
            time.sleep(0.005)
        slow.answers[0].set_result(Decision(reason="too late"))
        door.events("r1", wait_s=LONG_S, kinds=["decided"])
        time.sleep(0.05)
        assert door.info("r1").step == EVERY, "the answer of the one that was sent away lets nobody go"
        quick.answers[0].set_result(Decision([CUT], "now"))
        while len(quick.answers) < 2:
            time.sleep(0.005)
        quick.answers[1].set_result(Decision(reason="nothing"))

    threads = [threading.Thread(target=loop.run, daemon=True), threading.Thread(target=act, daemon=True)]
    for thread in threads:
        thread.start()
    held = StepMetrics.__new__(StepMetrics)
    held.folder = own
    assert held.train() == [0.1] * 4 + [0.01] * 6
    for thread in threads:
        thread.join(LONG_S)
    first, second = awaited(log)
    assert answered(log) == [0, first.seq, second.seq]
