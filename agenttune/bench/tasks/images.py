"""Digits: a small convolutional network."""

from __future__ import annotations

import torch
from torch import nn

from agenttune.bench.tasks.data import digits, half
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.training import Split


class Cnn(nn.Module):
    """Two convolutions, and a linear layer or two."""

    def __init__(self, width: int, hidden: int = 0) -> None:
        super().__init__()
        features = 2 * width * 25
        head = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 10)] if hidden else [nn.Linear(features, 10)]
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            *head,
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class DigitsCnn(HfTask):
    """A convolutional network on MNIST digits."""

    def parts(self, seed: int, split: Split) -> Parts:
        rows = half(digits(), split)
        model = Cnn(8) if split == "development" else Cnn(12, hidden=32)
        return Parts(model, rows.between(0, 2000), rows.between(2000, 2500))
