"""Commands on the training data, by what the Trainer is then fed: in the next batch, and exactly back on a return."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

import agenttune
from agenttune.trainer.datasets.record import read_dataset
from tests.trainer.conftest import At, Bench, Points, Result, TinyModel
from tests.trainer.test_branches import Once, losses, weights

pytestmark = pytest.mark.trainer


class Plain(Dataset[dict[str, torch.Tensor]]):
    """Row `i` of part `part` says so in its inputs; `offset` is added to them."""

    def __init__(self, part: int = 0, rows: int = 40, fail: bool = False) -> None:
        if fail:
            raise OSError("the disk with the data is away")
        self.part, self.rows = part, rows
        self.offset = 0.0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "x": torch.tensor([float(index), float(self.part), float(self.offset), 0.0]),
            "labels": torch.tensor(0.0),
        }


Interactive = agenttune.make_interactive_dataset(Plain, runtime=["offset"])


class Eye(TinyModel):
    """Notes the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.append(x.clone())
        return super().forward(x / 100, labels)


def fed(bench: Bench, dataset: Any, orders: Sequence[At], **how: Any) -> Result:
    once = Once(bench.runs_dir, orders)
    how = {"max_steps": 40, "model": Eye(), "data_seed": 3, "learning_rate": 1e-4, **how}
    callbacks: list[TrainerCallback] = [once]
    result = bench.trainer([], callbacks=callbacks, **how)
    result.trainer.train_dataset = dataset
    result.trainer.train()
    return result


def rows(result: Result) -> list[list[int]]:
    return [batch[:, 0].int().tolist() for batch in result.trainer.model.seen]


def column(result: Result, index: int) -> list[set[float]]:
    return [set(batch[:, index].tolist()) for batch in result.trainer.model.seen]


def runtime(**values: Any) -> dict[str, Any]:
    return {"kind": "update_dataset_runtime_hyperparameters", "values": values}


def reload(**values: Any) -> dict[str, Any]:
    return {"kind": "update_dataset", "values": values}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_runtime_value_is_in_the_very_next_batch(bench: Bench, workers: int) -> None:
    result = fed(bench, Interactive(), [At(13, runtime(offset=0.5))], dataloader_num_workers=workers)
    plain = fed(Bench(bench.path / "plain"), Plain(), [], dataloader_num_workers=workers)
    assert (result.ack.outcome, result.ack.changes[0].previous, result.ack.changes[0].effective) == (
        "applied",
        0.0,
        0.5,
    )
    assert column(result, 2) == [{0.0}] * 13 + [{0.5}] * 27
    assert rows(result) == rows(plain)
    (read_back,) = result.bodies("read_back")
    assert read_back.held
    assert [body.runtime for body in result.bodies("dataset_read")] == [{"offset": 0.0}, {"offset": 0.5}]


@pytest.mark.quick("2")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interactive_dataset_changes_nothing(bench: Bench, workers: int) -> None:
    interactive = fed(bench, Interactive(), [], dataloader_num_workers=workers)
    plain = fed(Bench(bench.path / "plain"), Plain(), [], form="plain", dataloader_num_workers=workers)
    assert rows(interactive) == rows(plain)
    assert all(torch.equal(a, b) for a, b in zip(weights(interactive), weights(plain), strict=True))


@pytest.mark.quick("12-0", "40-2", "100-0")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rows_after", [12, 40, 100])
def test_a_reload_keeps_steps_and_optimizer(bench: Bench, rows_after: int, workers: int) -> None:
    """From the next batch on every row of the new data, epoch after epoch; the run ends where it was to end."""
    orders = [At(13, reload(part=7, rows=rows_after))]
    result = fed(bench, Interactive(), orders, dataloader_num_workers=workers, lr_scheduler_type="linear")
    assert result.ack.outcome == "applied"
    assert column(result, 1) == [{0.0}] * 13 + [{7.0}] * 27
    assert result.trainer.state.global_step == 40
    drawn = [row for batch in rows(result)[13:] for row in batch]
    assert sorted(drawn[:rows_after]) == list(range(rows_after))
    assert min(p.values["lr"] for p in result.log().points(limit=100, sources=["step"])) == pytest.approx(1e-4 / 40)
    moments = next(iter(result.trainer.optimizer.state.values()))
    assert moments["step"] == 40
    (first, second) = result.bodies("dataset_read")
    assert (first.initialization["rows"], second.initialization["rows"], second.size) == (40, rows_after, rows_after)


def test_a_reload_that_fails_leaves_the_old_data_in_place(bench: Bench) -> None:
    orders = [
        At(13, reload(fail=True)),
        At(14, reload(offset=1.0)),
        At(15, reload(nothing=1)),
        At(16, reload(rows="x")),
    ]
    result = fed(bench, Interactive(), orders)
    plain = fed(Bench(bench.path / "plain"), Plain(), [])
    failed, runtime_name, unknown, typed = result.acks()
    assert {ack.outcome for ack in result.acks()} == {"failed"}
    assert "the disk with the data is away" in failed.message
    assert "update_dataset_runtime_hyperparameters" in runtime_name.message
    assert "part" in unknown.message
    assert "rows" in typed.message
    assert rows(result) == rows(plain)


def test_accumulation_goes_on_over_a_reload(bench: Bench) -> None:
    orders = [At(5, reload(rows=14))]
    result = fed(bench, Interactive(rows=36), orders, gradient_accumulation_steps=3, max_steps=12)
    assert len(result.trainer.model.seen) == 36
    assert result.trainer.state.global_step == 12
    assert all(p.values["step_grad_norm"] > 0 for p in result.log().points(limit=100, sources=["step"]))


def test_a_branch_gets_the_data_of_its_checkpoint(bench: Bench) -> None:
    """Rebuilt data and runtime values as well; what follows is what followed the first time."""
    orders = [
        At(6, runtime(offset=0.25)),
        At(13, {"kind": "save_checkpoint", "tag": "mark"}),
        At(17, runtime(offset=0.5)),
        At(20, reload(part=7, rows=12)),
        At(25, {"kind": "load_checkpoint", "checkpoint_id": "mark"}),
    ]
    result = fed(bench, Interactive(), orders)
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 5
    seen = result.trainer.model.seen
    assert len(seen) == 25 + 27
    assert [batch.tolist() for batch in seen[13:17]] == [batch.tolist() for batch in seen[25:29]]
    assert {
        (a, b) for a, b in zip(map(max, column(result, 1)[25:]), map(max, column(result, 2)[25:]), strict=True)
    } == {(0.0, 0.25)}
    main, branch = losses(result)["main"], losses(result)["branch-1"]
    assert {step: main[step] for step in (14, 15, 16, 17)} == {step: branch[step] for step in (14, 15, 16, 17)}
    assert read_dataset(result.trainer.train_dataset).initialization["part"] == 0


class Scaled(Points):
    def __init__(self, count: int, scale: float) -> None:
        super().__init__(count)
        self.y = self.y * scale


@pytest.mark.quick("2")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_shows_the_loss_of_each_source_and_takes_new_weights(bench: Bench, workers: int) -> None:
    sources = {"calm": Scaled(100, 1.0), "wild": Scaled(50, 10.0)}
    mixture = agenttune.Mixture(sources, weights={"calm": 1.0, "wild": 1.0}, size=40, seed=0)
    orders = [
        At(10, runtime(weights={"calm": 0.0, "wild": 3.0})),
        At(13, {"kind": "save_checkpoint", "tag": "mark"}),
        At(20, runtime(weights={"calm": 1.0, "wild": 0.0})),
        At(21, runtime(weights={"calm": 0.0, "wild": 0.0})),
        At(22, runtime(weights={"calm": -1.0, "wild": 2.0})),
        At(25, {"kind": "load_checkpoint", "checkpoint_id": "mark"}),
    ]
    result = fed(bench, mixture, orders, dataloader_num_workers=workers, model=TinyModel())
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 3 + ["failed"] * 2 + ["applied"]
    assert result.acks()[0].changes[0].effective == {"calm": 0.0, "wild": 1.0}
    points = {(p.branch, p.step): p.values for p in result.log().points(limit=1000, sources=["step"])}
    drawn = {place: {n for n in ("calm", "wild") if f"loss/{n}" in v} for place, v in points.items()}
    assert set().union(*(drawn["main", step] for step in range(1, 11))) == {"calm", "wild"}
    assert {frozenset(drawn["main", step]) for step in range(11, 21)} == {frozenset({"wild"})}
    assert {frozenset(drawn["main", step]) for step in range(21, 26)} == {frozenset({"calm"})}
    assert {frozenset(drawn["branch-1", step]) for step in range(14, 41)} == {frozenset({"wild"})}
    for step in range(14, 21):
        assert points["main", step]["step_loss"] == points["branch-1", step]["step_loss"]
        assert points["main", step]["loss/wild"] == pytest.approx(points["main", step]["step_loss"], rel=1e-5)


def test_a_resumed_run_takes_a_runtime_value_in_its_first_epoch(bench: Bench, tmp_path: Path) -> None:
    fed(bench, Interactive(rows=200), [], save_strategy="steps", save_steps=15, max_steps=15)
    bench = Bench(bench.path)
    once = Once(bench.runs_dir, [At(20, runtime(offset=0.5))])
    result = bench.trainer([], callbacks=[once], model=Eye(), max_steps=40, data_seed=3)
    result.trainer.train_dataset = Interactive(rows=200)
    result.trainer.train(resume_from_checkpoint=str(bench.path / "out" / "checkpoint-15"))
    assert column(result, 2) == [{0.0}] * 5 + [{0.5}] * 20
    assert len({row for batch in rows(result) for row in batch}) == 100
