"""Weights for a learning curve that has none: they move as those of networks do, so that a look at them tells the same.

A step's direction is partly that of the loss, the same for all batches, and partly each batch's own. The further
training has come, the less is left of the first; so the way of a rate that is too low is straight, and that of a good
one is not. A step's size goes by the rate, and by how much its gradient is larger than it should be. Figures are those
of networks from scratch (measured on five tasks, development seeds).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]

SHAPE = (8, 8)
"""Of the matrix: one layer."""
COUNT = SHAPE[0] * SHAPE[1]
UPDATES = (0.045, 0.12)
"""|update| / |weights| of a step at the good rate, in proportion to the rate (measured: 0.008 to 0.16; what diverges at
ten times the rate, as a curve does, has 0.4 and more there)."""
SIGNAL = 0.5
"""Part of a step's length that goes the loss' way, at the start (measured: cosines of 0.6 to 0.9 at a hundredth of the
good rate)."""
FADING = 20.0
"""In so many units of progress it falls to a half (measured: cosines of 0.5 to 0.7 at the good rate)."""


class Walk:
    """The way of the weights of one training.

    Args:
        seed: Of the training.
        steps: That it may make.
        is_jittered: Whether the batches come in another order.

    Attributes:
        start: [COUNT], the first weights.
        step_size: Length of a step at the good rate.
    """

    def __init__(self, seed: int, steps: int, is_jittered: bool) -> None:
        source = np.random.default_rng([seed, 3])
        self.start: Vector = source.normal(size=COUNT)
        way: Vector = source.normal(size=COUNT)
        self._way = way / math.sqrt(float(way @ way))
        ratio = math.exp(source.uniform(math.log(UPDATES[0]), math.log(UPDATES[1])))
        self.step_size = ratio * math.sqrt(float(self.start @ self.start))
        noise = np.random.default_rng([seed, 4, int(is_jittered)]).standard_normal((steps, COUNT))
        noise -= np.outer(noise @ self._way, self._way)
        self._noise = noise / np.sqrt(np.einsum("ij,ij->i", noise, noise))[:, None]

    def direction(self, place: int, progress: float, out: Vector) -> None:
        """A batch's direction, of length 1.

        Args:
            place: Of the batch in the data.
            progress: In units of it.
            out: [COUNT], is written over.
        """
        signal = SIGNAL / (1 + max(0.0, progress) / FADING)
        np.multiply(self._noise[place], math.sqrt(1 - signal * signal), out=out)
        out += signal * self._way
