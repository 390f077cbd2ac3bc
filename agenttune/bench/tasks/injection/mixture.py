"""A fault in the data of a mixture: its own weights shift, as somebody's pipeline does it."""

from __future__ import annotations

import random
from typing import Any

from agenttune.bench.tasks.injection.injector import Injector
from agenttune.bench.training import Fault
from agenttune.trainer.datasets import Mixture


class WeightsShift(Injector):
    """From the onset on most samples come from one source, until somebody sets the weights right.

    A return to an earlier step brings the weights of then back, and meets the shift again.
    """

    def __init__(self, fault: Fault, model: Any, seed: int, mixture: Mixture) -> None:
        super().__init__(fault, model, seed)
        self._mixture = mixture

    def after_step(self, step: int, is_trial: bool = False) -> None:
        if step != max(1, self.fault.step) or is_trial:
            return
        names = self._mixture.names
        left = names[random.Random(self.seed).randrange(len(names))]
        shifted = self.value("shifted_frac")
        rest = (1 - shifted) / (len(names) - 1)
        self._mixture.weights = {name: shifted if name == left else rest for name in names}
