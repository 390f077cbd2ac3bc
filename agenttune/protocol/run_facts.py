"""What an expert asks first of a training: as the trainer read it, at the start and after each change."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from agenttune.protocol.proposals import Record


class Rhythm(Record):
    """How often a loop does something by itself.

    Attributes:
        every: How often.
        unit: Whether it counts in optimizer steps or in epochs, at whose ends it is done.
        first: Not before this step, or epoch.
    """

    every: int = Field(ge=1)
    unit: Literal["steps", "epochs"] = "steps"
    first: float = 0

    def next_after(self, step: int, epoch_steps: int | None) -> int | None:
        """The step at which it is due next after a step; None where the length of an epoch is not known.

        Args:
            step: Completed optimizer steps.
            epoch_steps: Optimizer steps in an epoch.
        """
        length = 1 if self.unit == "steps" else epoch_steps
        if not length:
            return None
        period = self.every * length
        return period * max(step // period + 1, math.ceil(self.first / self.every))


class RunFacts(Record):
    """A training in figures. None or empty: the loop does not tell.

    Attributes:
        model: Class name.
        parameters: Weights, each counted once; `trainable` of them are trained.
        tied: Weights that are one and the same under two names, such as `lm_head.weight = wte.weight`.
        dropping: Layers that drop nearly all that they are given, and which part.
        optimizer: Class name; its settings are knobs.
        batch_size: Samples of one micro-batch in one process.
        replicas: Data-parallel processes.
        samples: Training samples in an epoch.
        epoch_steps: Optimizer steps in an epoch, at the accumulation of now.
        epochs: Epochs planned.
        chance_loss: Loss of a guess that knows nothing, in nats.
        chance_of: What that rests on.
        chance_is_guess: Whether it rests on the width of the last layer alone, whatever the loss is: it counts only
            where the first loss of the run is near it (`detectors/chance.py`).
        trained_before: Whether the weights that are trained were no fresh ones as the run began; None: that cannot be
            told by them.
        evaluation, saving, logging: The loop's own; commands come on top.
    """

    model: str = ""
    parameters: int | None = None
    trainable: int | None = None
    tied: list[str] = Field(default_factory=list)
    dropping: dict[str, float] = Field(default_factory=dict)
    optimizer: str = ""
    batch_size: int | None = None
    replicas: int = 1
    samples: int | None = None
    epoch_steps: int | None = None
    epochs: float | None = None
    chance_loss: float | None = None
    chance_of: str = ""
    chance_is_guess: bool = False
    trained_before: bool | None = None
    evaluation: Rhythm | None = None
    saving: Rhythm | None = None
    logging: Rhythm | None = None
