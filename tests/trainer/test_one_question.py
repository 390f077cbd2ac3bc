"""A step's evaluation and log come first, then one question about it; none at the last step. For every kind of loop."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

import agenttune
from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.base import Decision
from agenttune.protocol.events import Evaluated, KnobsRead
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import Observation
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer import Options
from tests.integrations.lightning_module import Module
from tests.trainer.conftest import Bench, Points, TinyModel
from tests.trainer.test_lockstep import attended, awaited, decided, lockstep_run

pytestmark = pytest.mark.trainer
STEPS = 12


@dataclass
class Notes:
    """Notes what it was asked with: the step, the newest evaluation and log row known, and why."""

    name: str = "notes"
    seen: list[tuple[int, int, int, list[str]]] = field(default_factory=list)

    def decide(self, observation: Observation) -> Decision:
        evaluated = observation.evaluations[-1].step if observation.evaluations else 0
        logged = observation.series["loss"].steps[-1] if "loss" in observation.series else 0
        self.seen.append((observation.step, evaluated, logged, observation.woken_by))
        return Decision(reason=f"seen {observation.step}")


def newest(every: int, step: int) -> int:
    return step - step % every if every else 0


@pytest.mark.quick("*-make_interactive", "coprime-callback")
@pytest.mark.parametrize("form", ["make_interactive", "callback"])
@pytest.mark.parametrize(
    ("evaluation", "logging"),
    [(4, 1), (8, 8), (3, 5), (5, 4), ("epoch", 4), (0, 4), (4, 4)],
    ids=["equal", "multiple", "coprime", "coprime-5", "epoch", "none", "all-at-once"],
)
def test_one_question_a_step_and_it_knows_what_belongs_to_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, evaluation: int | str, logging: int
) -> None:
    bench = Bench(tmp_path)
    log = lockstep_run(bench.runs_dir / "r1", every=4)
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    how: dict[str, Any] = {"max_steps": STEPS, "logging_steps": logging, "rows": 20, "form": form}
    if evaluation:
        how["eval_strategy"] = "epoch" if evaluation == "epoch" else "steps"
        how |= {"eval_steps": evaluation} if isinstance(evaluation, int) else {}
    every = 5 if evaluation == "epoch" else int(evaluation)  # 20 rows make epochs of 5 steps
    policy = Notes()
    with attended(bench.runs_dir, "r1", policy):
        bench.trainer(**how).trainer.train()
    due = [step for step in range(1, STEPS) if step % 4 == 0 or (every and step % every == 0)]
    assert [step for step, *_ in policy.seen] == due == decided(log) == [e.step for e in awaited(log)]
    for step, evaluated, logged, why in policy.seen:
        assert (evaluated, logged) == (newest(every, step), newest(logging, step))
        assert why == ([f"evaluation at step {step}"] if every and step % every == 0 else ["4 steps"])


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_a_loss_that_is_no_number_is_asked_about_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    bench = Bench(tmp_path)
    lockstep_run(bench.runs_dir / "r1", every=50)
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    policy = Notes()
    with attended(bench.runs_dir, "r1", policy):
        bench.trainer(model=TinyModel(poison_at=6), form=form).trainer.train()
    ((step, _, logged, why),) = policy.seen
    assert (step, logged) == (6, 6)
    assert why[0].startswith("finding"), "and the agent sees for itself what is wrong"


def test_a_loop_of_your_own_is_asked_after_its_own_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it draws its batches with us or not."""
    for draws in (True, False):
        runs_dir = tmp_path / str(draws)
        log = lockstep_run(runs_dir / "r1", every=4)
        monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
        monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(runs_dir))
        policy, model = Notes(), TinyModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(Points(16), batch_size=4)
        with (
            attended(runs_dir, "r1", policy),
            agenttune.session(
                model=model, optimizer=optimizer, options=Options(runs_dir=runs_dir, server=False)
            ) as session,
        ):
            batches = session.batches(loader) if draws else (batch for _ in range(9) for batch in loader)
            for batch in batches:
                optimizer.zero_grad()
                loss = model(**batch)["loss"]
                loss.backward()
                optimizer.step()
                session.step({"loss": loss})
                if session.global_step % 4 == 0:
                    model.eval()
                    with torch.no_grad():
                        session.log_eval({"loss": model(**batch)["loss"]})
                    model.train()
                if session.global_step == STEPS:
                    break
        assert [seen[:2] for seen in policy.seen] == [(4, 4), (8, 8)], draws
        assert decided(log) == [4, 8]


class UnhookedModel(TinyModel):
    """Called past torch's hooks, as compiled or functional code does."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.forward(*inputs, **named)


def test_a_loop_that_calls_its_model_past_all_hooks_still_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = lockstep_run(tmp_path / "r1", every=2)
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(tmp_path))
    model, batch = UnhookedModel(), Points(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        attended(tmp_path, "r1", Notes()),
        agenttune.session(
            model=model, optimizer=optimizer, options=Options(runs_dir=tmp_path, server=False)
        ) as session,
    ):
        for _ in range(8):
            optimizer.zero_grad()
            loss = model(batch.x, batch.y)["loss"]
            loss.backward()
            optimizer.step()
            session.step(loss)
    assert decided(log) == [4, 6, 8], "the first question shows that there is no better place"


def test_lightning_is_asked_after_its_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = lockstep_run(tmp_path / "r1", every=4)
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(tmp_path))
    policy = Notes()
    trainer = lightning.Trainer(
        max_steps=STEPS,
        val_check_interval=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[agenttune.LightningCallback(options=Options(runs_dir=tmp_path, server=False))],
    )
    loader = DataLoader(Points(64), batch_size=4)
    with attended(tmp_path, "r1", policy):
        trainer.fit(Module(TinyModel()), loader, DataLoader(Points(8), batch_size=4))
    assert [(step, evaluated, why) for step, evaluated, _, why in policy.seen] == [
        (4, 4, ["evaluation at step 4"]),
        (8, 8, ["evaluation at step 8"]),
    ]
    assert decided(log) == [4, 8]


# -- where training does not wait ----------------------------------------------------------------------------------


class LiveLog:
    """The log of a run, written by hand, with an agent whose ticks are taken by hand."""

    def __init__(self, folder: Path, max_steps: int = 100) -> None:
        info = RunInfo(run_id="r1", name="r", status="running", created_at_s=0.0, max_steps=max_steps)
        self.log, self.policy = RunLog.create(folder / "r1", info), Notes()
        self.log.append(KnobsRead(knobs=[KnobState(name="lr", base=0.1, effective=0.1)]))
        wake = WakeSettings(every_steps=10, early_until_step=0, stall_after_s=1e9)
        self.loop = AgentLoop(LocalControl(folder), "r1", self.policy, wake, clock_s=lambda: 0.0)
        self.loop.tick()

    def steps(self, first: int, last: int, loss: float = 1.0) -> None:
        values = {"step_loss": loss, "lr": 0.1}
        self.log.append_points([Point(step=s, at_s=time.time(), values=values) for s in range(first, last + 1)])

    def evaluated(self, step: int) -> None:
        self.log.append(Evaluated(metrics={"eval_loss": 1.0}), step=step)

    def asked(self) -> list[tuple[int, list[str]]]:
        self.loop.tick()
        self.loop.tick()
        return [(step, why) for step, _, _, why in self.policy.seen]


def test_while_an_evaluation_is_under_way_nobody_is_asked_without_its_result(tmp_path: Path) -> None:
    run = LiveLog(tmp_path)
    run.steps(1, 20)
    run.log.update_info(evaluating_step=20)
    assert run.asked() == []
    run.evaluated(20)
    assert run.asked() == [(20, ["evaluation at step 20"])]
    run.steps(21, 25)
    assert len(run.asked()) == 1, "the evaluation is no reason twice"


def test_an_evaluation_that_never_came_holds_nothing_up_once_training_goes_on(tmp_path: Path) -> None:
    run = LiveLog(tmp_path)
    run.log.update_info(evaluating_step=20)
    run.steps(1, 21)
    assert run.asked() == [(21, ["10 steps"])]


def test_what_is_critical_does_not_wait_for_an_evaluation(tmp_path: Path) -> None:
    run = LiveLog(tmp_path)
    run.steps(1, 5)
    run.steps(6, 8, loss=float("nan"))
    run.log.update_info(evaluating_step=8)
    ((step, why),) = run.asked()
    assert step == 8
    assert why[0].startswith("finding")


def test_a_run_that_is_about_to_end_is_asked_nothing(tmp_path: Path) -> None:
    run = LiveLog(tmp_path, max_steps=20)
    run.steps(1, 20)
    run.evaluated(20)
    assert run.asked() == []


def test_the_trainer_tells_that_an_evaluation_follows_and_that_it_is_over(tmp_path: Path) -> None:
    """The agent of a run that does not wait has nothing else to go by."""
    seen: list[tuple[int, int | None]] = []
    bench = Bench(tmp_path)

    class Looks(TrainerCallback):  # type: ignore[misc]
        def look(self, state: Any) -> None:
            log = bench_log()
            for _ in range(200):
                if log.info().evaluating_step == state.global_step:  # written in the background, after the step's row
                    break
                threading.Event().wait(0.01)
            seen.append((state.global_step, log.info().evaluating_step))
            log.close()

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not seen or seen[-1][0] != state.global_step:
                self.look(state)

    def bench_log() -> RunLog:
        (folder,) = bench.runs_dir.iterdir()
        return RunLog.open(folder)

    how: dict[str, Any] = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3}
    result = bench.trainer(callbacks=[Looks()], **how)
    result.trainer.train()
    assert seen == [(3, 3), (6, 6)]
    assert result.log().info().evaluating_step is None
