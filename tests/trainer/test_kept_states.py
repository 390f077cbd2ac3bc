"""States that a run keeps by itself to go back to, and a return that changes the rate in the same step."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import TrainerCallback, get_cosine_schedule_with_warmup

from agenttune.control import LocalControl
from agenttune.protocol.events import CheckpointSaved
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.training_state import TrainingState
from tests.integrations.conftest import Trained
from tests.integrations.loops import CallbackLoop, LightningLoop, Loop, OwnDataLoop, PlainLoop, TrainerLoop
from tests.trainer.conftest import At, Bench
from tests.trainer.test_branches import losses, steered

pytestmark = pytest.mark.trainer

BACK = {"kind": "load_checkpoint", "checkpoint_id": "start"}


def kept(trained: Trained) -> list[tuple[str, int]]:
    events = trained.log().events(kinds=["checkpoint_saved"])
    saved = [(event.body, event.step or 0) for event in events]
    return [(body.kept_as, step) for body, step in saved if isinstance(body, CheckpointSaved) and body.kept_as]


def rows(trained: Trained) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in trained.step_rows():
        found.setdefault(row.branch, {})[row.step] = row.values.get("step_loss", row.values.get("loss", 0.0))
    return found


@pytest.mark.parametrize("loop", [TrainerLoop, PlainLoop, OwnDataLoop, LightningLoop], ids=lambda loop: loop.name)
def test_a_run_can_go_back_to_before_its_first_step(loop: type[Loop], tmp_path: Path) -> None:
    trained = loop().train(tmp_path, [At(10, BACK, "back")])
    ack = trained.ack("back")
    assert (ack.outcome, ack.step) == ("applied", 0), ack.message
    found = rows(trained)
    assert min(found["branch-1"]) == 1
    if loop.goes_back == "exactly":
        assert [found["branch-1"][step] for step in range(1, 11)] == [found["main"][step] for step in range(1, 11)]
    alone = loop().train(tmp_path / "alone", attached=False)
    assert alone.witness.losses[:10] == trained.witness.losses[:10]


def test_nothing_is_kept_where_a_run_cannot_go_back(tmp_path: Path) -> None:
    trained = CallbackLoop().train(tmp_path)
    assert kept(trained) == []
    assert trained.bodies("note_added") == []


@pytest.mark.parametrize("loop", [TrainerLoop, PlainLoop, LightningLoop], ids=lambda loop: loop.name)
def test_good_states_are_a_rolling_few(loop: type[Loop], tmp_path: Path) -> None:
    trained = loop().train(tmp_path)
    assert kept(trained)[0] == ("start", 0)
    assert {kept_as for kept_as, _ in kept(trained)} <= {"start", "good"}


def make_log(bench: Bench, monkeypatch: pytest.MonkeyPatch, **rules: Any) -> None:
    """The log that `agenttune run` would make for a config with these sections."""
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    info = RunInfo(run_id="r1", name="r1", status="starting", created_at_s=time.time(), rules=rules)
    RunLog.create(bench.runs_dir / "r1", info).close()


class Proposing(TrainerCallback):  # type: ignore[misc]
    """An agent that asks for a return at steps, the first time they are made."""

    def __init__(self, bench: Bench, step: int, arguments: dict[str, Any], times: int = 1) -> None:
        self.control, self.step, self.times = LocalControl(bench.runs_dir), step, times
        self.command = {"kind": "load_checkpoint", **arguments}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and self.times:
            self.times -= 1
            author = Author(principal="agent", name="tests")
            run = self.control.runs()[0].run_id
            self.control.submit(run, Proposal.model_validate({"command": self.command, "author": author}))


def two_groups(model: Any) -> Any:
    split = [{"params": model.first.parameters(), "lr": 1e-2}, {"params": model.second.parameters(), "lr": 1e-3}]
    return torch.optim.AdamW(split, lr=1e-2)


SCHEDULES: dict[str, Any] = {
    "constant": lambda o: LambdaLR(o, lambda step: 1.0),
    "warm-up and cosine": lambda o: get_cosine_schedule_with_warmup(o, 8, 60),
    "own shape": lambda o: LambdaLR(o, [lambda step: 0.9**step, lambda step: 1.0]),
    "reduce on plateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_return_sets_the_rate_in_the_same_step_under_any_schedule(bench: Bench, kind: str) -> None:
    """Every group keeps its ratio, the first step of the branch uses it, and the schedule goes on from the state."""

    def build(model: nn.Module) -> Any:
        optimizer = two_groups(model)
        return optimizer, SCHEDULES[kind](optimizer)

    orders = [
        At(20, {"kind": "save_checkpoint", "tag": "mark", "keep_in": "memory"}),
        At(25, {"kind": "update_optimizer", "lr": 5e-2}),
        At(30, {"kind": "load_checkpoint", "checkpoint_id": "mark", "lr": 2e-4, "reset_optimizer": True}),
    ]
    evaluating = {"eval_strategy": "steps", "eval_steps": 7, "metric_for_best_model": "loss"}
    how: dict[str, Any] = evaluating if kind == "reduce on plateau" else {}
    result = steered(bench, orders, build=build, **how)
    ack = result.acks()[-1]
    assert (ack.outcome, ack.step, ack.confirmed_step) == ("applied", 20, 21), ack.message
    (change,) = [change for change in ack.changes if change.name == "lr"]
    assert change.base == pytest.approx(2e-4)
    assert ack.result["optimizer_state_cleared"] > 0
    used = {(p.branch, p.step): p.values for p in result.log().points(limit=10_000, sources=["step"])}
    before, after = used["main", 21], used["branch-1", 21]
    expected = 2e-4 * before["lr"] / before["base_lr"]
    assert after["lr"] == pytest.approx(expected)
    assert after["base_lr"] == pytest.approx(2e-4)
    assert change.groups is not None
    assert change.groups[1] / change.groups[0] == pytest.approx(before["lr_1"] / before["lr"])
    assert all(body.held for body in result.bodies("read_back"))


def test_what_is_saved_after_a_return_tells_the_evaluations_of_its_own_way(bench: Bench) -> None:
    orders = [
        At(8, {"kind": "save_checkpoint", "tag": "mark", "keep_in": "memory"}),
        At(14, {"kind": "load_checkpoint", "checkpoint_id": "mark"}),
        At(14, {"kind": "save_checkpoint", "tag": "after", "keep_in": "memory"}),
    ]
    result = steered(bench, orders, max_steps=20, eval_strategy="steps", eval_steps=6)
    evaluations: list[Any] = result.events("evaluated")
    saves: list[Any] = result.events("checkpoint_saved")
    evaluated = {(e.branch, e.step): e.body.metrics["eval_loss"] for e in evaluations}
    saved = {e.body.tag: (e.branch, e.step, e.body.metric) for e in saves}
    assert saved["mark"] == ("main", 8, evaluated["main", 6])
    assert saved["after"] == ("branch-1", 8, evaluated["main", 6])


class Falling:
    """A rate function with a state of its own, which `LambdaLR` saves and loads."""

    def __init__(self) -> None:
        self.keep_frac = 0.99

    def __call__(self, step: int) -> float:
        return float(self.keep_frac**step)


def test_a_return_to_before_a_plan_finds_a_schedule_with_a_state_of_its_own(bench: Bench) -> None:
    def build(model: nn.Module) -> Any:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return optimizer, LambdaLR(optimizer, Falling())

    orders = [
        At(20, {"kind": "save_checkpoint", "tag": "mark", "keep_in": "memory"}),
        At(25, {"kind": "update_schedule", "shape": "cosine", "peak_lr": 2e-2}),
        At(30, {"kind": "load_checkpoint", "checkpoint_id": "mark", "lr": 1e-3}),
    ]
    result = steered(bench, orders, build=build)
    assert result.acks()[-1].outcome == "applied", result.acks()[-1].message
    used = {(p.branch, p.step): p.values for p in result.log().points(limit=10_000, sources=["step"])}
    assert used["branch-1", 25]["lr"] == pytest.approx(1e-3 * 0.99**24)


def test_without_a_rate_a_return_is_exact_and_a_reset_forgets_the_moments(bench: Bench) -> None:
    mark = {"kind": "save_checkpoint", "tag": "mark", "keep_in": "memory"}
    orders = [At(20, mark), At(30, {"kind": "load_checkpoint", "checkpoint_id": "mark", "reset_optimizer": True})]
    found = losses(steered(bench, orders))
    # The loss of a step is that of before its update: the first is the same, then the moments make the difference.
    assert found["branch-1"][21] == found["main"][21]
    assert found["branch-1"][25] != found["main"][25]


@pytest.mark.parametrize(
    ("gate", "lr", "words"),
    [
        ({"bounds": {"lr": [1e-6, 2e-3]}}, 5e-3, "lr 0.005 is outside [1e-06, 0.002]"),
        ({"max_change_factor": 10}, 2e-5, "by more than a factor of 10"),
        ({"max_change_factor": 10}, 2e-4, ""),  # near that of then
        ({"max_change_factor": 10}, 2e-2, ""),  # near that of now
    ],
)
def test_guardrails_judge_the_rate_of_a_return_by_now_and_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, gate: dict[str, Any], lr: float, words: str
) -> None:
    """The rate is 1e-3 in the state, and 5e-2 by an operator's mistake when an agent wants to go back."""
    make_log(bench, monkeypatch, gate=gate)
    mistake = At(20, {"kind": "update_optimizer", "lr": 5e-2}) if "bounds" not in gate else At(99, {})
    result = steered(bench, [mistake], callbacks=[Proposing(bench, 30, {"checkpoint_id": "start", "lr": lr})])
    record = result.records()[-1]
    said = record.ack.message if record.ack is not None else record.verdict.reason if record.verdict is not None else ""
    assert (record.state is State.APPLIED) is (not words), said
    assert words in said
    if words:
        assert list(losses(result)) == ["main"]


def test_agents_cannot_go_back_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(bench, monkeypatch, budgets={"max_returns": 2})
    agent = Proposing(bench, 12, {"checkpoint_id": "start"}, times=3)
    steered(bench, [], callbacks=[agent], max_steps=20)
    log = RunLog.open(bench.runs_dir / "r1")
    *done, last = log.commands()
    assert [record.state for record in done] == [State.APPLIED] * 2
    assert last.state is State.REJECTED
    assert last.verdict is not None
    assert "gone back to a checkpoint 2 times in this run, and budgets.max_returns allows 2" in last.verdict.reason


def test_people_can_go_back_however_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(bench, monkeypatch, budgets={"max_returns": 0})
    result = steered(bench, [At(12, BACK)], max_steps=20)
    assert [ack.outcome for ack in result.acks()] == ["applied"]


def test_ones_own_checkpoint_of_such_a_tag_comes_first(bench: Bench) -> None:
    orders = [At(15, {"kind": "save_checkpoint", "tag": "start"}), At(20, BACK)]
    assert steered(bench, orders).acks()[-1].step == 15


@pytest.mark.quick("adamw_torch")
@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_a_run_without_them_is_the_same_to_the_bit_and_so_are_ones_own_checkpoints(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    """With dropout and shuffling; the caps hold only what was asked for."""
    saves = [At(step, {"kind": "save_checkpoint", "keep_in": "memory"}) for step in (5, 6, 7, 8)]
    found = []
    for i, keep_states in enumerate((True, False)):
        here = Bench(bench.path / str(i))
        make_log(here, monkeypatch, checkpoints={"keep_states": keep_states})
        result = steered(here, saves, max_steps=30, eval_strategy="steps", eval_steps=6, optim=optim)
        kinds = ["checkpoint_saved", "checkpoint_deleted"]
        found.append((losses(result), [(e.step, e.body.kind) for e in result.events(*kinds)]))
        saved = [e.body for e in result.log().events(kinds=["checkpoint_saved"]) if isinstance(e.body, CheckpointSaved)]
        names = {body.kept_as for body in saved}
        assert names == ({"", "start", "best", "good"} if keep_states else {""})
    assert found[0] == found[1]


def test_what_the_run_keeps_makes_room_for_ones_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory allowed holds two snapshots; the run's go to disk within the cap, and no file is left at the end."""
    monkeypatch.setattr("agenttune.trainer.checkpoints.checkpoint_catalog.GIB", 500)  # 4 GiB of memory are 2 kB
    make_log(bench, monkeypatch, checkpoints={"max_gib": None})
    saves = [At(step, {"kind": "save_checkpoint", "keep_in": "memory", "tag": f"at-{step}"}) for step in (15, 16)]
    result = steered(bench, saves, max_steps=30)
    assert [ack.outcome for ack in result.acks()] == ["applied", "applied"]
    log = result.log()
    gone = {e.body.checkpoint_id: e.body.reason for e in log.events(kinds=["checkpoint_deleted"])}  # type: ignore[union-attr]
    own = [e.body.checkpoint_id for e in result.events("checkpoint_saved")]  # type: ignore[union-attr]
    assert not set(own) & set(gone)
    assert "to leave the memory to the checkpoints of commands" in gone.values()
    folder = bench.runs_dir / "r1" / "checkpoints"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_state_shares_the_rows_of_the_loops_own_log_however_many_there_are(bench: Bench) -> None:
    """Copied row by row they would make each state of a long run dearer than the last."""
    result = bench.trainer(max_steps=4)
    seen: list[Any] = []

    class Looks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                seen.append(result.trainer.interactive.adapter.capture().copied())

    result.trainer.add_callback(Looks())
    result.trainer.train()
    rows, kept = result.trainer.state.log_history, seen[0].loop["trainer_state"]["log_history"]
    assert [row["step"] for row in kept if "loss" in row] == [1, 2]
    assert all(row is other for row, other in zip(kept, rows, strict=False))
    assert len(rows) > len(kept)
    assert type(pickle.loads(pickle.dumps(kept))) is list


def test_a_copy_shares_nothing_that_can_be_written_to() -> None:
    numbers, tensor, plain = np.zeros(2), torch.zeros(2), tuple(range(625))
    drawn = {"opened": {"rng": {"python": (3, plain, None), "numpy": ("MT19937", numbers), "torch": [tensor]}}}
    copied = TrainingState(0, {}, {}, extra={"draws": drawn}).copied()
    numbers += 1
    tensor += 1
    rng = copied.extra["draws"]["opened"]["rng"]
    assert rng["python"] == (3, plain, None)
    assert not rng["numpy"][1].any()
    assert not rng["torch"][0].any()
