"""Going back to a checkpoint inside the running process: what follows is what followed the first time, to the bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from agenttune.protocol.proposals import Ack
from agenttune.store.run_log import RunLog
from agenttune.trainer.checkpoints.manifest import MANIFEST
from tests.trainer.conftest import At, Bench, Points, Result, Submitter, TinyModel
from tests.trainer.test_actions import paused_run

pytestmark = pytest.mark.trainer

SAVE = {"kind": "save_checkpoint", "tag": "mark"}
LOAD = {"kind": "load_checkpoint", "checkpoint_id": "mark"}


class Once(Submitter):
    """Each order is given the first time only that its step ends."""

    def submit(self, step: int) -> None:
        super().submit(step)
        self.orders = [order for order in self.orders if order.step != step]


Act = Callable[[Result], None]
Losses = dict[int, float]


class Doing(TrainerCallback):  # type: ignore[misc]
    """Calls something at the end of a step, the first time."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act, self.done = step, act, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and not self.done:
            self.done = True
            self.act()


def steered(bench: Bench, orders: Sequence[At], callbacks: Sequence[TrainerCallback] = (), **how: Any) -> Result:
    once = Once(bench.runs_dir, orders)
    return bench.run([], callbacks=[*callbacks, once], **{"max_steps": 60, "rows": 40, "data_seed": 3, **how})


def losses(result: Result) -> dict[str, dict[int, float]]:
    """Step losses by branch and step."""
    found: dict[str, dict[int, float]] = {}
    for point in result.log().points(limit=100_000, sources=["step"]):
        found.setdefault(point.branch, {})[point.step] = point.values["step_loss"]
    return found


def weights(result: Result) -> list[torch.Tensor]:
    return [p.detach() for p in result.trainer.model.parameters()]


def assert_as_never_left(result: Result, plain: Result, expected: dict[int, float], back_to: int, left_at: int) -> None:
    """Both passes over the steps are equal, and equal to a run that was never interrupted, to the bit."""
    by_branch = losses(result)
    main, branch = by_branch["main"], by_branch["branch-1"]
    assert list(main) == list(range(1, left_at + 1))
    assert list(branch) == list(range(back_to + 1, max(expected) + 1))
    assert main | branch == expected
    assert {step: main[step] for step in main if step > back_to} == {s: branch[s] for s in branch if s <= left_at}
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))


CASES: dict[str, dict[str, Any]] = {
    "shuffling and dropout": {},
    "saved at the end of an epoch": {"save_at": 30},
    "left at the end of an epoch": {"leave_at": 40},
    "accumulation": {"gradient_accumulation_steps": 2},
    "epochs that end with a smaller group": {"gradient_accumulation_steps": 4, "save_at": 26},
    "warm-up and cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
    "planned evaluations": {"eval_strategy": "steps", "eval_steps": 9},
    "reduce on plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 3},
    "epochs": {"max_steps": -1, "num_train_epochs": 6, "eval_strategy": "epoch"},
    "two workers": {"dataloader_num_workers": 2},
    "left at the last step but one": {"leave_at": 59},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], tuple[Result, Losses]]:
    """The run that was never left, once for all that are compared with it."""
    known: dict[str, tuple[Result, Losses]] = {}

    def run(how: dict[str, Any]) -> tuple[Result, Losses]:
        if repr(how) not in known:
            plain = Bench(tmp_path_factory.mktemp("plain")).run(
                [], **{"max_steps": 60, "rows": 40, "data_seed": 3, **how}
            )
            known[repr(how)] = plain, losses(plain)["main"]
        return known[repr(how)]

    return run


@pytest.mark.quick(
    "shuffling and dropout-*",
    "accumulation-memory",
    "epochs that end with a smaller group-disk",
    "reduce on plateau-disk",
    "two workers-disk",
    "left at the last step but one-memory",
)
@pytest.mark.parametrize("keep_in", ["disk", "memory"])
@pytest.mark.parametrize("case", CASES)
def test_a_branch_continues_exactly(
    bench: Bench, uninterrupted: Callable[[dict[str, Any]], tuple[Result, Losses]], case: str, keep_in: str
) -> None:
    how = dict(CASES[case])
    save_at, leave_at = how.pop("save_at", 25), how.pop("leave_at", 45)
    if case == "two workers" and keep_in == "memory":
        pytest.skip("the place of the state does not matter to workers")
    plain, expected = uninterrupted(how)
    result = steered(bench, [At(save_at, {**SAVE, "keep_in": keep_in}), At(leave_at, LOAD)], **how)
    saved, loaded = result.acks()
    assert (saved.outcome, saved.step, loaded.outcome, loaded.step) == ("applied", save_at, "applied", save_at)
    assert_as_never_left(result, plain, expected, save_at, leave_at)
    ours = [row for row in result.trainer.state.log_history if "loss" in row]
    theirs = [row for row in plain.trainer.state.log_history if "loss" in row]
    assert [(row["step"], row["epoch"]) for row in ours] == [(row["step"], row["epoch"]) for row in theirs]


class Endless(IterableDataset[dict[str, torch.Tensor]]):
    """A stream without a length; short ones are begun again by the loop."""

    def __init__(self, count: int) -> None:
        self.points = Points(count)

    def __iter__(self) -> Any:
        return (self.points[i] for i in range(len(self.points)))


@pytest.mark.parametrize("count", [1000, 90], ids=["longer than the run", "wraps around"])
def test_a_stream_without_a_length_is_put_back_too(bench: Bench, count: int) -> None:
    def train(orders: Sequence[At]) -> Result:
        result = bench.trainer([], callbacks=[Once(bench.runs_dir, orders)], max_steps=60, data_seed=3)
        result.trainer.train_dataset = Endless(count)
        result.trainer.train()
        return result

    plain = train([])
    expected = losses(plain)["main"]
    shutil.rmtree(bench.path)
    result = train([At(25, SAVE), At(45, LOAD)])
    assert [ack.outcome for ack in result.acks()] == ["applied", "applied"]
    assert_as_never_left(result, plain, expected, 25, 45)


def test_what_was_steered_since_is_as_it_was(bench: Bench) -> None:
    """Learning rate, weight decay, clipping, steps and knobs go back with the weights."""
    held = {"temperature": 1.0}
    orders = [
        At(20, {"kind": "update_optimizer", "lr": 5e-4, "weight_decay": 0.05}),
        At(21, {"kind": "update_training", "max_grad_norm": 0.5}),
        At(25, SAVE),
        At(30, {"kind": "update_optimizer", "lr": 1e-4, "weight_decay": 0.5}),
        At(31, {"kind": "update_training", "max_grad_norm": 2.0, "max_steps": 70}),
        At(32, {"kind": "set_knob", "name": "temperature", "value": 0.1}),
        At(45, LOAD),
    ]
    once = Once(bench.runs_dir, orders)
    result = bench.trainer([], callbacks=[once], max_steps=60, rows=40, lr_scheduler_type="constant")
    result.trainer.register_knob(
        "temperature", lambda: held["temperature"], lambda value: held.update(temperature=value)
    )
    result.trainer.train()
    loaded = result.acks()[-1]
    assert {(c.name, c.previous, c.effective) for c in loaded.changes} == {
        ("max_grad_norm", 2.0, 0.5),
        ("max_steps", 70, 60),
        ("temperature", 0.1, 1.0),
    }
    assert held["temperature"] == 1.0
    assert result.trainer.state.global_step == 60
    branch = [p for p in result.log().points(limit=1000, sources=["step"]) if p.branch == "branch-1"]
    assert {p.values["lr"] for p in branch} == {5e-4}
    assert {group["weight_decay"] for group in result.trainer.optimizer.param_groups} == {0.05, 0.0}
    assert result.trainer.args.max_grad_norm == 0.5


def test_the_lineage_is_in_the_log(bench: Bench) -> None:
    orders = [
        At(10, SAVE),
        At(20, {**LOAD, "branch_name": "lower"}),
        At(30, {"kind": "save_checkpoint", "tag": "later"}),
        At(40, {"kind": "load_checkpoint", "checkpoint_id": "later"}),
        At(50, LOAD),
    ]
    result = steered(bench, orders)
    log = result.log()
    first, later = (body.checkpoint_id for body in result.bodies("checkpoint_saved"))
    started = [(b.name, b.parent, b.from_step, b.checkpoint_id) for b in result.bodies("branch_started")]
    assert started == [
        ("lower", "main", 10, first),
        ("branch-2", "lower", 30, later),
        ("branch-3", "main", 10, first),
    ]
    assert log.info().branch == "branch-3"
    assert [(s.branch, s.last_step) for s in log.lineage("branch-2").segments] == [
        ("main", 10),
        ("lower", 30),
        ("branch-2", None),
    ]
    assert [ack.branch for ack in result.acks()] == ["main", "lower", "lower", "branch-2", "branch-3"]
    steps = {branch: (min(found), max(found)) for branch, found in losses(result).items()}
    assert steps == {"main": (1, 20), "lower": (11, 40), "branch-2": (31, 50), "branch-3": (11, 60)}


def refused(result: Result) -> Ack:
    ack = result.acks()[-1]
    assert ack.outcome == "failed"
    assert result.trainer.state.global_step == 60
    assert [body.name for body in result.bodies("branch_started")] == []
    assert list(losses(result)["main"]) == list(range(1, 61))
    return ack


def test_an_unknown_checkpoint_lists_those_there_are(bench: Bench) -> None:
    result = steered(bench, [At(5, SAVE), At(20, {"kind": "load_checkpoint", "checkpoint_id": "../../etc"})])
    saved = result.bodies("checkpoint_saved")[0].checkpoint_id
    assert f"no checkpoint '../../etc' in this run; newest: {saved}" in refused(result).message


def test_a_name_of_a_branch_is_used_once(bench: Bench) -> None:
    result = steered(bench, [At(5, SAVE), At(20, {**LOAD, "branch_name": "main"})])
    assert "there is a branch 'main' already" in refused(result).message


def shorten(folder: Path) -> None:
    path = folder / "optimizer.pt"
    os.truncate(path, path.stat().st_size // 2)


def forget_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def scramble(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def other_model(folder: Path) -> None:
    """The same files, of a wider model."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["first.weight"] = torch.zeros(16, 4)
    save_file(tensors, folder / "model.safetensors")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["model.safetensors"] = (folder / "model.safetensors").stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is gone"),
        (shorten, "optimizer.pt should have"),
        (forget_weights, "model.safetensors should have"),
        (scramble, "agenttune.json cannot be read"),
        (other_model, "checkpoint of another model: it has other shapes for first.weight"),
    ],
)
def test_a_bad_checkpoint_is_refused_and_training_goes_on(
    bench: Bench, damage: Callable[[Path], None], words: str
) -> None:
    def act() -> None:
        (folder,) = (bench.runs_dir).glob("*/checkpoints/*")
        damage(folder)

    result = steered(bench, [At(5, SAVE), At(20, LOAD)], callbacks=[Doing(20, act)])
    assert words in refused(result).message


def test_a_save_that_the_disk_does_not_take_leaves_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agenttune.trainer.checkpoints.checkpoint_files.torch.save", full)
    result = steered(bench, [At(20, SAVE)])
    assert "No space left on device" in refused(result).message
    assert list(bench.runs_dir.glob("*/checkpoints/*")) == []
    assert list(bench.runs_dir.glob("*/checkpoints/.*")) == []


def test_what_a_killed_process_left_is_no_checkpoint(bench: Bench) -> None:
    def half() -> None:
        (run,) = bench.runs_dir.iterdir()
        (run / "checkpoints" / ".main-9-abc.77").mkdir(parents=True)

    result = steered(bench, [At(20, SAVE)], callbacks=[Doing(10, half)])
    (saved,) = result.bodies("checkpoint_saved")
    assert [path.name for path in Path(saved.path).parent.iterdir()] == [saved.checkpoint_id]


def test_checkpoints_of_a_plain_trainer_are_a_first_branch(bench: Bench) -> None:
    plain = bench.run([], form="plain", max_steps=60, rows=40, data_seed=3, save_strategy="steps", save_steps=25)
    (bench.path / "out" / "checkpoint-7").mkdir()  # half-written: no trainer_state.json
    result = steered(bench, [At(40, {"kind": "load_checkpoint", "checkpoint_id": "checkpoint-25"})])
    assert [b.checkpoint_id for b in result.bodies("checkpoint_saved")] == [
        "checkpoint-25",
        "checkpoint-50",
        "checkpoint-60",
    ]
    assert [ack.outcome for ack in result.acks()] == ["applied"]
    assert losses(result)["branch-1"][26] == losses(result)["main"][26]
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))


def test_the_trainers_own_checkpoints_of_two_branches_do_not_mix(bench: Bench) -> None:
    result = steered(bench, [At(25, SAVE), At(45, LOAD)], save_strategy="steps", save_steps=20)
    events: list[tuple[Any, Any]] = [(event, event.body) for event in result.events("checkpoint_saved")]
    moved = {body.checkpoint_id: Path(body.path) for body in result.bodies("checkpoint_moved")}
    output_dir = bench.path / "out"
    lies = [(moved.get(body.checkpoint_id, Path(body.path)), event.step, event.branch) for event, body in events]
    assert [(path.relative_to(output_dir), branch) for path, _, branch in lies if output_dir in path.parents] == [
        (Path("checkpoint-20"), "main"),
        (Path("branches/main/checkpoint-40"), "main"),
        (Path("checkpoint-40"), "branch-1"),
        (Path("checkpoint-60"), "branch-1"),
    ]
    for path, step, branch in lies:
        manifest = json.loads((path / MANIFEST).read_text())
        assert (manifest["step"], manifest["branch"]) == (step, branch)


def test_a_resumed_run_can_go_back_before_its_start(bench: Bench) -> None:
    plain = bench.run([], max_steps=60, rows=40, data_seed=3, save_strategy="steps", save_steps=25)
    shutil.rmtree(bench.runs_dir)
    orders = [At(53, {"kind": "load_checkpoint", "checkpoint_id": "checkpoint-25"})]
    result = bench.trainer([], callbacks=[Once(bench.runs_dir, orders)], max_steps=60, rows=40, data_seed=3)
    result.trainer.train(resume_from_checkpoint=str(bench.path / "out" / "checkpoint-50"))
    assert result.ack.outcome == "applied"
    assert list(losses(result)["main"]) == [51, 52, 53]
    assert list(losses(result)["branch-1"]) == list(range(26, 61))
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))


def test_early_stopping_counts_again_from_where_it_was(bench: Bench) -> None:
    how: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "steps",
        "save_steps": 5,
        "load_best_model_at_end": True,
        "learning_rate": 0.0,
    }
    result = steered(bench, [At(12, SAVE), At(17, LOAD)], callbacks=[EarlyStoppingCallback(4)], **how)
    # Of evaluations at 5, 10, 15 and, after the return to 12, at 15, 20, 25, the fourth without a gain ends it.
    assert result.trainer.state.global_step == 25


def test_while_paused_a_return_is_made_at_once(bench: Bench) -> None:
    orders: list[dict[str, Any]] = [
        SAVE,
        {"kind": "update_optimizer", "lr": 5e-4},
        {**LOAD, "branch_name": "again"},
        {"kind": "do_evaluate"},
        {"kind": "save_checkpoint", "tag": "second", "keep_in": "memory"},
        {"kind": "load_checkpoint", "checkpoint_id": "second"},
        {"kind": "resume_training"},
    ]
    result, operator = paused_run(bench, orders, lr_scheduler_type="constant")
    assert [state for _, state, _ in operator.answers] == ["applied"] * len(orders)
    assert [(a.step, a.branch) for a in result.acks()][3:7] == [
        (4, "again"),
        (4, "again"),
        (4, "again"),
        (4, "branch-2"),
    ]
    assert [b.status for b in result.bodies("status_changed")] == ["running", "paused", "running", "finished"]
    branch = [p for p in result.log().points(limit=100, sources=["step"]) if p.branch == "branch-2"]
    assert [p.step for p in branch] == list(range(5, 13))
    assert {p.values["lr"] for p in branch} == {1e-3}
    assert [row["step"] for row in result.trainer.state.log_history if "loss" in row] == list(range(1, 13))


def test_a_paused_run_can_be_stopped_after_a_return(bench: Bench) -> None:
    orders: list[dict[str, Any]] = [SAVE, LOAD, {"kind": "stop_training", "save": False}]
    result, operator = paused_run(bench, orders)
    assert [state for _, state, _ in operator.answers] == ["applied"] * 3
    assert (result.log().info().status, result.trainer.state.global_step) == ("stopped", 4)


def test_commands_of_one_step_apply_in_order(bench: Bench) -> None:
    """The save has the old rate, although the new one was asked for in the same step; and two returns are made."""
    orders = [
        At(20, SAVE),
        At(20, {"kind": "update_optimizer", "lr": 5e-4}),
        At(30, LOAD),
        At(30, {**LOAD, "branch_name": "last"}),
        At(30, {"kind": "update_optimizer", "weight_decay": 0.3}),
    ]
    result = steered(bench, orders, lr_scheduler_type="constant")
    assert [(a.outcome, a.branch) for a in result.acks()] == [
        ("applied", "main"),
        ("applied", "main"),
        ("applied", "branch-1"),
        ("applied", "last"),
        ("applied", "last"),
    ]
    rates = {p.branch: p.values["lr"] for p in result.log().points(limit=1000, sources=["step"])}
    assert rates == {"main": 5e-4, "last": 1e-3}
    assert result.trainer.optimizer.param_groups[0]["weight_decay"] == 0.3


class Sized(TinyModel):
    """About 100 kB of weights, 300 kB with Adam's moments."""

    def __init__(self) -> None:
        super().__init__()
        self.ballast = torch.nn.Linear(160, 160)


def test_the_disk_cap_keeps_what_matters(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted are the oldest, but for the pinned, the best, the newest and those that a branch stands on."""
    monkeypatch.setattr("agenttune.trainer.checkpoints.checkpoint_catalog.GIB", 20_000)  # the cap of 20 is 400 kB
    orders = [At(step, {"kind": "save_checkpoint", "tag": f"at-{step}"}) for step in range(2, 60, 4)]
    orders += [At(3, {"kind": "save_checkpoint", "tag": "pinned", "pin": True})]
    orders += [At(8, {"kind": "load_checkpoint", "checkpoint_id": "at-6"})]
    result = steered(bench, orders, model=Sized(), eval_strategy="steps", eval_steps=10)
    saved = {b.checkpoint_id: b for b in result.bodies("checkpoint_saved")}
    deleted = [b.checkpoint_id for b in result.bodies("checkpoint_deleted")]
    left = [b.tag for name, b in saved.items() if name not in deleted]
    assert {"pinned", "at-6", "at-54", "at-58"} <= set(left)
    assert "at-2" in {saved[name].tag for name in deleted}
    assert all(Path(b.path).is_dir() == (name not in deleted) for name, b in saved.items())
    best = min((b for b in saved.values() if b.metric is not None), key=lambda b: b.metric)
    assert best.checkpoint_id not in deleted
    assert all(
        b.size_bytes == sum(f.stat().st_size for f in Path(b.path).iterdir()) for b in saved.values() if b.tag in left
    )


def test_a_snapshot_too_large_for_its_budget_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenttune.trainer.checkpoints.checkpoint_catalog.GIB", 100)
    result = steered(bench, [At(20, {**SAVE, "keep_in": "memory"})])
    assert "checkpoints.memory_gib allows 4" in refused(result).message


def test_a_snapshot_is_not_changed_by_training(bench: Bench) -> None:
    """Back to the same snapshot twice: the same steps twice."""
    result = steered(bench, [At(20, {**SAVE, "keep_in": "memory"}), At(30, LOAD), At(40, LOAD)])
    first, second = losses(result)["branch-1"], losses(result)["branch-2"]
    assert {s: second[s] for s in first} == first
    assert len(first) == 20


def test_snapshots_do_not_share_memory(bench: Bench) -> None:
    """The memory of the next one is made ready in advance, and each has its own."""
    orders = [At(step, {**SAVE, "tag": f"at-{step}", "keep_in": "memory"}) for step in (10, 20, 30)]
    loads = [At(35, {"kind": "load_checkpoint", "checkpoint_id": f"at-{step}"}) for step in (10, 20, 30)]
    result = steered(bench, [*orders, *loads])
    plain, found = losses(result)["main"], losses(result)
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 6
    assert all(found["branch-3"][step] == plain[step] for step in range(31, 36))
    assert [result.bodies("branch_started")[i].from_step for i in range(3)] == [10, 20, 30]


def test_a_loop_that_cannot_says_so(bench: Bench) -> None:
    result = steered(bench, [At(10, SAVE), At(20, LOAD)], form="callback")
    assert [ack.outcome for ack in result.acks()] == ["applied", "failed"]
    assert "make_interactive" in result.acks()[-1].message


def test_transformers_can_resume_from_it(bench: Bench) -> None:
    """The files are the Trainer's own: a run that is resumed from one ends as the run did that saved it."""
    result = steered(bench, [At(25, SAVE)])
    path = result.bodies("checkpoint_saved")[0].path
    again = Trainer(model=TinyModel(), args=bench.arguments(max_steps=60, data_seed=3), train_dataset=Points(40))
    again.train(resume_from_checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(weights(result), again.model.parameters(), strict=True))


def test_nothing_of_the_log_is_lost_on_the_way(bench: Bench) -> None:
    result = steered(bench, [At(25, SAVE), At(45, LOAD)])
    log: RunLog = result.log()
    assert [e.seq for e in log.events(limit=10_000)] == list(range(1, log.last_seq() + 1))
    assert len(log.points(limit=1000, sources=["step"])) == 45 + 35


def test_layers_go_back_too(bench: Bench) -> None:
    """Dropout, what is trained, re-made weights and their moments: a branch stands where the checkpoint stood."""
    plain = bench.run([], max_steps=60, rows=40, data_seed=3)
    expected = losses(plain)["main"]
    shutil.rmtree(bench.path)
    layer = {"kind": "model_layer_operation", "layer_name": "first"}
    orders = [
        At(25, SAVE),
        At(30, {"kind": "model_layer_parameter_update", "layer_name": "drop", "param_name": "p", "value": 0.5}),
        At(32, {**layer, "operation_name": "reset_parameters"}),
        At(34, {**layer, "operation_name": "requires_grad_", "params": {"requires_grad": False}}),
        At(45, LOAD),
    ]
    result = steered(bench, orders)
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 5
    branch = losses(result)["branch-1"]
    assert branch == {step: expected[step] for step in branch}
    assert losses(result)["main"][40] != expected[40]
    assert all(torch.equal(a, b) for a, b in zip(weights(result), weights(plain), strict=True))
    assert {c.name for c in result.acks()[-1].changes} == {
        "drop.p",
        "first.weight.requires_grad",
        "first.bias.requires_grad",
    }


def test_a_value_that_does_not_go_back_is_told_and_training_goes_on(bench: Bench) -> None:
    held = {"valve": 1.0}

    def write(value: float) -> None:
        if value == 1.0 and held["valve"] == 2.0:
            raise OSError("the valve is stuck")
        held["valve"] = value

    orders = [At(25, SAVE), At(30, {"kind": "set_knob", "name": "valve", "value": 2.0}), At(45, LOAD)]
    result = bench.trainer([], callbacks=[Once(bench.runs_dir, orders)], max_steps=60, rows=40)
    result.trainer.register_knob("valve", lambda: held["valve"], write)
    result.trainer.train()
    ack = result.acks()[-1]
    assert (ack.outcome, ack.branch, ack.step) == ("failed", "branch-1", 25)
    assert "went back as branch branch-1, but not all went back: OSError: the valve is stuck" in ack.message
    assert list(losses(result)["branch-1"]) == list(range(26, 61))


def test_a_return_is_read_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were not put back are no applied return."""
    monkeypatch.setattr("agenttune.trainer.integrations.hf_state.restore_model", lambda model, saved: None)
    result = steered(bench, [At(25, SAVE), At(45, LOAD)])
    ack = result.acks()[-1]
    assert ack.outcome == "failed"
    assert "do not stand as saved: first.bias, first.weight" in ack.message
