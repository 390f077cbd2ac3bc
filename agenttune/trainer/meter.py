"""Per-step metrics at next to no cost for the training thread."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from agenttune.events import Point

MEMORY_INTERVAL_S = 1.0
"""Reading a process' memory takes about 20 us; once a second is enough for eyes."""
DRAIN_STEPS = 16
DRAIN_INTERVAL_S = 1.0
"""Values on an accelerator are fetched together, so that no step waits for one of its own."""


class StepMeter:
    """Collects what happens within one optimizer step and turns it into one row.

    Args:
        on_accelerator: Losses live on a device; fetch them every `DRAIN_STEPS` steps or `DRAIN_INTERVAL_S`.
        replicas: Data-parallel processes; samples and tokens are counted for all of them.
    """

    def __init__(self, on_accelerator: bool, replicas: int = 1) -> None:
        self._on_accelerator = on_accelerator
        self._replicas = replicas
        self._losses: list[Any] = []
        self._norm: Any = None
        self._samples = 0
        self._tokens = 0
        self._held: list[tuple[int, float, dict[str, float], Any, Any]] = []
        self._mark_s = time.perf_counter()
        self._drained_s = self._mark_s
        self._memory_due_s = self._mark_s
        self._process = psutil.Process()
        self._loss_was_nonfinite = False

    def add_loss(self, loss: torch.Tensor) -> None:
        """The loss of one micro-batch, as its share of the step's loss."""
        self._losses.append(loss.detach() if self._on_accelerator else loss.item())

    def add_batch(self, inputs: object) -> None:
        """Count samples and tokens of one micro-batch from its shapes."""
        if not isinstance(inputs, Mapping):
            return
        ids = inputs.get("input_ids")
        if isinstance(ids, torch.Tensor):
            self._tokens += ids.numel()
            self._samples += ids.shape[0] if ids.ndim else 1
            return
        first = next((v for v in inputs.values() if isinstance(v, torch.Tensor) and v.ndim), None)
        self._samples += 0 if first is None else first.shape[0]

    def set_norm(self, norm: object) -> None:
        """The gradient norm before clipping."""
        self._norm = norm

    def skip(self) -> None:
        """What took place since the last mark (an evaluation, a save, a pause) is not part of the step."""
        self._mark_s = time.perf_counter()

    def finish(self, step: int, lr: float, base_lr: float) -> list[Point]:
        """Close a step; returns the rows that are ready, on a CPU always this step's."""
        now_s = time.perf_counter()
        took_s = now_s - self._mark_s
        values = {"lr": lr, "base_lr": base_lr, "step_time_s": took_s}
        if self._samples and took_s > 0:
            values["samples_per_s"] = self._samples * self._replicas / took_s
        if self._tokens and took_s > 0:
            values["tokens_per_s"] = self._tokens * self._replicas / took_s
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + MEMORY_INTERVAL_S
            values["memory_bytes"] = self._memory_bytes()
        losses, norm = self._losses, self._norm
        self._losses, self._norm, self._samples, self._tokens = [], None, 0, 0
        if not self._on_accelerator:
            return [self._row(step, time.time(), values, sum(losses) if losses else None, norm)]
        loss = torch.stack([v.float() for v in losses]).sum() if losses else None
        self._held.append((step, time.time(), values, loss, norm))
        due = len(self._held) >= DRAIN_STEPS or now_s - self._drained_s >= DRAIN_INTERVAL_S
        return self.drain() if due else []

    def drain(self) -> list[Point]:
        """Fetch what is still on the accelerator, in one copy."""
        held, self._held = self._held, []
        self._drained_s = time.perf_counter()
        flat = [v.reshape(()).float() for _, _, _, *pair in held for v in pair if isinstance(v, torch.Tensor)]
        fetched = iter(torch.stack([v.to(flat[0].device) for v in flat]).tolist() if flat else [])

        def plain(value: Any) -> Any:
            return next(fetched) if isinstance(value, torch.Tensor) else value

        return [self._row(step, at_s, values, plain(loss), plain(norm)) for step, at_s, values, loss, norm in held]

    def take_nonfinite(self) -> bool:
        """Whether a step's loss was NaN or infinite since this was last asked."""
        was, self._loss_was_nonfinite = self._loss_was_nonfinite, False
        return was

    def _row(self, step: int, at_s: float, values: dict[str, float], loss: float | None, norm: Any) -> Point:
        if loss is not None:
            values["step_loss"] = loss
            if not math.isfinite(loss):
                self._loss_was_nonfinite = True
        if norm is not None:
            values["step_grad_norm"] = float(norm)
        return Point.model_construct(step=step, at_s=at_s, values=values, source="step", branch="main")

    def _memory_bytes(self) -> float:
        if self._on_accelerator and torch.cuda.is_available():
            return float(torch.cuda.memory_allocated())
        return float(self._process.memory_info().rss)
