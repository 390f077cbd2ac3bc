"""What a rank tells of itself: where it is, how long its steps take and what of that is its own work.

Under data parallelism all ranks take the same time for a step, as each waits for the slowest. What tells them apart is
the time before the gradients are exchanged: the wait for a batch, and the forward passes.
"""

from __future__ import annotations

import struct
import time
from base64 import b64decode, b64encode
from typing import Any, NamedTuple

import psutil
import torch

from agenttune.protocol.rank_reads import PLACES, Place

_FORM = struct.Struct("<qqb3dq")
MEMORY_INTERVAL_S = 5.0
"""How often memory is read: a sign of life costs half without it (measured), and it is told every ten seconds."""


class Beat(NamedTuple):
    """One sign of life.

    Attributes:
        number: Counts them.
        step: Completed optimizer steps.
        place: Where the rank is.
        step_time_s, data_wait_s, forward_s: Means of the steps since the one before it; 0 if there were none.
        memory_bytes: Of the device, else of the process, as it was at most `MEMORY_INTERVAL_S` before.
    """

    number: int
    step: int
    place: Place
    step_time_s: float = 0.0
    data_wait_s: float = 0.0
    forward_s: float = 0.0
    memory_bytes: int = 0

    def pack(self) -> str:
        """As text, which is what torch's stores take."""
        return b64encode(_FORM.pack(self.number, self.step, PLACES.index(self.place), *self[3:])).decode()

    @classmethod
    def unpack(cls, data: bytes) -> Beat:
        number, step, place, *rest = _FORM.unpack(b64decode(data))
        return cls(number, step, PLACES[place], *rest)


class Pulse:
    """Collects what a rank tells; written to by the training thread, read by the thread that tells it.

    A figure that is read in the middle of a write is a little off, once.
    """

    def __init__(self) -> None:
        self.place: Place = "starting"
        self.step = 0
        self._took_s = self._waited_s = self._forward_s = 0.0
        self._steps = 0
        self._mark_s = self._begun_s = time.perf_counter()
        self._is_first = True
        self._number = 0
        self._device: torch.device | None = None
        self._process = psutil.Process()
        self._memory_bytes, self._memory_due_s = 0, 0.0
        self._hooks: list[Any] = []

    def follow(self, model: torch.nn.Module) -> None:
        """See each training pass of the model begin and end."""
        first = next(model.parameters(), None)
        self._device = None if first is None else first.device
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_forward_hook(self._after_forward),
        ]

    def leave(self) -> None:
        """Follow the model no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.place = "ended"

    def _before_forward(self, model: torch.nn.Module, inputs: Any) -> None:
        now_s = time.perf_counter()
        if not model.training:
            self._mark_s = now_s  # an evaluation is no wait for a batch
            return
        if self._is_first:
            self._is_first = False
            self._waited_s += now_s - self._mark_s
        self.place, self._begun_s = "forward", now_s

    def _after_forward(self, model: torch.nn.Module, inputs: Any, output: Any) -> None:
        now_s = time.perf_counter()
        if model.training:
            self.place = "backward"
            self._forward_s += now_s - self._begun_s
        else:
            self._mark_s = now_s

    def end_step(self, step: int, took_s: float) -> None:
        """A step is complete."""
        self.step, self.place, self._is_first = step, "data", True
        self._mark_s = time.perf_counter()
        self._took_s += took_s
        self._steps += 1

    def take(self) -> Beat:
        """The figures since the last call."""
        steps, self._steps = self._steps, 0
        took_s, self._took_s = self._took_s, 0.0
        waited_s, self._waited_s = self._waited_s, 0.0
        forward_s, self._forward_s = self._forward_s, 0.0
        self._number += 1
        each = (took_s / steps, waited_s / steps, forward_s / steps) if steps else (0.0, 0.0, 0.0)
        if (now_s := time.perf_counter()) >= self._memory_due_s:
            self._memory_bytes, self._memory_due_s = self._read_memory(), now_s + MEMORY_INTERVAL_S
        return Beat(self._number, self.step, self.place, *each, self._memory_bytes)

    def _read_memory(self) -> int:
        if self._device is not None and self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        return int(self._process.memory_info().rss)
