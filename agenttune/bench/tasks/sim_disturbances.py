"""What a fault does within a simulated training: factors for each place in the data, so that a return meets them again.

A fault of the recipe (a rate, a schedule) is none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agenttune.bench.training import Fault

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Disturbances:
    """Factors by the place in the data; where nothing is wrong they are 1.

    Attributes:
        noise: On the noise of a batch, and with it on the floor of the training loss.
        shown: On the loss of a batch alone; the weights do not suffer.
        kick: On the gradient of a batch.
        shift: The minimum moves by this part of the way to the start.
        shift_place: From there on.
    """

    noise: Vector
    shown: Vector
    kick: Vector
    shift: float = 0.0
    shift_place: int = 1 << 62

    @classmethod
    def of(cls, fault: Fault | None, places: int, seed: int) -> Disturbances:
        """Those of a fault; none for a fault that acts elsewhere."""
        return cls(np.ones(places), np.ones(places), np.ones(places))
