"""Makes looks of sampled weights, in the writer's thread: how straight their way is, and how large a step."""

from __future__ import annotations

import math
from bisect import bisect_left
from operator import itemgetter
from statistics import median

import torch
from torch import Tensor
from torch.linalg import vector_norm  # what `norm` comes to, after many questions
from torch.nn.utils.rnn import pad_sequence

from agenttune.protocol.weight_looks import WeightLook
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
        self._counts = torch.empty(0)
        """Coordinates of each layer, [layers]."""
        self._highest_rate = 0.0
        """Of the stretch so far."""

    def add(self, sample: WeightSample) -> WeightLook:
        """Take in a sample."""
        key = (sample.stretch, sample.names, sample.sizes)
        if key != self._key or (self._kept and sample.step <= self._kept[-1][0]):
            self._key, self._kept, self._early, self._highest_rate = key, [], math.nan, 0.0
            self._counts = torch.tensor(sample.sizes, dtype=torch.float64)
        if sample.before is not None:
            self._keep(sample.before.step, _by_row(sample.before))
        now = _by_row(sample)
        before = next((kept for kept in reversed(self._kept) if kept[0] <= sample.step - LEAST_STEPS), None)
        self._keep(sample.step, now)
        steps, ratios = 0, [math.nan] * len(sample.names)
        if before is not None:
            steps = sample.step - before[0]
            ratios = update_ratios(before[1], now, steps).tolist()
        since, ratio = self._kept[0][0], _middle(sample, ratios)
        highest = max(sample.rates, default=0.0)
        still_rises, self._highest_rate = highest > self._highest_rate, max(highest, self._highest_rate)
        # The first steps of a warm-up are small at any rate: it is what it rises to that tells of it.
        if sample.step - since <= EARLY_STEPS or still_rises or math.isnan(self._early):
            usual = float(f"{ratio * sample.settled:.{DIGITS}g}")
            self._early = max((r for r in (self._early, usual) if not math.isnan(r)), default=math.nan)
        return WeightLook(
            step=sample.step,
            since_step=since,
            steps=steps,
            straightness=self._straightness(),
            update_ratio=ratio,
            early_update_ratio=self._early,
            ratios=_by_layer(sample.names, ratios),
            rms=_by_layer(sample.names, (now.square().sum(1) / self._counts).sqrt().tolist()),
        )

    def _keep(self, step: int, sample: Tensor) -> None:
        self._kept.append((step, sample))
        if len(self._kept) > MOST_LOOKS:
            self._kept = [self._kept[0], *self._kept[2::2]]

    def _straightness(self) -> float:
        if len(self._kept) < FEWEST_LOOKS:
            return math.nan
        (first, start), (last, now) = self._kept[0], self._kept[-1]
        after = bisect_left(self._kept, (first + last) / 2, key=itemgetter(0))  # in order of their steps
        near = self._kept[max(1, after - 1) : min(after + 1, len(self._kept) - 1)]
        middle = min(near, key=lambda kept: abs(2 * kept[0] - first - last))[1]
        return straightness(start, middle, now, self._counts)


def _by_row(sample: WeightSample) -> Tensor:
    """Its weights, [layers, coordinates]."""
    if len(set(sample.sizes)) == 1:
        return sample.values.to("cpu", torch.float64).view(len(sample.sizes), -1)
    parts = torch.split(sample.values.to("cpu", torch.float64), list(sample.sizes))
    return pad_sequence(list(parts), batch_first=True)


def _middle(sample: WeightSample, ratios: list[float]) -> float:
    """The median over the layers that tell and move; NaN if none does.

    Where parameter groups have rates of their own, it is that of the one which moves most: a head whose rate is far too
    high is not hidden by the many layers of an encoder.
    """
    rates = sample.rates or (0.0,) * len(sample.names)
    by_rate: dict[float, list[float]] = {}
    for ratio, rate, tells in zip(ratios, rates, sample.telling, strict=True):
        if tells and math.isfinite(ratio) and ratio > 0:
            by_rate.setdefault(rate, []).append(ratio)
    most = max((median(known) for known in by_rate.values()), default=math.nan)
    return float(f"{most:.{DIGITS}g}")


def _by_layer(names: tuple[str, ...], values: list[float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in zip(names, values, strict=True)}


def straightness(start: Tensor, middle: Tensor, now: Tensor, counts: Tensor) -> float:
    """Mean over the layers of the cosine between two displacements in a row.

    A rate that is too low goes straight on (near 1); at a good one batches push to and fro, so that two halves of the
    way have less in common (measured on eight tasks at a seventh of the run: 0.74 to 0.97 at a hundredth of the good
    rate, 0.43 to 0.65 at the good one). Of rates that are too high it tells nothing: a dead network goes straight too.

    Args:
        start: Sampled weights at the beginning, [layers, coordinates].
        middle: About half of the steps later.
        now: Now.
        counts: Coordinates of each layer, [layers]; a cosine of few is noisy, so it counts by their square root.

    Returns:
        From -1 to 1; NaN while nothing has moved, or what moved is not finite.
    """
    first, second = middle - start, now - middle
    lengths = vector_norm(first, dim=1) * vector_norm(second, dim=1)  # [layers]
    products = (first * second).sum(1)
    known = [0 < length < math.inf for length in lengths.tolist()]
    if not any(known):
        return math.nan
    if not all(known):  # seldom
        which = torch.tensor(known)
        products, lengths, counts = products[which], lengths[which], counts[which]
    cosines, weights = products / lengths, counts.sqrt()
    return float((cosines * weights).sum() / weights.sum())


def update_ratios(before: Tensor, now: Tensor, steps: int) -> Tensor:
    """|update| / |weights| of one step, [layers], as if steps were independent: their way grows by the root of them.

    NaN for weights that were all zero and have moved; 0 for those that have not moved.

    Args:
        before: Sampled weights, [layers, coordinates].
        now: Later ones.
        steps: How many later.
    """
    way, length = vector_norm(now - before, dim=1), vector_norm(before, dim=1)
    ratios = torch.where(length == 0, math.nan, way / (length * math.sqrt(steps)))
    return torch.where(way == 0, 0.0, ratios)
