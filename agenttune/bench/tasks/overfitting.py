"""Little data and a large network: what is learnt from it soon stops to hold for other data."""

from __future__ import annotations

import torch
from torch import nn

from agenttune.bench.tasks.data import digits, half
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.tasks.perceptron import hidden_layers
from agenttune.bench.training import Split


class Perceptron(nn.Module):
    """A multi-layer perceptron for 28 x 28 pixels."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *hidden_layers([784] + [width] * layers), nn.Linear(width, 10))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class LittleData(HfTask):
    """A perceptron that knows its few digits by heart after some epochs."""

    def parts(self, seed: int, split: Split) -> Parts:
        rows = half(digits(), split)
        model = Perceptron(256, 2) if split == "development" else Perceptron(192, 3)
        images = 200 if split == "development" else 240
        return Parts(model, rows.between(0, images), rows.between(2000, 2500), batch_size=20)
