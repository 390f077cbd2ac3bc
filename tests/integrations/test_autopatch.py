"""A loop that nobody can edit: what hooks can do for it, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import agenttune
from agenttune.errors import UserError
from agenttune.trainer import Options, PatchedLoop
from tests.integrations.conftest import Desk, Trained, Witness, open_newest
from tests.trainer.conftest import At, Points, TinyModel

pytestmark = pytest.mark.trainer


def foreign_loop(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, schedules: int = 1) -> None:
    """Makes its own schedule, evaluates on the way, accumulates two micro-batches."""
    made: list[LRScheduler] = [LambdaLR(optimizer, lambda t: 1 - t / 20) for _ in range(schedules)]
    rows = Points(8)
    for _ in range(steps):
        for half in (slice(0, 4), slice(4, 8)):
            (model(rows.x[half], rows.y[half])["loss"] / 2).backward()
        optimizer.step()
        for schedule in made:
            schedule.step()
        optimizer.zero_grad()
        model.eval()
        model(rows.x, rows.y)
        model.train()


def patched_run(path: Path, orders: list[At], schedules: int = 1, with_model: bool = True, **how: Any) -> Trained:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    witness = Witness()
    options = Options(runs_dir=path / "runs", server=False)
    patched: PatchedLoop = agenttune.autopatch(optimizer, model if with_model else None, options=options, **how)
    witness.watch_optimizer(optimizer)
    witness.watch_model(model)
    desk = Desk(path / "runs", orders)
    optimizer.register_step_post_hook(lambda *_: desk.submit(len(witness.used)))
    try:
        foreign_loop(model, optimizer, 10, schedules)
    finally:
        patched.close()
    return Trained(model, witness, path / "runs")


def test_a_loss_is_the_mean_of_the_steps_micro_batches(tmp_path: Path) -> None:
    trained = patched_run(tmp_path, [])
    losses = trained.witness.losses
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    rows = trained.step_rows()
    assert [row.values["step_loss"] for row in rows] == pytest.approx(means)
    assert [row.values["lr"] for row in rows] == [used[0] for used in trained.witness.used]


@pytest.mark.parametrize("with_model", [True, False])
def test_a_schedule_made_inside_the_loop_is_found_and_keeps_its_shape(tmp_path: Path, with_model: bool) -> None:
    trained = patched_run(tmp_path, [At(4, {"kind": "update_optimizer", "lr": 0.5}, "rate")], with_model=with_model)
    ack = trained.ack("rate")
    assert (ack.outcome, ack.step, ack.confirmed_step) == ("applied", 4, 5)
    used = [rates[0] for rates in trained.witness.used]
    assert used[3:6] == pytest.approx([0.1 * 17 / 20, 0.5, 0.5 * 15 / 16])
    assert trained.step_rows()[-1].values["base_lr"] == pytest.approx(0.5 * 20 / 16)


def test_two_schedules_are_told_and_a_rate_that_does_not_last_is_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = patched_run(tmp_path, [At(4, {"kind": "update_optimizer", "lr": 0.5}, "rate")], schedules=2)
    assert "2 were found" in caplog.text
    assert trained.ack("rate").outcome == "failed"
    assert "something else sets the rate" in trained.ack("rate").message


def test_without_the_model_what_needs_it_is_refused_by_name(tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "read_model"}, "read"),
        At(2, {"kind": "save_checkpoint"}, "save"),
        At(2, {"kind": "load_checkpoint", "checkpoint_id": "x"}, "load"),
        At(2, {"kind": "stop_training"}, "stop"),
        At(3, {"kind": "add_note", "text": "still here"}, "note"),
    ]
    trained = patched_run(tmp_path, orders, with_model=False)
    for name in ("read", "save", "load"):
        assert trained.ack(name).outcome == "failed"
        assert "no model=" in trained.ack(name).message
    assert "can_stop=True" in trained.ack("stop").message
    assert trained.ack("note").outcome == "applied"
    assert "step_loss" not in trained.step_rows()[0].values
    assert len(trained.witness.used) == 10


def test_a_stop_that_is_allowed_leaves_the_loop(tmp_path: Path) -> None:
    with pytest.raises(agenttune.TrainingStopped):
        patched_run(tmp_path, [At(4, {"kind": "stop_training", "save": False}, "stop")], can_stop=True)
    info = open_newest(tmp_path / "runs").info()
    assert (info.status, info.step) == ("stopped", 4)


def test_after_close_the_loop_goes_on_alone(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    patched = agenttune.autopatch(optimizer, model, options=Options(runs_dir=tmp_path, server=False))
    foreign_loop(model, optimizer, 3)
    patched.close()
    foreign_loop(model, optimizer, 2)
    assert open_newest(tmp_path).info().step == 3
    assert not optimizer._optimizer_step_pre_hooks
    assert not model._forward_pre_hooks


def test_wrong_arguments_say_what_is_right() -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"not a torch\.optim\.Optimizer"):
        agenttune.autopatch(model)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"not a torch\.nn\.Module"):
        agenttune.autopatch(optimizer, optimizer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs model="):
        agenttune.autopatch(optimizer, evaluate=dict)


SCRIPT = """
import torch, agenttune
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
agenttune.autopatch(optimizer, model)
for _ in range(3):
    model(torch.ones(4, 2)).mean().backward()
    optimizer.step()
%s
"""


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        pytest.param("", "finished", 0, marks=pytest.mark.slow),  # quicker: the error, beside it
        ("raise ValueError('out of data')", "failed", 1),
    ],
)
def test_the_end_of_the_process_is_the_end_of_the_run(tmp_path: Path, last: str, status: str, code: int) -> None:
    given = {"AGENTTUNE_RUNS_DIR": str(tmp_path), "AGENTTUNE_SERVER_URL": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % last], env=os.environ | given, capture_output=True, check=False
    )
    assert done.returncode == code
    info = open_newest(tmp_path).info()
    assert (info.status, info.step) == (status, 3)
