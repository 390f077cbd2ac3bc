"""`auto_find_batch_size`: what was trained with a batch that did not fit is one branch, what follows another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainer.conftest import At, Bench, TinyModel
from tests.trainer.test_branches import Once, losses

pytestmark = pytest.mark.trainer


class Hungry(TinyModel):
    """Out of memory at its n-th training batch, as often as given."""

    def __init__(self, *at: int) -> None:
        super().__init__()
        self.at = list(at)
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training:
            self.sizes.append(len(x))
            if self.at and len(self.sizes) == self.at[0]:
                self.at.pop(0)
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x, labels)


HOW: dict[str, Any] = {"auto_find_batch_size": True, "per_device_train_batch_size": 16, "max_steps": 6}


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_each_restart_is_a_branch_of_its_own(bench: Bench, form: str) -> None:
    result = bench.run(model=Hungry(4, 7), form=form, rows=256, **HOW)
    found = {branch: list(steps) for branch, steps in losses(result).items()}
    assert found == {"main": [1, 2, 3], "branch-1": [1, 2], "branch-2": [1, 2, 3, 4, 5, 6]}
    started = [(b.name, b.parent, b.from_step) for b in result.bodies("branch_started")]
    assert started == [("branch-1", "main", 0), ("branch-2", "branch-1", 0)]
    log = result.log()
    assert log.info().branch == "branch-2"
    assert log.info().status == "finished"
    notes = [body.text for body in result.bodies("note_added")]
    assert "out of memory, now with batches of 14" in notes[0]
    assert notes[0].endswith("it keeps the weights as they stand; steps 1 to 3 of main are left behind")
    assert {row.branch for row in log.points(limit=1000, sources=["log"]) if "loss" in row.values} == set(found)


def test_memory_that_runs_out_before_the_first_step_leaves_nothing_behind(bench: Bench) -> None:
    result = bench.run(model=Hungry(1), rows=256, **HOW)
    assert {branch: list(steps) for branch, steps in losses(result).items()} == {"main": [1, 2, 3, 4, 5, 6]}
    assert result.bodies("branch_started") == []


def test_commands_work_on_and_who_waits_is_answered(bench: Bench) -> None:
    """A rate that was set but not confirmed is answered; its checkpoints go aside; the new branch can be steered."""
    orders = [
        At(3, {"kind": "update_optimizer", "lr": 5e-4}, "unconfirmed"),
        At(5, {"kind": "update_optimizer", "lr": 2e-4}, "later"),
        At(6, {"kind": "save_checkpoint", "tag": "mark"}, "save"),
        At(7, {"kind": "load_checkpoint", "checkpoint_id": "mark"}, "load"),
    ]
    how = {**HOW, "max_steps": 9, "save_strategy": "steps", "save_steps": 2}
    result = bench.run(model=Hungry(4), rows=256, callbacks=[Once(bench.runs_dir, orders)], **how)
    acks = result.acks()
    assert [(ack.outcome, ack.branch) for ack in acks] == [
        ("applied", "main"),
        ("applied", "branch-1"),
        ("applied", "branch-1"),
        ("applied", "branch-2"),
    ]
    assert "begun again" in acks[0].message
    out = bench.path / "out"
    assert [str(path.relative_to(out)) for path in sorted(out.glob("branches/*/*"))] == ["branches/main/checkpoint-2"]
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 4, 6, 8, 9)]
    assert list(losses(result)["branch-2"]) == [7, 8, 9]
