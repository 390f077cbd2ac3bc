"""What sampled weights say of the way that training takes: how straight it is, and how large its steps are.

Pure functions of samples, each [layers, coordinates]; what a layer has fewer of is filled with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def straightness(start: Tensor, middle: Tensor, now: Tensor) -> float:
    """Cosine between two displacements in a row, each layer counting by the same weight whatever its size.

    A rate that is too low goes straight on (near 1); at a good one batches push to and fro, so that two halves of the
    way have little in common; one that is too high overshoots and comes back (below 0).

    Args:
        start: Sampled weights at the beginning, [layers, coordinates].
        middle: About half of the steps later.
        now: Now.

    Returns:
        From -1 to 1; NaN while nothing has moved, or what moved is not finite.
    """
    return _pooled_cosine(middle - start, now - middle)


def _pooled_cosine(first: Tensor, second: Tensor) -> float:
    """Cosine of two displacements, [layers, coordinates], with each layer scaled to a whole length of one."""
    scale = first.square().sum(1) + second.square().sum(1)  # [layers]
    moved = torch.isfinite(scale) & (scale > 0)
    if not bool(moved.any()):
        return math.nan
    first, second, scale = first[moved], second[moved], scale[moved]
    along = ((first * second).sum(1) / scale).sum()
    lengths = (first.square().sum(1) / scale).sum(), (second.square().sum(1) / scale).sum()
    length = math.sqrt(float(lengths[0]) * float(lengths[1]))
    return float(along) / length if length > 0 else math.nan


def independent_steps(steps: int, cosine: float) -> float:
    """By how much further weights get in so many steps than in one.

    A way on which displacements of equal length have this cosine gets further by `steps ** h`, where twice the steps
    give `sqrt(2 + 2 cosine)` times the way: all of them where it is straight, their square root where each step is
    a matter of chance.

    Args:
        steps: At least 1.
        cosine: Between one displacement of that length and the next; NaN: as if they were independent.
    """
    if math.isnan(cosine):
        cosine = 0.0
    exponent = 0.5 * math.log2(max(1e-9, 2 * (1 + cosine)))
    return float(steps ** min(1.0, max(0.0, exponent)))


def update_ratios(before: Tensor, now: Tensor, steps: float) -> Tensor:
    """|update| / |weights| of one step, [layers]; NaN for weights that were all zero and have moved.

    Args:
        before: Sampled weights, [layers, coordinates].
        now: Later ones.
        steps: How much further they got than in one step.
    """
    way, length = (now - before).norm(dim=1), before.norm(dim=1)
    ratios: Tensor = way / (length * steps)
    ratios[way == 0] = 0.0
    ratios[(length == 0) & (way > 0)] = math.nan
    return ratios
