"""Per-step metrics at next to no cost for the training thread.

Between two steps the processor's caches hold the model, and Python runs several times slower than in a hot loop. So a
step only leaves its numbers behind; the writer's thread makes rows of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from agenttune.protocol.metrics import Point
from agenttune.store.metric_table import MetricRow
from agenttune.trainer.layers.weight_sampler import WeightSample
from agenttune.trainer.recording.logged_rows import split


class StepMetrics(NamedTuple):
    """The metrics of one step, not read yet: losses (one a micro-batch), norm and extra values may be [] tensors.

    With several ranks the losses may be `SharedLoss`es, of all of them.

    Attributes:
        weights: A look at the weights after it, where one was due.
    """

    step: int
    branch: str
    at_s: float
    took_s: float
    lr: float
    base_lr: float
    samples: int
    tokens: int
    losses: list[Any]
    norm: Any
    extra: dict[str, Any]
    weights: WeightSample | None = None


class RawRow(NamedTuple):
    """A row of the loop's own log, not taken apart yet."""

    step: int
    branch: str
    at_s: float
    row: Mapping[str, Any]

    def read(self) -> MetricRow:
        """As it is recorded."""
        values, texts = split(self.row)
        return MetricRow(self.step, self.at_s, values, "log", self.branch, texts)


Metrics = Point | MetricRow | StepMetrics | RawRow


class StepMeter:
    """Collects what happens within one optimizer step.

    Args:
        replicas: Data-parallel processes; samples and tokens are counted for all of them.
    """

    def __init__(self, replicas: int = 1) -> None:
        self.branch = "main"
        self._replicas = replicas
        self.losses: list[torch.Tensor] = []
        self._extra: dict[str, float | torch.Tensor] = {}
        self._norm: Any = None
        self._samples = 0
        self._tokens = 0
        self._key: str | None = None
        self._mark_s = time.perf_counter()

    def add_loss(self, loss: torch.Tensor) -> None:
        """The loss of one micro-batch, [], as its share of the step's loss; detached."""
        self.losses.append(loss)

    def add_batch(self, inputs: Any) -> None:
        """Count samples and tokens of one micro-batch: entries of shape [batch, ...], `input_ids` of [batch, seq]."""
        try:
            shape = inputs[self._key].shape
        except (KeyError, TypeError, AttributeError, IndexError):
            self._key, shape = _telling(inputs)
        if shape:
            self._samples += shape[0]
            if self._key == "input_ids":
                self._tokens += math.prod(shape)

    def add_values(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """More metrics of this step: numbers, or detached [] or [1] tensors that are not written to any more."""
        # Not in place: what the last step left behind may hold this very dict, while it is empty.
        self._extra = {**self._extra, **values}

    def set_norm(self, norm: object) -> None:
        """The gradient norm before clipping."""
        self._norm = norm

    def skip(self) -> None:
        """What took place since the last mark (an evaluation, a save, a pause) is not part of the step."""
        self._mark_s = time.perf_counter()

    def finish(
        self, step: int, lr: float, base_lr: float, other_rates: Mapping[str, float] | None = None
    ) -> StepMetrics:
        """Close a step, with the rates of its update; `other_rates` are of the other parameter groups, by name."""
        samples, tokens = self._samples * self._replicas, self._tokens * self._replicas
        took_s, losses, extra = time.perf_counter() - self._mark_s, self.losses, self._extra
        if other_rates:
            extra = {**extra, **other_rates}
        held = StepMetrics(
            step, self.branch, time.time(), took_s, lr, base_lr, samples, tokens, losses, self._norm, extra
        )
        self.losses, self._norm, self._samples, self._tokens = [], None, 0, 0
        if extra:
            self._extra = {}
        return held


def _telling(inputs: Any) -> tuple[str | None, tuple[int, ...]]:
    """The entry of a batch that tells how many samples (and tokens) are in it."""
    if not isinstance(inputs, Mapping) or not len(inputs):
        return None, ()
    key = "input_ids" if "input_ids" in inputs else next(iter(inputs))
    return key, tuple(getattr(inputs[key], "shape", ()))
