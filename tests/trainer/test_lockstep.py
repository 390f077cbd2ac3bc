"""In lockstep, training waits for the agent: two runs are alike, and an agent that does not come does not end them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import agenttune
from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.base import Decision, Draft, Policy
from agenttune.policy.load import load_policy
from agenttune.policy.wrappers.simple import Background
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.events import Decided, Event
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer import Options
from agenttune.trainer.execution.lockstep import Lockstep
from tests.trainer.conftest import Bench, Points, TinyModel

pytestmark = pytest.mark.trainer
LONG_S = 60.0


def lockstep_run(folder: Path, every: int = 5, limit_s: float = LONG_S) -> RunLog:
    """The log that `agenttune run` would make for a config with `wake.mode: lockstep`."""
    wake = WakeSettings(mode="lockstep", every_steps=every, early_until_step=0, lockstep_limit_s=limit_s)
    rules = {"wake": wake.model_dump(mode="json")}
    info = RunInfo(run_id=folder.name, name="r", status="starting", created_at_s=time.time(), rules=rules)
    return RunLog.create(folder, info)


@contextmanager
def attended(runs_dir: Path, run_id: str, policy: Policy) -> Iterator[None]:
    """An agent beside the run, in a thread; it must end with the run."""
    loop = AgentLoop(LocalControl(runs_dir), run_id, policy, WakeSettings(poll_s=0.05, early_until_step=0))
    agent = threading.Thread(target=loop.run, daemon=True)
    agent.start()
    yield
    agent.join(LONG_S)
    assert not agent.is_alive()


def train(path: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy, **how: Any) -> tuple[list[float], RunLog]:
    bench = Bench(path)
    log = lockstep_run(bench.runs_dir / "r1")
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    with attended(bench.runs_dir, "r1", policy):
        result = bench.run(**how)
    return result.losses, log


def decided(log: RunLog) -> list[int | None]:
    return [e.body.based_on_step for e in log.events(kinds=["decided"]) if isinstance(e.body, Decided)]


def awaited(log: RunLog) -> list[Event]:
    return log.events(kinds=["decision_awaited"])


class Cuts:
    """Proposes a lower rate at the steps that it is given."""

    name = "cuts"

    def __init__(self, at: dict[int, float]) -> None:
        self.at, self.seen = at, list[tuple[int, int, list[str]]]()

    def decide(self, observation: Observation) -> Decision:
        newest = observation.series["lr"].steps[-1]
        self.seen.append((observation.step, newest, observation.woken_by))
        rate = self.at.get(observation.step)
        return Decision([] if rate is None else [Draft(UpdateOptimizer(lr=rate), "now")], "as told")


def told(record: CommandRecord) -> tuple[str, int | None, str]:
    """A command and its ack without what is drawn anew in each run: the end of a checkpoint's id, and folders."""
    ack = record.ack.model_dump(exclude={"result": {"restart_from"}}) if record.ack is not None else None
    texts = [re.sub(r"-[0-9a-f]{6}\b", "-#", str(part)) for part in (record.proposal.command, ack)]
    return texts[0], record.proposal.based_on_step, texts[1]


def test_two_runs_of_one_seed_and_policy_are_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"max_steps": 100, "learning_rate": 30.0, "eval_strategy": "steps", "eval_steps": 20, "optim": "sgd"}
    how["lr_scheduler_type"] = "constant"
    runs = [train(tmp_path / name, monkeypatch, load_policy("guardian"), **how) for name in ("a", "b")]
    (losses, log), (again, other) = runs
    done = [[told(c) for c in r.commands()] for r in (log, other)]
    assert len(done[0]) >= 1, losses
    assert done[0] == done[1]
    assert [x.hex() for x in losses] == [x.hex() for x in again]
    assert len(set(losses)) > 90, "it did train"
    assert decided(log) == decided(other) == [e.step for e in awaited(log)]


@pytest.mark.parametrize("thinks_elsewhere", [False, True])
def test_what_is_decided_at_a_step_is_in_force_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thinks_elsewhere: bool
) -> None:
    cuts = Cuts({10: 1e-4, 13: 2e-4})
    policy: Policy = Background(cuts) if thinks_elsewhere else cuts
    how = {"max_steps": 20, "eval_strategy": "steps", "eval_steps": 13, "lr_scheduler_type": "constant"}
    _, log = train(tmp_path, monkeypatch, policy, **how)
    assert [c.ack.step for c in log.commands() if c.ack is not None] == [10, 13]
    rates = [p.values["lr"] for p in log.points(sources=["step"])]
    assert rates == pytest.approx([1e-3] * 10 + [1e-4] * 3 + [2e-4] * 7)
    woken = [(5, 5, ["5 steps"]), (10, 10, ["5 steps"]), (13, 13, ["evaluation at step 13"])]
    assert cuts.seen[:3] == woken
    assert decided(log) == [5, 10, 13, 15]


def loop_of_own(folder: Path, steps: int, before: Callable[[int], None] = lambda step: None) -> list[float]:
    """Steps of a plain loop; the rates that were used."""
    model, used = TinyModel(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = Options(runs_dir=folder.parent, server=False)
    with agenttune.session(model=model, optimizer=optimizer, options=options) as session:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss = model(Points(4).x, Points(4).y)["loss"]
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            before(step)
            session.step(loss.item())
    return used


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of a plain loop."""
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(tmp_path))
    return tmp_path / "r1"


def test_a_loop_of_your_own_waits_too(own: Path) -> None:
    log = lockstep_run(own, every=2)
    with attended(own.parent, "r1", Cuts({4: 0.01})):
        used = loop_of_own(own, 6)
    assert used == [0.1] * 4 + [0.01] * 2
    assert decided(log) == [2, 4]


def test_without_an_agent_training_waits_once_and_says_so(own: Path) -> None:
    log = lockstep_run(own, every=1, limit_s=0.5)
    loop_of_own(own, 6)
    notes = [e.body.model_dump()["text"] for e in log.events(kinds=["note_added"])]
    assert notes == ["no policy came within 0.5 s; training goes on until one is attached"]
    assert len(awaited(log)) == 1


def test_after_three_misses_training_waits_again_only_when_the_agent_decides(own: Path) -> None:
    log = lockstep_run(own, every=1, limit_s=0.5)
    control = LocalControl(own.parent)
    late = threading.Event()

    class Late:
        """Answers at once, but only when the test lets it."""

        name = "late"

        def decide(self, observation: Observation) -> Decision:
            late.wait(LONG_S)
            return Decision(reason="at last")

    agent = AgentLoop(control, "r1", Late(), WakeSettings(poll_s=0.05))
    agent.tick()
    ran = threading.Thread(target=agent.run, daemon=True)

    def before(step: int) -> None:
        if step == 6:
            assert len(awaited(log)) == 3
            late.set()
            ran.start()
            control.events("r1", awaited(log)[-1].seq, wait_s=LONG_S, kinds=["decided"])

    loop_of_own(own, 8, before)
    ran.join(LONG_S)
    notes = [e.body.model_dump()["text"] for e in log.events(kinds=["note_added"])]
    assert notes[0] == "no decision about step 1 within 0.5 s; training goes on"
    assert notes[1].startswith("no decision in time, 3 times in a row")
    assert [e.step for e in awaited(log)] == [1, 2, 3, 6, 7]


def test_an_operator_does_not_wait_for_the_agent(own: Path) -> None:
    log = lockstep_run(own, every=3)
    control = LocalControl(own.parent)

    def stop_when_it_waits() -> None:
        control.events("r1", wait_s=LONG_S, kinds=["decision_awaited"])
        operator = Author(principal="operator", name="ann")
        command = {"kind": "stop_training", "save": False}
        control.submit("r1", Proposal.model_validate({"command": command, "author": operator}))

    ann = threading.Thread(target=stop_when_it_waits, daemon=True)
    ann.start()
    assert len(loop_of_own(own, 6)) < 6
    ann.join(LONG_S)
    assert log.info().status == "stopped"
    assert [e.step for e in awaited(log)] == [3]


def test_a_rate_set_at_the_step_where_training_waits_is_answered_meanwhile(own: Path) -> None:
    """The agent may think for minutes, and the step that would confirm the rate comes only after that."""
    log, control = lockstep_run(own, every=3), LocalControl(own.parent)
    ann = Author(principal="operator", name="ann")
    acks: list[Ack | None] = []

    def ask(step: int) -> None:
        if step == 3:
            command = {"kind": "update_optimizer", "lr": 0.05}
            control.submit("r1", Proposal.model_validate({"command": command, "author": ann}))

    def stop_once_it_is_answered() -> None:
        control.events("r1", wait_s=LONG_S, kinds=["decision_awaited"])
        control.events("r1", wait_s=LONG_S / 4, kinds=["acked"])
        acks.extend(record.ack for record in control.commands("r1"))
        control.submit("r1", Proposal.model_validate({"command": {"kind": "stop_training"}, "author": ann}))

    thread = threading.Thread(target=stop_once_it_is_answered, daemon=True)
    thread.start()
    loop_of_own(own, 6, ask)
    thread.join(LONG_S)
    (ack,) = acks
    assert ack is not None, "not answered while training waits"
    assert "training waits for the agent before another step could confirm it" in ack.message
    assert [e.step for e in awaited(log)] == [3]


def test_an_agent_that_is_started_again_decides_about_the_step_that_training_waits_at(own: Path) -> None:
    log = lockstep_run(own, every=4)
    cuts = Cuts({4: 0.01})

    def attend() -> None:
        control = LocalControl(own.parent)
        control.events("r1", wait_s=LONG_S, kinds=["decision_awaited"])
        AgentLoop(control, "r1", cuts, WakeSettings(poll_s=0.05)).run()

    agent = threading.Thread(target=attend, daemon=True)
    agent.start()
    assert loop_of_own(own, 6) == [0.1] * 4 + [0.01] * 2
    agent.join(LONG_S)
    assert decided(log) == [4]


def test_a_run_that_does_not_wait_has_nothing_to_ask_at_a_step(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "r1", RunInfo(run_id="r1", name="r", status="starting", created_at_s=0.0))
    assert Lockstep.of(log, lambda job: None) is None
    assert Lockstep.of(None, lambda job: None) is None


def test_a_run_is_looked_at_more_often_in_its_first_steps() -> None:
    wake = WakeSettings(mode="lockstep", every_steps=20, early_every_steps=5, early_until_step=12)
    assert [step for step in range(61) if wake.is_time(step)] == [5, 10, 20, 40, 60]
    assert [step for step in range(7) if wake.model_copy(update={"every_steps": 2}).is_time(step)] == [2, 4, 6]
