"""What sampled weights say of the way that training takes: how straight it is, and how large its steps are.

Pure functions of samples, each [layers, coordinates]; what a layer has fewer of is filled with zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    lengths = first.norm(dim=1) * second.norm(dim=1)  # [layers]
    known = torch.isfinite(lengths) & (lengths > 0)
    if not bool(known.any()):
        return math.nan
    cosines = (first * second).sum(1)[known] / lengths[known]
    weights = counts[known].sqrt()
    return float((cosines * weights).sum() / weights.sum())


def update_ratios(before: Tensor, now: Tensor, steps: int) -> Tensor:
    """|update| / |weights| of one step, [layers], as if steps were independent: their way grows by the root of them.

    NaN for weights that were all zero and have moved; 0 for those that have not moved.

    Args:
        before: Sampled weights, [layers, coordinates].
        now: Later ones.
        steps: How many later.
    """
    way, length = (now - before).norm(dim=1), before.norm(dim=1)
    ratios: Tensor = way / (length * math.sqrt(steps))
    ratios[way == 0] = 0.0
    ratios[(length == 0) & (way > 0)] = math.nan
    return ratios
