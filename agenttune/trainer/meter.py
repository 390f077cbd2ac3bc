"""Per-step metrics at next to no cost for the training thread.

Between two steps the processor's caches hold the model, and Python runs several times slower than in a hot loop. So a
step only leaves its numbers behind; rows are made of several at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import psutil
import torch

from agenttune.points import Row

MEMORY_INTERVAL_S = 1.0
"""Reading a process' memory takes about 20 us; once a second is enough for eyes."""
DRAIN_STEPS = 16
"""Steps whose numbers are turned into rows together."""
DRAIN_INTERVAL_S = 0.1
"""And after so long at the latest: a person sees no delay, and an agent waits longer for the next commit."""
ACCELERATOR_INTERVAL_S = 1.0
"""The same where fetching the numbers makes the training thread wait for the device."""


class Held(NamedTuple):
    """What a step left behind. Losses (one a micro-batch) and norm may be tensors on a device."""

    step: int
    at_s: float
    took_s: float
    lr: float
    base_lr: float
    samples: int
    tokens: int
    memory_bytes: float | None
    losses: list[torch.Tensor]
    norm: Any


class StepMeter:
    """Collects what happens within one optimizer step and turns it into rows.

    Args:
        on_accelerator: Losses live on a device; fetch them seldom, so that no step waits for one of its own.
        replicas: Data-parallel processes; samples and tokens are counted for all of them.
    """

    def __init__(self, on_accelerator: bool, replicas: int = 1) -> None:
        self._on_accelerator = on_accelerator
        self._interval_s = ACCELERATOR_INTERVAL_S if on_accelerator else DRAIN_INTERVAL_S
        self._replicas = replicas
        self._losses: list[torch.Tensor] = []
        self._norm: Any = None
        self._samples = 0
        self._tokens = 0
        self._held: list[Held] = []
        self._mark_s = time.perf_counter()
        self._drained_s = self._mark_s
        self._memory_due_s = self._mark_s
        self._process = psutil.Process()
        self._loss_was_nonfinite = False

    def add_loss(self, loss: torch.Tensor) -> None:
        """The loss of one micro-batch, as its share of the step's loss; detached."""
        self._losses.append(loss)

    def add_batch(self, inputs: object) -> None:
        """Count samples and tokens of one micro-batch from its shapes."""
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            return
        ids = inputs.get("input_ids")
        shape: Any = getattr(next(iter(inputs.values()), None) if ids is None else ids, "shape", ())
        if len(shape):
            self._samples += shape[0]
        if ids is not None:
            self._tokens += math.prod(shape)

    def set_norm(self, norm: object) -> None:
        """The gradient norm before clipping."""
        self._norm = norm

    def skip(self) -> None:
        """What took place since the last mark (an evaluation, a save, a pause) is not part of the step."""
        self._mark_s = time.perf_counter()

    def finish(self, step: int, lr: float, base_lr: float) -> list[Row]:
        """Close a step; returns the rows that are ready, most often none."""
        now_s = time.perf_counter()
        memory_bytes = None
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + MEMORY_INTERVAL_S
            memory_bytes = self._memory_bytes()
        took_s = now_s - self._mark_s
        counts = self._samples, self._tokens
        self._held.append(Held(step, time.time(), took_s, lr, base_lr, *counts, memory_bytes, self._losses, self._norm))
        self._losses, self._norm, self._samples, self._tokens = [], None, 0, 0
        due = len(self._held) >= DRAIN_STEPS or now_s - self._drained_s >= self._interval_s
        return self.drain() if due else []

    def drain(self) -> list[Row]:
        """Rows of all steps held, their numbers fetched in one copy."""
        held, self._held = self._held, []
        self._drained_s = time.perf_counter()
        tensors = [t for h in held for t in (*h.losses, h.norm) if isinstance(t, torch.Tensor)]
        fetched = iter(_fetch(tensors))
        return [self._row(h, [next(fetched) for _ in h.losses], _norm(h.norm, fetched)) for h in held]

    def take_nonfinite(self) -> bool:
        """Whether a step's loss was NaN or infinite since this was last asked."""
        was, self._loss_was_nonfinite = self._loss_was_nonfinite, False
        return was

    def _row(self, held: Held, losses: list[float], norm: float | None) -> Row:
        values = {"lr": held.lr, "base_lr": held.base_lr, "step_time_s": held.took_s}
        if held.took_s > 0 and held.samples:
            values["samples_per_s"] = held.samples * self._replicas / held.took_s
        if held.took_s > 0 and held.tokens:
            values["tokens_per_s"] = held.tokens * self._replicas / held.took_s
        if held.memory_bytes is not None:
            values["memory_bytes"] = held.memory_bytes
        if losses:
            values["step_loss"] = loss = sum(losses)
            if not math.isfinite(loss):
                self._loss_was_nonfinite = True
        if norm is not None:
            values["step_grad_norm"] = norm
        return Row(held.step, held.at_s, values)

    def _memory_bytes(self) -> float:
        if self._on_accelerator and torch.cuda.is_available():
            return float(torch.cuda.memory_allocated())
        return float(self._process.memory_info().rss)


def _fetch(tensors: list[torch.Tensor]) -> list[float]:
    """The values of one-element tensors, in one copy from the device they are on."""
    if all(t.device.type == "cpu" for t in tensors):
        return [t.item() for t in tensors]
    flat = [t.detach().reshape(()).to(tensors[0].device, torch.float32, non_blocking=True) for t in tensors]
    values: list[float] = torch.stack(flat).tolist()
    return values


def _norm(norm: Any, fetched: Any) -> float | None:
    if norm is None:
        return None
    return float(next(fetched)) if isinstance(norm, torch.Tensor) else float(norm)
