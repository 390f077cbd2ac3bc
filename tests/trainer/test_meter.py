"""Steps leave their numbers behind; the rows that are made of them lose nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from agenttune.store.metric_table import MetricRow
from agenttune.trainer.recording.background_writer import RowMaker, StepMeter, StepMetrics

pytestmark = pytest.mark.trainer


def steps(meter: StepMeter, losses: list[float]) -> list[StepMetrics]:
    held = []
    for step, loss in enumerate(losses, start=1):
        for _ in range(2):
            meter.add_batch({"labels": torch.zeros(3), "input_ids": torch.zeros(3, 5)})
            meter.losses.append(torch.tensor(loss / 2))
        meter.norm = torch.tensor(2.0 * step)
        held.append(meter.finish(step, 0.1, 0.2))
    return held


def test_every_step_has_its_row() -> None:
    losses = [float(n) for n in range(20)]
    rows = RowMaker()(steps(StepMeter(replicas=2), losses))
    assert [row.step for row in rows] == list(range(1, 21))
    assert [row.values["step_loss"] for row in rows] == losses
    assert [row.values["step_grad_norm"] for row in rows] == [2.0 * row.step for row in rows]
    assert {(row.values["lr"], row.values["base_lr"]) for row in rows} == {(0.1, 0.2)}
    assert rows[0].values["tokens_per_s"] == pytest.approx(60 / rows[0].values["step_time_s"])
    assert rows[0].values["samples_per_s"] == pytest.approx(12 / rows[0].values["step_time_s"])
    assert rows[-1].values["memory_bytes"] > 1e6


def test_the_first_logged_loss_after_a_nan_is_nan() -> None:
    held = steps(StepMeter(), [1.0, math.nan, 1.0])
    log = [MetricRow(3, 0.0, {"loss": 0.0, "epoch": 1.0}, "log"), MetricRow(4, 0.0, {"loss": 0.5}, "log")]
    rows = RowMaker()([*held, *log])
    assert math.isnan(rows[1].values["step_loss"])
    assert math.isnan(rows[3].values["loss"])
    assert rows[3].values["epoch"] == 1.0
    assert rows[4].values == {"loss": 0.5}


class Other(Mapping[str, Any]):
    """A mapping that is no dict, as tokenizers return."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@pytest.mark.parametrize(
    ("batch", "samples", "tokens"),
    [
        ({"input_ids": torch.zeros(3, 5)}, 3, 15),
        (Other(input_ids=torch.zeros(4, 2)), 4, 8),
        ({"pixels": torch.zeros(7, 2, 2)}, 7, 0),
        ({"name": "text"}, 0, 0),
        ({}, 0, 0),
        ((torch.zeros(2),), 0, 0),
        (None, 0, 0),
    ],
)
def test_samples_and_tokens_are_read_off_any_batch(batch: Any, samples: int, tokens: int) -> None:
    meter = StepMeter()
    meter.add_batch(batch)
    held = meter.finish(1, 0.1, 0.1)
    assert (held.samples, held.tokens) == (samples, tokens)


def test_a_batch_of_another_kind_is_read_anew() -> None:
    meter = StepMeter()
    for batch in ({"input_ids": torch.zeros(3, 5)}, {"pixels": torch.zeros(2, 9)}, {"input_ids": torch.zeros(1, 4)}):
        meter.add_batch(batch)
    held = meter.finish(1, 0.1, 0.1)
    assert (held.samples, held.tokens) == (6, 15 + 4)
