"""Makes looks of sampled weights, in the writer's thread."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agenttune.protocol.weight_looks import WeightLook
from agenttune.trainer.layers.weight_path import independent_steps, straightness, update_ratios
from agenttune.trainer.layers.weight_sampler import WeightSample

FEWEST_LOOKS = 5
"""Of a stretch, before its straightness is told: of three, the halves are a step each (guess)."""
MOST_LOOKS = 256
"""Of a stretch that are kept; then every second one goes."""
DIGITS = 4
"""Significant ones of what is recorded for each layer."""


class WeightLooks:
    """Keeps the samples of the present stretch, and tells what each new one adds."""

    def __init__(self) -> None:
        self._key: tuple[int, tuple[str, ...], tuple[int, ...]] | None = None
        self._kept: list[tuple[int, Tensor]] = []
        """Step and sample, [layers, coordinates]."""

    def add(self, sample: WeightSample) -> WeightLook:
        """Take in a sample."""
        key = (sample.stretch, sample.names, sample.sizes)
        if key != self._key or (self._kept and sample.step <= self._kept[-1][0]):
            self._key, self._kept = key, []
        parts = torch.split(sample.values.to("cpu", torch.float64), list(sample.sizes))
        now = pad_sequence(list(parts), batch_first=True)  # [layers, coordinates]
        self._kept.append((sample.step, now))
        if len(self._kept) > MOST_LOOKS:
            self._kept = [self._kept[0], *self._kept[2::2]]
        steps, ratios = self._ratios(sample)
        counts = torch.tensor(sample.sizes, dtype=torch.float64)
        rms = (now.square().sum(1) / counts).sqrt()
        known = [ratio for ratio in ratios.tolist() if math.isfinite(ratio)]
        return WeightLook(
            step=sample.step,
            since_step=self._kept[0][0],
            steps=steps,
            straightness=self._straightness(),
            update_ratio=float(torch.tensor(known, dtype=torch.float64).quantile(0.5)) if known else math.nan,
            ratios=_by_layer(sample.names, ratios),
            rms=_by_layer(sample.names, rms),
        )

    def _straightness(self) -> float:
        if len(self._kept) < FEWEST_LOOKS:
            return math.nan
        (first, start), (last, now) = self._kept[0], self._kept[-1]
        middle = min(self._kept[1:-1], key=lambda kept: abs(2 * kept[0] - first - last))[1]
        return straightness(start, middle, now)

    def _ratios(self, sample: WeightSample) -> tuple[int, Tensor]:
        """Steps since the look before, and the update ratio of each layer in them."""
        if len(self._kept) < 2:
            return 0, torch.full((len(sample.names),), math.nan, dtype=torch.float64)
        (then, before), (step, now) = self._kept[-2:]
        cosine = straightness(self._kept[-3][1], before, now) if len(self._kept) > 2 else math.nan
        return step - then, update_ratios(before, now, independent_steps(step - then, cosine))


def _by_layer(names: tuple[str, ...], values: Tensor) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in zip(names, values.tolist(), strict=True)}
