"""A sample at a fixed place of the data that breaks training: gone back from, met again, and left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer

from agenttune.protocol.proposals import State
from tests.trainer.conftest import Bench, Points, Result, TinyModel, under_guardian

pytestmark = pytest.mark.trainer
STEPS, BAD_ROW = 300, 700


class WithABadRow(Points):
    """One row whose input and target are `times` as large."""

    def __init__(self, count: int, times: float) -> None:
        super().__init__(count)
        self.x[BAD_ROW] *= times
        self.y[BAD_ROW] *= times


class InOrder(Trainer):  # type: ignore[misc]
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


def guarded(bench: Bench, monkeypatch: pytest.MonkeyPatch, times: float, **how: Any) -> Result:
    """Under `guardian`, in lockstep; the row is met at step 176, and but once."""
    values: dict[str, Any] = {"max_steps": STEPS, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    data = WithABadRow(4 * STEPS, times)
    return under_guardian(bench, monkeypatch, data, base=InOrder, max_grad_norm=0.0, **(values | how))


@pytest.mark.quick("nan-*", "30000.0-*")
@pytest.mark.parametrize(
    ("times", "optim", "lr"),
    [(float("nan"), "adamw_torch", 1e-2), (float("inf"), "adamw_torch", 1e-2), (1e4, "sgd", 1e-2), (3e4, "sgd", 1e-2)],
)
def test_a_row_that_breaks_training_each_time_is_left_out_and_the_rate_is_as_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, times: float, optim: str, lr: float
) -> None:
    result = guarded(bench, monkeypatch, times, model=TinyModel(dropout=0.0), optim=optim, learning_rate=lr)
    first, second = result.records()
    assert [r.state for r in (first, second)] == [State.APPLIED] * 2
    assert first.proposal.rationale.startswith(("back_from_nan: ", "back_from_blow_up: "))
    assert first.command.arguments()["lr"] < lr
    assert second.command.arguments()["lr"] == pytest.approx(lr)
    assert second.command.arguments()["skip_seen_data"] is True
    assert second.ack is not None
    assert "the data goes on where it stood" in second.ack.message
    assert all(bool(torch.isfinite(p).all()) for p in result.trainer.model.parameters())
    assert result.trainer.state.global_step == STEPS
    assert result.witness.used[-1] == pytest.approx([lr, lr])
