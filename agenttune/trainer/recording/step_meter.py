"""Per-step metrics at next to no cost for the training thread.

Between two steps the processor's caches hold the model, and Python runs several times slower than in a hot loop. So a
step only leaves its numbers behind; the writer's thread makes rows of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psutil
import torch

from agenttune.protocol.metrics import Point
from agenttune.store.metric_table import MetricRow
from agenttune.trainer.layers.weight_sampler import WeightSample
from agenttune.trainer.recording.logged_rows import split
from agenttune.trainer.recording.weight_looks import WeightLooks

MEMORY_INTERVAL_S = 1.0
"""How often the process' memory is among a step's metrics: once a second is enough for eyes."""


class StepMetrics(NamedTuple):
    """The metrics of one step, not read yet: losses (one a micro-batch), norm and extra values may be [] tensors.

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
    losses: list[torch.Tensor]
    norm: Any
    extra: dict[str, float | torch.Tensor]
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


class RowMaker:
    """Makes rows of step metrics; called in the writer's thread, in order."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._memory_due_s = 0.0
        self._looks = WeightLooks()
        self._nonfinite_on: str | None = None
        """The branch of the last step whose loss was not finite, until its row is logged."""

    def __call__(self, metrics: Sequence[Metrics]) -> list[Point | MetricRow]:
        """Rows, in order; numbers that lie on a device are fetched in one copy."""
        held = [m for m in metrics if isinstance(m, StepMetrics)]
        left = [value for h in held for value in (*h.losses, h.norm, *h.extra.values())]
        tensors = [value for value in left if isinstance(value, torch.Tensor)]
        fetched = iter(_fetch(tensors))
        rows: list[Point | MetricRow] = []
        for m in metrics:
            if isinstance(m, StepMetrics):
                losses, norm = [next(fetched) for _ in m.losses], _number(m.norm, fetched)
                extra = {name: _number(value, fetched) for name, value in m.extra.items()}
                rows.append(self._row(m, losses, norm, extra))
            else:
                row = m.read() if isinstance(m, RawRow) else m
                self._mend_loss(row)
                rows.append(row)
        if held and time.monotonic() >= self._memory_due_s:
            self._memory_due_s = time.monotonic() + MEMORY_INTERVAL_S
            newest = max(i for i, m in enumerate(metrics) if isinstance(m, StepMetrics))
            rows[newest].values.setdefault("memory_bytes", self._memory_bytes(tensors))
        return rows

    def _mend_loss(self, row: Point | MetricRow) -> None:
        """The Trainer's own filter logs a finite loss after a NaN (0.0 in the end)."""
        if row.source == "log":
            if self._nonfinite_on == row.branch and "loss" in row.values:
                row.values["loss"] = math.nan
            self._nonfinite_on = None

    def _row(self, held: StepMetrics, losses: list[float], norm: float | None, extra: dict[str, float]) -> MetricRow:
        values = {"lr": held.lr, "base_lr": held.base_lr, "step_time_s": held.took_s}
        if held.took_s > 0 and held.samples:
            values["samples_per_s"] = held.samples / held.took_s
        if held.took_s > 0 and held.tokens:
            values["tokens_per_s"] = held.tokens / held.took_s
        if losses:
            values["step_loss"] = loss = sum(losses)
            if not math.isfinite(loss):
                self._nonfinite_on = held.branch
        if norm is not None:
            values["step_grad_norm"] = norm
        row = MetricRow(held.step, held.at_s, values | extra, "step", held.branch)
        return row if held.weights is None else self._with_look(row, held.weights)

    def _with_look(self, row: MetricRow, sample: WeightSample) -> MetricRow:
        look = self._looks.add(sample)
        told = {"path_straightness": look.straightness, "update_ratio": look.update_ratio}
        row.values.update({name: value for name, value in told.items() if not math.isnan(value)})
        return row._replace(look=look)

    def _memory_bytes(self, tensors: list[torch.Tensor]) -> float:
        if any(t.is_cuda for t in tensors):
            return float(torch.cuda.memory_allocated())
        return float(self._process.memory_info().rss)


def _fetch(tensors: list[torch.Tensor]) -> list[float]:
    """The values of one-element tensors, in one copy from the device they are on."""
    if all(t.device.type == "cpu" for t in tensors):
        return [t.item() for t in tensors]
    flat = [t.detach().reshape(()).to(tensors[0].device, torch.float32, non_blocking=True) for t in tensors]
    values: list[float] = torch.stack(flat).tolist()
    return values


def _number(value: Any, fetched: Iterator[float]) -> Any:
    """A number as it is, and the next fetched one for a tensor."""
    return next(fetched) if isinstance(value, torch.Tensor) else value if value is None else float(value)
