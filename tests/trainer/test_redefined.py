"""A change that gives the loss another meaning: nobody takes that for harm, and what does harm is still undone."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from agenttune.agent import AgentLoop
from agenttune.config import ProbationSettings, WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.load import load_policy
from agenttune.protocol.events import Settled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, Author, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.trainer.probation.loss_history import LossHistory
from agenttune.trainer.probation.probation import Probation
from tests.trainer.conftest import At, Bench
from tests.trainer.test_measures import held

pytestmark = pytest.mark.trainer
KNOB = {"kind": "set_knob", "name": "label_smoothing", "value": 0.2}
WEIGHTS = {"kind": "update_dataset_runtime_hyperparameters", "values": {"weights": {"a": 1.0}}}
RESET = {"kind": "model_layer_operation", "layer_name": "h", "operation_name": "reset_parameters"}
BATCH = {"kind": "update_training", "gradient_accumulation_steps": 2}
REDEFINING = {"knob": KNOB, "weights": WEIGHTS, "layer": RESET, "batch": BATCH}
RATE = {"kind": "update_optimizer", "lr": 0.1}


class Desk:
    """Probation over made-up losses; every command takes effect at once."""

    def __init__(self, goal: str = "eval_loss", **rules: Any) -> None:
        maximize = "maximize" if "accuracy" in goal else "minimize"
        info = RunInfo(
            run_id="r", name="r", status="running", created_at_s=0.0, goal_metric=goal, goal_direction=maximize
        )
        self.asked: list[Proposal] = []
        self.ended: dict[str, Settled] = {}
        self.probation = Probation(ProbationSettings(**rules), info, self._ask, self._end, lambda _: None)

    def _ask(self, proposal: Proposal) -> str:
        self.asked.append(proposal)
        return ""

    def _end(self, command_id: str, settled: Settled) -> None:
        self.ended[command_id] = settled

    def change(self, step: int, command: dict[str, Any], name: str, author: Any = "agent") -> None:
        given = {"command": command, "author": Author(principal=author, name="x"), "command_id": name}
        self._answer(Proposal.model_validate(given), step)

    def _answer(self, proposal: Proposal, step: int) -> None:
        named = {"update_optimizer": "lr", "set_knob": "label_smoothing"}
        name = named.get(proposal.command.kind, next(iter(proposal.command.arguments())))
        was, now = (1, 2) if name == "gradient_accumulation_steps" else (0.2, 0.1)
        changed = Change(name=name, previous=was, requested=now, effective=now)
        record = CommandRecord(proposal=proposal, state=State.QUEUED, submitted_seq=1)
        self.probation.acked(record, Ack(outcome="applied", step=step, changes=[changed]))

    def steps(self, first: int, losses: list[float]) -> None:
        for step, loss in enumerate(losses, first):
            self.probation.add(held(step, loss))
            if self.probation.is_check_due:
                self.probation.check(step)
            while self.asked:
                self._answer(self.asked.pop(0), step)


def noise(level: float, count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, 0.03)) for _ in range(count)]


@pytest.mark.parametrize("command", REDEFINING.values(), ids=REDEFINING)
def test_a_change_of_an_agents_that_redefines_the_loss_is_not_judged_by_it(command: dict[str, Any]) -> None:
    desk = Desk(steps=24)
    desk.steps(1, noise(1.0, 100))
    desk.change(100, command, "c")
    desk.steps(101, noise(2.0, 60))
    end = desk.ended["c"]
    assert (end.outcome, end.points) == ("kept", None)
    assert "gave the training loss another meaning" in end.reason


@pytest.mark.parametrize("command", REDEFINING.values(), ids=REDEFINING)
@pytest.mark.parametrize(("after", "outcome"), [(1.02, "kept"), (3.0, "reverted")])
def test_a_change_of_the_rate_after_it_is_judged_by_the_loss_since(
    command: dict[str, Any], after: float, outcome: str
) -> None:
    desk = Desk(steps=24, stall_steps=0)
    desk.steps(1, noise(1.0, 100))
    desk.change(100, command, "c", author="operator")
    desk.steps(101, noise(2.0, 40))
    desk.change(140, RATE, "rate")
    desk.steps(141, noise(2.0 * after, 60, seed=1))
    assert desk.ended["rate"].outcome == outcome
    assert desk.ended["rate"].forecast == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("author", ["operator", "agent"])
def test_a_change_under_watch_is_not_held_for_what_redefines_the_loss_after_it(author: str) -> None:
    desk = Desk(steps=24, stall_steps=0)
    desk.steps(1, noise(1.0, 100))
    desk.change(100, RATE, "rate")
    desk.steps(101, noise(1.0, 12))
    desk.change(112, KNOB, "c", author=author)
    desk.steps(113, noise(4.0, 60))
    assert desk.ended["rate"].outcome == "kept"
    assert "nothing tells of it after 12 of 24 steps" in desk.ended["rate"].reason


def test_harm_before_it_is_still_undone() -> None:
    """An agent does not get a bad rate past its probation by turning a knob afterwards."""
    desk = Desk(goal="eval_accuracy", steps=24, stall_steps=0, evaluations=2)
    for step in range(1, 100, 10):
        desk.steps(step, noise(1.0, 10, step))
        desk.probation.evaluated(step + 9, {"eval_accuracy": 0.9 + 0.001 * (step % 3)})
    desk.change(100, RATE, "rate")
    desk.steps(101, noise(1.0, 5))
    desk.change(105, KNOB, "c")
    for step in range(106, 150, 10):
        desk.steps(step, noise(4.0, 10))
        desk.probation.evaluated(step + 9, {"eval_accuracy": 0.3})
    assert desk.ended["rate"].outcome == "reverted"


@pytest.mark.parametrize(
    ("goal", "command", "outcome"),
    [
        ("eval_accuracy", KNOB, "reverted"),
        ("eval_loss", KNOB, "kept"),
        ("eval_loss", WEIGHTS, "reverted"),
        ("eval_loss", BATCH, "reverted"),
    ],
)
def test_it_is_judged_by_evaluations_whose_meaning_it_left(goal: str, command: dict[str, Any], outcome: str) -> None:
    good, bad = (0.9, 0.3) if goal == "eval_accuracy" else (0.5, 2.0)
    desk = Desk(goal=goal, steps=24, evaluations=2)
    for step in range(1, 100, 10):
        desk.steps(step, noise(1.0, 10, step))
        desk.probation.evaluated(step + 9, {goal: good + 0.001 * (step % 3)})
    desk.change(100, command, "c")
    for step in range(101, 150, 10):
        desk.steps(step, noise(2.0, 10))
        desk.probation.evaluated(step + 9, {goal: bad})
    assert desk.ended["c"].outcome == outcome


@pytest.mark.parametrize("command", REDEFINING.values(), ids=REDEFINING)
def test_a_loss_that_is_not_finite_is_harm_in_any_meaning(command: dict[str, Any]) -> None:
    if command is RESET:
        pytest.skip("no command takes it back")
    desk = Desk(steps=24)
    desk.steps(1, noise(1.0, 100))
    desk.change(100, command, "c")
    desk.steps(101, [math.nan] * 10)
    assert desk.ended["c"].outcome == "reverted"


def test_a_trail_knows_since_when_its_losses_mean_the_same_and_forgets_it_when_the_run_goes_back() -> None:
    loss_history = LossHistory(100)
    for step in range(1, 61):
        loss_history.add(held(step, float(step)))
    loss_history.redefine(20)
    loss_history.redefine(50)
    assert loss_history.until(60, 100) == [float(s) for s in range(51, 61)]
    assert (loss_history.count(60), loss_history.count(50), loss_history.count(40), loss_history.count(15)) == (
        10,
        0,
        20,
        15,
    )
    assert loss_history.lowest(45, 5, 4) == 22.5
    loss_history.cut(40)
    assert loss_history.count(40) == 20
    loss_history.add(held(41, 41.0))
    assert loss_history.until(41, 3) == [39.0, 40.0, 41.0]


# -- the story, with a real Trainer ---------------------------------------------------------------------------------


class Sorter(nn.Module):
    """Learns which of three features is largest; its loss has a share of the target spread, as label smoothing does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights, self.smoothing = nn.Linear(3, 3), 0.0

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.cross_entropy(self.weights(x), labels, label_smoothing=self.smoothing)}


class Largest(Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        self.x = torch.randn(512, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.x[index].argmax()}


class Guarded(TrainerCallback):  # type: ignore[misc]
    """The guardian, looking every so many steps, once the log has them."""

    def __init__(self, bench: Bench, every: int) -> None:
        self._bench, self._every = bench, every
        self._loop: AgentLoop | None = None
        self.control = LocalControl(bench.runs_dir)
        self.seen: list[Observation] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run_id = self.control.runs()[0].run_id
        if self._loop is None:
            wake = WakeSettings(every_steps=1)
            self._loop = AgentLoop(self.control, run_id, load_policy("guardian"), wake, clock_s=lambda: 0.0)
        if state.global_step % self._every:
            return
        deadline = time.monotonic() + 60  # a step is written once its callbacks are done
        while self._written(run_id) < state.global_step - 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self._loop.tick()
        self.seen.append(self.control.observe(run_id))

    def _written(self, run_id: str) -> int:
        view = self.control.observe(run_id).series.get("step_loss")
        return view.steps[-1] if view is not None else -1


def test_guardian_does_not_cut_a_good_run_after_an_operator_smoothed_the_labels(bench: Bench) -> None:
    """Seen: divergence was found, and the rate cut four times, to 1.9e-5."""
    agent, model = Guarded(bench, 15), Sorter()
    result = bench.trainer(
        [At(100, KNOB, "smooth")],
        model=model,
        callbacks=[agent],
        evaluates=False,
        max_steps=220,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        per_device_train_batch_size=16,
    )
    result.trainer.train_dataset = Largest()
    result.trainer.register_knob("label_smoothing", lambda: model.smoothing, lambda v: setattr(model, "smoothing", v))
    result.trainer.train()
    losses = result.series("step_loss")
    assert sum(losses[110:120]) > 1.5 * sum(losses[90:100])
    assert [record.command_id for record in result.records()] == ["smooth"]
    assert agent.seen[-1].redefined_step("step_loss") == 100
    assert not [body for body in result.bodies("found") if body.finding.kind in ("divergence", "spike")]


def test_a_probe_does_not_compare_losses_of_two_meanings(bench: Bench) -> None:
    """A share of smoothed labels of 0 always has the lower loss."""
    probes = [{"kind": "probe", "candidates": [KNOB], "steps": 3, "metric": metric} for metric in ("loss", "goal")]
    model = Sorter()
    result = bench.trainer([At(5, probes[0]), At(6, probes[1])], model=model, evaluates=False, max_steps=12)
    result.trainer.train_dataset = Largest()
    result.trainer.register_knob("label_smoothing", lambda: model.smoothing, lambda v: setattr(model, "smoothing", v))
    result.trainer.train()
    by_loss, by_goal = result.acks()
    assert (by_loss.outcome, by_goal.outcome) == ("failed", "failed")
    assert "gives step_loss another meaning" in by_loss.message
    assert "gives eval_loss another meaning" in by_goal.message
    assert result.bodies("trial_started") == []
