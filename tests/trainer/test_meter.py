"""Rows are made of several steps at once, and lose nothing by that; an accelerator is asked seldom."""

from __future__ import annotations

import math

import pytest
import torch

from agenttune.points import Row
from agenttune.trainer.meter import DRAIN_STEPS, StepMeter

pytestmark = pytest.mark.trainer


def steps(meter: StepMeter, losses: list[float]) -> list[Row]:
    rows: list[Row] = []
    for step, loss in enumerate(losses, start=1):
        for _ in range(2):
            meter.add_batch({"input_ids": torch.zeros(3, 5)})
            meter.add_loss(torch.tensor(loss / 2))
        meter.set_norm(torch.tensor(2.0 * step))
        rows += meter.finish(step, 0.1, 0.2)
    return rows


@pytest.mark.parametrize("on_accelerator", [True, False])
def test_every_step_has_its_row(on_accelerator: bool) -> None:
    losses = [float(n) for n in range(DRAIN_STEPS + 3)]
    meter = StepMeter(on_accelerator)
    rows = steps(meter, losses)
    assert len(rows) >= DRAIN_STEPS
    rows += meter.drain()
    assert [row.step for row in rows] == list(range(1, DRAIN_STEPS + 4))
    assert [row.values["step_loss"] for row in rows] == losses
    assert [row.values["step_grad_norm"] for row in rows] == [2.0 * row.step for row in rows]
    assert {(row.values["lr"], row.values["base_lr"]) for row in rows} == {(0.1, 0.2)}
    assert rows[0].values["tokens_per_s"] == pytest.approx(30 / rows[0].values["step_time_s"])
    assert rows[0].values["samples_per_s"] == pytest.approx(6 / rows[0].values["step_time_s"])


@pytest.mark.parametrize("on_accelerator", [True, False])
def test_a_nan_is_remembered_until_it_is_asked_for(on_accelerator: bool) -> None:
    meter = StepMeter(on_accelerator)
    rows = [*steps(meter, [1.0, math.nan, 1.0]), *meter.drain()]
    assert math.isnan(rows[1].values["step_loss"])
    assert [meter.take_nonfinite(), meter.take_nonfinite()] == [True, False]
