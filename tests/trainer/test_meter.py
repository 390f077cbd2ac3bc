"""On an accelerator values are fetched together; the rows are the same as those of a CPU."""

from __future__ import annotations

import math

import pytest
import torch

from agenttune.events import Point
from agenttune.trainer.meter import DRAIN_STEPS, StepMeter

pytestmark = pytest.mark.trainer


def steps(meter: StepMeter, losses: list[float]) -> list[Point]:
    rows: list[Point] = []
    for step, loss in enumerate(losses, start=1):
        for _ in range(2):
            meter.add_batch({"input_ids": torch.zeros(3, 5)})
            meter.add_loss(torch.tensor(loss / 2))
        meter.set_norm(torch.tensor(2.0 * step))
        rows += meter.finish(step, 0.1, 0.2)
    return rows


def test_values_held_on_a_device_give_the_rows_of_a_cpu() -> None:
    losses = [float(n) for n in range(DRAIN_STEPS + 3)]
    held = StepMeter(on_accelerator=True)
    rows = steps(held, losses)
    assert len(rows) == DRAIN_STEPS
    rows += held.drain()
    plain = steps(StepMeter(on_accelerator=False), losses)
    for name in ("step_loss", "step_grad_norm", "lr", "base_lr"):
        assert [row.values[name] for row in rows] == [row.values[name] for row in plain]
    assert [row.step for row in rows] == [row.step for row in plain]
    assert rows[0].values["tokens_per_s"] == pytest.approx(30 / rows[0].values["step_time_s"])
    assert rows[0].values["samples_per_s"] == pytest.approx(6 / rows[0].values["step_time_s"])


@pytest.mark.parametrize("on_accelerator", [True, False])
def test_a_nan_is_remembered_until_it_is_asked_for(on_accelerator: bool) -> None:
    meter = StepMeter(on_accelerator)
    rows = [*steps(meter, [1.0, math.nan, 1.0]), *meter.drain()]
    assert math.isnan(rows[1].values["step_loss"])
    assert [meter.take_nonfinite(), meter.take_nonfinite()] == [True, False]
