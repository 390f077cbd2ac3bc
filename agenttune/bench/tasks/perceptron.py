"""Layers of a perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def hidden_layers(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Linear layers from each size to the next, each with an activation after it."""
    return [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())]
