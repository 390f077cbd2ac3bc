"""Guardian at a tenth of a good rate, under the real Trainer: a trial of a higher one tells, and only that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from agenttune.protocol.commands import Probe
from agenttune.protocol.proposals import CommandRecord, State
from tests.trainer.conftest import Bench, Result, under_guardian

pytestmark = pytest.mark.trainer
STEPS, CLASSES, WIDTH = 160, 5, 16


class Clouds(Dataset[dict[str, torch.Tensor]]):
    """Points around one center a class."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        centers = 1.5 * torch.randn(CLASSES, WIDTH, generator=generator)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.x = centers[self.labels] + 2 * torch.randn(count, WIDTH, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trained(bench: Bench, monkeypatch: pytest.MonkeyPatch, lr: float, **how: Any) -> Result:
    values: dict[str, Any] = {"max_steps": STEPS, "learning_rate": lr, "per_device_train_batch_size": 16}
    values |= {"model": Classifier(), "evaluates": False}
    return under_guardian(bench, monkeypatch, Clouds(4000), **(values | how))


def trials(result: Result) -> list[CommandRecord]:
    return [r for r in result.records() if isinstance(r.command, Probe)]


@pytest.mark.quick("adamw_torch-*")
@pytest.mark.parametrize(
    ("optim", "lr", "schedule"),
    [("adamw_torch", 3e-4, "constant"), ("adamw_torch", 3e-4, "cosine"), ("rmsprop", 1e-4, "linear")],
)
def test_at_a_tenth_of_a_good_rate_the_higher_one_is_tried_and_adopted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, optim: str, lr: float, schedule: str
) -> None:
    result = trained(bench, monkeypatch, lr, optim=optim, lr_scheduler_type=schedule)
    first = trials(result)[0]
    assert first.proposal.rationale.startswith("try_higher: ")
    assert first.state in (State.APPLIED, State.KEPT)
    assert first.ack is not None
    [change] = first.ack.changes
    assert change.base is not None
    assert 5 * lr <= change.base <= 10 * lr
    alone = Bench(bench.path / "alone").trainer(
        [],
        form="plain",
        model=Classifier(),
        evaluates=False,
        max_steps=STEPS,
        learning_rate=lr,
        per_device_train_batch_size=16,
        optim=optim,
        lr_scheduler_type=schedule,
    )
    alone.trainer.train_dataset = Clouds(4000)
    alone.trainer.train()
    assert final(result) < 0.8 * final(alone)


def final(result: Result) -> float:
    """Mean loss of the last steps."""
    losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row][-20:]
    return float(sum(losses) / len(losses))


@pytest.mark.parametrize(("optim", "lr"), [("adamw_torch", 1e-2), ("sgd", 1e-1)])
def test_at_a_good_rate_nothing_is_tried(bench: Bench, monkeypatch: pytest.MonkeyPatch, optim: str, lr: float) -> None:
    result = trained(bench, monkeypatch, lr, optim=optim, lr_scheduler_type="constant")
    assert result.records() == []


def test_what_a_raise_under_sgd_has_left_small_is_raised_once_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a hundredth of a good rate ten times are not enough; steps that have become usual ones are left alone."""
    result = trained(bench, monkeypatch, 1e-3, optim="sgd", lr_scheduler_type="constant")
    assert [r.proposal.rationale.split(":")[0] for r in result.records()] == ["raise_far", "raise_low"]
    assert final(result) < 0.5
