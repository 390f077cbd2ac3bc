"""Healthy runs whose weights begin small or at zero, under guardian and the real Trainer: nothing is done to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.conftest import Bench, under_guardian
from tests.trainer.test_higher_rate import CLASSES, WIDTH, Clouds

pytestmark = pytest.mark.trainer
FEATURES = 128


class Probe(nn.Module):
    """A linear head, alone, on features that are not trained."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.ReLU()).requires_grad_(False)
        self.head = nn.Linear(FEATURES, CLASSES)
        nn.init.normal_(self.head.weight, 0, scale) if scale else nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.features(x))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Adapter(nn.Module):
    """A layer that is not trained, beside a product of two that are; the second begins at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.whole = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.whole(x) + 2 * self.up(self.down(x))
        return y


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [Adapter(WIDTH, 48), nn.ReLU(), Adapter(48, 48), nn.ReLU(), Adapter(48, 48), nn.ReLU()]
        self.net = nn.Sequential(*layers, Adapter(48, CLASSES))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (lambda: Probe(0.0), {"learning_rate": 1e-2}),
        (lambda: Probe(0.01), {"learning_rate": 1e-2}),
        (lambda: Probe(0.0), {"learning_rate": 0.3, "optim": "sgd"}),
        (Adapted, {"learning_rate": 5e-3, "lr_scheduler_type": "cosine", "warmup_steps": 15}),
        (Adapted, {"learning_rate": 5e-3}),
    ],
    ids=["probe from zero", "probe from little", "probe, SGD", "adapters, warm-up", "adapters"],
)
def test_weights_that_begin_small_are_no_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, model: Any, how: dict[str, Any]
) -> None:
    """Seen: three returns, each with a tenth of the rate (2.30 instead of 0.45), and a layer frozen (0.74, 0.57)."""
    values = {"max_steps": 160, "per_device_train_batch_size": 16, "evaluates": False, "optim": "adamw_torch"}
    result = under_guardian(bench, monkeypatch, Clouds(4000), **{**values, "model": model(), **how})
    assert result.records() == []
