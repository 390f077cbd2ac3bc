"""Whether a model's weights are as an initialization leaves them, or were trained before: by their distribution alone.

Initializations leave traces that the first updates wipe out. Biases, gains of norms and an adapter's second half are
all of one value, and torch's own matrices are uniform: nothing lies beyond the square root of three times their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from agenttune.trainer.layers.weight_sampler import is_whole

MOST_LAYERS = 64
"""Layers that are looked at, evenly over the model: each waits for the device once (guess)."""
MOST_WEIGHTS = 4096
"""Of a tensor that are looked at, evenly over it."""
FEWEST_WEIGHTS = 64
"""Of a tensor, below which its shape tells nothing: the largest of 64 normal ones is seldom below 2.0 times their size,
where a uniform distribution's may be (computed)."""
SIGMAS = 3.0
"""Standard errors of the size by which a uniform distribution's largest may stand above it."""


def looks_trained(model: nn.Module) -> bool | None:
    """Whether most layers that are trained hold weights of a training before.

    Returns:
        None where no layer tells: sharded, quantized, or normal matrices without anything else.
    """
    layers = [list(_trained(module)) for module in model.modules()]
    told = [tensors for tensors in layers if tensors]
    stride = math.ceil(len(told) / MOST_LAYERS) or 1
    verdicts = [_is_fresh(tensors) for tensors in told[::stride]]
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) < len(known) / 2 if known else None


def _trained(module: nn.Module) -> Iterator[Tensor]:
    own = (p for p in module._parameters.values() if p is not None)
    return (p for p in own if p.requires_grad and is_whole(p) and p.numel() > 1)


def _is_fresh(tensors: list[Tensor]) -> bool | None:
    """None: a matrix alone, which is normal; that is how some begin and others end."""
    with torch.no_grad():
        taken = [tensor.flatten()[:: math.ceil(tensor.numel() / MOST_WEIGHTS)].float() for tensor in tensors]
        shapes = torch.stack([torch.stack((t.amin(), t.amax(), t.square().mean().sqrt())) for t in taken]).tolist()
    counts = [len(t) for t in taken]
    if any(low == high for low, high, _ in shapes):
        return True
    if any(_is_uniform(low, high, size, n) for (low, high, size), n in zip(shapes, counts, strict=True)):
        return True
    return False if any(tensor.dim() == 1 for tensor in tensors) else None


def _is_uniform(low: float, high: float, size: float, count: int) -> bool:
    # The root mean square of n uniform numbers has a relative standard error of the root of 0.2 / n.
    edge, error = math.sqrt(3) * size, SIGMAS * math.sqrt(0.2 / count)
    reaches_both = min(-low, high) >= edge * (1 - 2 * error)
    return count >= FEWEST_WEIGHTS and reaches_both and max(-low, high) <= edge * (1 + error)
