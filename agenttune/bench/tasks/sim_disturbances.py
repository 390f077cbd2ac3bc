"""What a fault of the data does within a simulated training, by the place in the data: a return meets it again.

Faults of the recipe, of gradients, layers and reports are done as to any other training: by `injection/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agenttune.bench.training import Fault

Vector = np.ndarray[Any, np.dtype[np.float64]]

GARBAGE_PART = 1.5
"""Loss of a batch of garbage, over what it was, as a part of the loss at the start (guess)."""
WRONG_LABEL_PART = 0.8
"""The same for wrong labels, if all of them were wrong: a guess costs what it cost at the start, not all can be."""
NEVER = 1 << 62


@dataclass
class Disturbances:
    """By the place in the data; losses as parts of the loss at the start.

    Attributes:
        added: [n_places], what a batch's loss has over the usual, with the noise in its gradient that goes with it.
        shift: The data's own minimum is elsewhere, by so much of the way that there was from start to minimum.
        shift_place: From here on.
        few: Only so many batches come, again and again.
        few_place: From here on.
        wrong_part: Part of the labels that is wrong.
        wrong_place: From here on.
    """

    added: Vector
    shift: float = 0.0
    shift_place: int = NEVER
    few: int = 0
    few_place: int = NEVER
    wrong_part: float = 0.0
    wrong_place: int = NEVER

    @classmethod
    def of(cls, fault: Fault | None, places: int) -> Disturbances:
        """Those of a fault; none for a fault that acts elsewhere."""
        made = cls(np.zeros(places))
        if fault is None:
            return made
        onset, value = fault.step, {name: float(given) for name, given in fault.values.items()}
        if fault.kind in ("corrupt_batch", "corrupt_burst", "healing_spike"):
            made.added[onset : onset + round(value.get("batches", 1))] = GARBAGE_PART
        elif fault.kind == "label_noise":
            made.wrong_part, made.wrong_place = value["noise_frac"], onset
            made.added[onset:] = WRONG_LABEL_PART * value["noise_frac"]
            made.shift, made.shift_place = 0.4 * value["noise_frac"], onset
        elif fault.kind == "mixture_shift":
            made.shift, made.shift_place = 0.5 * value["shifted_frac"], onset
        elif fault.kind == "overfitting":
            made.few, made.few_place = round(value["batches"]), onset
        return made
