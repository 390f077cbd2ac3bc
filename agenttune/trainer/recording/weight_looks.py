"""Makes looks of sampled weights, in the writer's thread."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agenttune.protocol.weight_looks import WeightLook
from agenttune.trainer.layers.weight_path import straightness, update_ratios
from agenttune.trainer.layers.weight_sampler import LEAST_STEPS, WeightSample

FEWEST_LOOKS = 5
"""Of a stretch, before its straightness is told: of three, the halves are a step each (guess)."""
MOST_LOOKS = 256
"""Of a stretch that are kept; then every second one goes."""
EARLY_STEPS = 20
"""First steps of a stretch, in which the size of updates tells most: later, weights have grown by them (measured)."""
DIGITS = 4
"""Significant ones of what is recorded for each layer."""


class WeightLooks:
    """Keeps the samples of the present stretch, and tells what each new one adds."""

    def __init__(self) -> None:
        self._key: tuple[int, tuple[str, ...], tuple[int, ...]] | None = None
        self._kept: list[tuple[int, Tensor]] = []
        """Step and sample, [layers, coordinates]."""
        self._early = math.nan

    def add(self, sample: WeightSample) -> WeightLook:
        """Take in a sample."""
        key = (sample.stretch, sample.names, sample.sizes)
        if key != self._key or (self._kept and sample.step <= self._kept[-1][0]):
            self._key, self._kept, self._early = key, [], math.nan
        if sample.before is not None:
            self._keep(sample.before.step, _by_row(sample.before))
        now = _by_row(sample)
        counts = torch.tensor(sample.sizes, dtype=torch.float64)
        before = [(step, values) for step, values in self._kept if step <= sample.step - LEAST_STEPS]
        self._keep(sample.step, now)
        steps, ratios = 0, torch.full((len(sample.names),), math.nan, dtype=torch.float64)
        if before:
            steps = sample.step - before[-1][0]
            ratios = update_ratios(before[-1][1], now, steps)
        since, ratio = self._kept[0][0], _middle(sample, ratios)
        if sample.step - since <= EARLY_STEPS or math.isnan(self._early):
            self._early = max((r for r in (self._early, ratio) if not math.isnan(r)), default=math.nan)
        return WeightLook(
            step=sample.step,
            since_step=since,
            steps=steps,
            straightness=self._straightness(counts),
            update_ratio=ratio,
            early_update_ratio=self._early,
            ratios=_by_layer(sample.names, ratios),
            rms=_by_layer(sample.names, (now.square().sum(1) / counts).sqrt()),
        )

    def _keep(self, step: int, sample: Tensor) -> None:
        self._kept.append((step, sample))
        if len(self._kept) > MOST_LOOKS:
            self._kept = [self._kept[0], *self._kept[2::2]]

    def _straightness(self, counts: Tensor) -> float:
        if len(self._kept) < FEWEST_LOOKS:
            return math.nan
        (first, start), (last, now) = self._kept[0], self._kept[-1]
        middle = min(self._kept[1:-1], key=lambda kept: abs(2 * kept[0] - first - last))[1]
        return straightness(start, middle, now, counts)


def _by_row(sample: WeightSample) -> Tensor:
    """Its weights, [layers, coordinates]."""
    parts = torch.split(sample.values.to("cpu", torch.float64), list(sample.sizes))
    return pad_sequence(list(parts), batch_first=True)


def _middle(sample: WeightSample, ratios: Tensor) -> float:
    """The median over the matrices that move: gains and biases have another scale, and some layers are not trained."""
    known = [
        r
        for r, is_matrix in zip(ratios.tolist(), sample.matrices, strict=True)
        if is_matrix or not any(sample.matrices)
    ]
    moving = [r for r in known if math.isfinite(r) and r > 0]
    return float(f"{median(moving):.{DIGITS}g}") if moving else math.nan


def _by_layer(names: tuple[str, ...], values: Tensor) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in zip(names, values.tolist(), strict=True)}
