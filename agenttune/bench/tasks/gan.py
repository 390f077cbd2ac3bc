"""Two networks against each other: a generator of digits and a discriminator, in one module with one optimizer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy
import torch
from torch import nn
from torch.func import functional_call

from agenttune.bench.tasks.data import Rows, half, small_digits
from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.tasks.perceptron import hidden_layers
from agenttune.bench.training import Split

NOISE = 16
"""Size of the generator's input."""
PIXELS = 49
HELD_OUT = 500
BLUR = 0.4
"""Deviation of the noise on digits that the discriminator sees."""
BETAS = (0.5, 0.999)
"""Of Adam, as is usual for such pairs (Radford et al. 2016)."""


class Gan(nn.Module):
    """Both networks; the loss is the sum of theirs, each of which changes one of them only (Goodfellow et al. 2014).

    While evaluating, `logits` are as many made-up digits as the batch has real ones.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.generator = nn.Sequential(*_perceptron(NOISE, width, layers, PIXELS), nn.Sigmoid())
        self.discriminator = nn.Sequential(*_perceptron(PIXELS, width, layers, 1))

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        made = self.generator(noise)
        frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        if self.training:
            pixels, made = self._blurred(pixels), self._blurred(made)
        # The non-saturating loss: softplus(-d) is -log of what the discriminator gives for "real".
        softplus = nn.functional.softplus
        fooling = softplus(-functional_call(self.discriminator, frozen, (made,))).mean()
        telling = softplus(-self.discriminator(pixels)).mean() + softplus(self.discriminator(made.detach())).mean()
        return {"loss": fooling + telling, "logits": made}

    def _blurred(self, digits: torch.Tensor) -> torch.Tensor:
        """With noise on them, without which the discriminator soon tells all of them apart (Sønderby et al. 2017)."""
        return digits + BLUR * torch.randn_like(digits)


def _perceptron(inputs: int, width: int, layers: int, outputs: int) -> list[nn.Module]:
    return [*hidden_layers([inputs] + [width] * layers, partial(nn.LeakyReLU, 0.2)), nn.Linear(width, outputs)]


class DigitsGan(HfTask):
    """A generator of 7 x 7 digits; the metric is the energy distance of what it makes to digits held out."""

    def parts(self, seed: int, split: Split) -> Parts:
        model = Gan(64, 2) if split == "development" else Gan(96, 2)
        rows = half(small_digits(), split)
        source = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(rows), NOISE, generator=source)
        pixels = rows.columns["pixels"]
        # The labels of an evaluation are the real digits: that is how they reach the metric.
        given = Rows({"pixels": pixels, "noise": noise, "labels": pixels})
        border = len(given) - HELD_OUT
        return Parts(
            model,
            given.between(0, border),
            given.between(border, len(given)),
            batch_size=64,
            compute_metrics=_energy_distance,
            groups=[
                {"params": list(model.generator.parameters()), "betas": BETAS},
                {"params": list(model.discriminator.parameters()), "betas": BETAS},
            ],
        )


def _energy_distance(output: Any) -> dict[str, float]:
    """The root of 2 E|x - y| - E|x - x'| - E|y - y'|: 0 if, and only if, both are distributed alike (Székely 2003)."""
    made, real = (torch.from_numpy(numpy.asarray(rows)).double() for rows in (output.predictions, output.label_ids))
    between, among = torch.cdist(made, real).mean(), _mean_distance(made) + _mean_distance(real)
    return {"energy_distance": float((2 * between - among).clamp(min=0).sqrt())}


def _mean_distance(rows: torch.Tensor) -> torch.Tensor:
    """Of two different rows: the distance of a row to itself, 0, does not count."""
    return torch.cdist(rows, rows).sum() / (len(rows) * (len(rows) - 1))
