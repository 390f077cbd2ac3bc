"""Regression in tiny batches, where some of the targets are far off."""

from __future__ import annotations

import torch
from torch import nn

from agenttune.bench.tasks.data import Rows, half, slants
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.tasks.perceptron import hidden_layers
from agenttune.bench.training import Split

BATCH = 4
DEGREES_OF_FREEDOM, NOISE = 1.5, 0.2
"""Of Student's distribution: its variance is infinite below 2, so that now and then a gradient is a hundred times the
usual one; and its scale, in deviations of the target (guess)."""


class Regressor(nn.Module):
    """A perceptron with one number as output, and the mean squared error as loss."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*hidden_layers([196] + [width] * layers), nn.Linear(width, 1))

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        given = self.layers(pixels).squeeze(-1)
        return {"loss": nn.functional.mse_loss(given, labels), "logits": given}


class HeavyTail(HfTask):
    """Reads the slant of a digit; training targets have heavy-tailed noise, those of evaluations have none."""

    def parts(self, seed: int, split: Split) -> Parts:
        rows = half(slants(), split)
        train, held_out = rows.between(0, 2000), rows.between(2000, 2500)
        model = Regressor(64, 2) if split == "development" else Regressor(48, 3)
        return Parts(model, _noisy(train, seed), held_out, batch_size=BATCH)


def _noisy(rows: Rows, seed: int) -> Rows:
    targets = rows.columns["labels"]
    source = torch.Generator().manual_seed(seed)
    # Student's t is a normal variable by the root of a chi-squared one, here a gamma variable (torch's own
    # StudentT takes no generator).
    normal = torch.randn(len(rows), generator=source)
    shape = torch.full((len(rows),), DEGREES_OF_FREEDOM / 2)
    chi2 = 2 * torch._standard_gamma(shape, generator=source)
    noise = NOISE * normal * (DEGREES_OF_FREEDOM / chi2).sqrt()
    return Rows(rows.columns | {"labels": targets + noise})
