"""Going back with the weights and on with the data: what was trained on since the checkpoint does not come again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from agenttune.protocol.proposals import Ack
from tests.integrations.conftest import Desk, open_newest
from tests.integrations.loops import update
from tests.integrations.test_plain import LOADERS, opened
from tests.trainer.conftest import At, Bench, Result, TinyModel
from tests.trainer.test_branches import SAVE, Doing, Endless, Once, losses, steered
from tests.trainer.test_data_in_training import Interactive, fed, reload

pytestmark = pytest.mark.trainer

ONWARD = {"kind": "load_checkpoint", "checkpoint_id": "mark", "skip_seen_data": True}


class Noting(TinyModel):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.append(x.flatten().tolist())
        return super().forward(x, labels)


def ack_of_return(result: Result) -> Ack:
    return next(r.ack for r in result.records() if r.command.kind == "load_checkpoint" and r.ack is not None)


CASES: dict[str, dict[str, Any]] = {
    "in memory": {"keep_in": "memory"},
    "on disk": {"keep_in": "disk"},
    "left at the end of an epoch": {"leave_at": 40},
    "saved at the end of an epoch": {"save_at": 30},
    "accumulation": {"gradient_accumulation_steps": 2},
    "epochs that end with a smaller group": {"gradient_accumulation_steps": 4, "save_at": 26},
    "warm-up and cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
    "epochs": {"max_steps": -1, "num_train_epochs": 6, "eval_strategy": "epoch"},
    "two workers": {"dataloader_num_workers": 2},
    "left at the last step but one": {"leave_at": 59},
}


@pytest.mark.quick("in memory", "epochs that end with a smaller group", "two workers", "left at the last step but one")
@pytest.mark.parametrize("case", CASES)
def test_the_data_goes_on_where_it_stood(tmp_path: Path, case: str) -> None:
    """As in a run that was not left, and is longer by the steps that were gone back; the end stays where it was."""
    how = dict(CASES[case])
    save_at, leave_at, keep_in = how.pop("save_at", 25), how.pop("leave_at", 45), how.pop("keep_in", "memory")
    back = leave_at - save_at
    longer = how | ({"num_train_epochs": 8} if "num_train_epochs" in how else {"max_steps": 60 + back})
    expected = Noting()
    steered(Bench(tmp_path / "plain"), [], model=expected, **longer)
    model = Noting()
    result = steered(
        Bench(tmp_path / "left"), [At(save_at, {**SAVE, "keep_in": keep_in}), At(leave_at, ONWARD)], model=model, **how
    )
    ack = ack_of_return(result)
    assert (ack.outcome, ack.step) == ("applied", save_at)
    assert "the data goes on where it stood" in ack.message
    assert result.trainer.state.global_step == 60
    assert list(losses(result)["branch-1"]) == list(range(save_at + 1, 61))
    assert model.seen == expected.seen


def test_a_stream_goes_on_too(tmp_path: Path) -> None:
    def train(bench: Bench, orders: Sequence[At], model: Noting, steps: int) -> Result:
        result = bench.trainer([], callbacks=[Once(bench.runs_dir, orders)], model=model, max_steps=steps, data_seed=3)
        result.trainer.train_dataset = Endless(90)
        result.trainer.train()
        return result

    expected, model = Noting(), Noting()
    train(Bench(tmp_path / "plain"), [], expected, 80)
    result = train(Bench(tmp_path / "left"), [At(25, SAVE), At(45, ONWARD)], model, 60)
    assert ack_of_return(result).outcome == "applied"
    assert model.seen == expected.seen


@pytest.mark.quick("shuffled-15", "augmented-12", "weighted-15", "no batches-15", "workers-15")
@pytest.mark.parametrize("left_at", [12, 15])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_loop_of_ones_own_goes_on_too(tmp_path: Path, kind: str, left_at: int) -> None:
    """Six batches an epoch: 12 is an epoch's end."""

    def run(path: Path, orders: list[At], steps: int) -> list[list[float]]:
        torch.manual_seed(5)
        model = Noting()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler, desk = CosineAnnealingLR(optimizer, 40), Desk(path / "runs", orders)
        with opened(path, model, optimizer, scheduler=scheduler, max_steps=steps) as s:
            for batch in s.batches(LOADERS[kind]()):
                rows = (
                    batch if isinstance(batch, dict) else {"x": batch[0].unsqueeze(0), "labels": batch[1].unsqueeze(0)}
                )
                loss = update(model, optimizer, scheduler, rows)
                desk.submit(s.global_step + 1)
                s.step({"loss": loss})
        return model.seen

    orders = [
        At(8, {"kind": "save_checkpoint", "keep_in": "memory", "tag": "mark"}, "save"),
        At(left_at, ONWARD, "load"),
    ]
    expected = run(tmp_path / "alone", [], 20 + left_at - 8)
    seen = run(tmp_path / "left", orders, 20)
    ack = open_newest(tmp_path / "left" / "runs").command("load").ack
    assert ack is not None
    assert (ack.outcome, ack.step) == ("applied", 8), ack.message
    assert seen == expected


def test_where_the_data_was_reloaded_since_there_is_no_place_to_go_on_from(bench: Bench) -> None:
    orders = [At(10, SAVE), At(13, reload(part=7)), At(16, ONWARD), At(18, {**ONWARD, "skip_seen_data": False})]
    result = fed(bench, Interactive(), orders)
    refused, went = (r.ack for r in result.records() if r.command.kind == "load_checkpoint")
    assert refused is not None
    assert refused.outcome == "failed"
    assert "leave out skip_seen_data" in refused.message
    assert went is not None
    assert (went.outcome, went.result["repeats_data"]) == ("applied", True)


def test_a_loop_whose_data_does_not_go_back_says_so(tmp_path: Path) -> None:
    """Asked for or not, it is the same there."""
    acks = []
    for number, skips in enumerate((True, False)):
        model, path = Noting(), tmp_path / str(number)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler, desk = (
            CosineAnnealingLR(optimizer, 40),
            Desk(path / "runs", [At(3, SAVE), At(8, {**ONWARD, "skip_seen_data": skips}, "load")]),
        )
        with opened(path, model, optimizer, scheduler=scheduler, max_steps=12) as s:
            for batch in [batch for _ in range(3) for batch in LOADERS["in order"]()]:
                loss = update(model, optimizer, scheduler, batch)
                desk.submit(s.global_step + 1)
                s.step({"loss": loss})
        acks.append(open_newest(path / "runs").command("load").ack)
    for ack in acks:
        assert ack is not None
        assert (ack.outcome, ack.step, ack.result["repeats_data"]) == ("applied", 3, False)
        assert "the order of the data does not go back" in ack.message


def test_a_return_that_is_only_looked_at_leaves_the_planned_end_alone(bench: Bench) -> None:
    """Another rank may refuse it after this one has found that it could be made."""
    seen: list[bool] = []

    def look() -> None:
        adapter = result.trainer.interactive.adapter
        state = adapter.with_data_of_now(adapter.capture())
        seen.append(state.loop["epoch"] == adapter.feed.epoch and not adapter.plan.is_extended)

    result = bench.trainer([], callbacks=[Doing(20, look)], rows=40, max_steps=-1, num_train_epochs=3)
    result.trainer.train()
    assert seen == [True]
    assert result.trainer.state.global_step == 30
