"""The loss of a step as the mean over all ranks, without making any of them wait.

Each rank gives its numbers along with rank 0's flag at the start of a step and goes on; whoever reads the losses later
finds them there, as no rank can have got on without the others. What cannot go along is summed by itself, when rank 0's
flag says so: losses on an accelerator, and those of very many ranks.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from agenttune.detectors.trend import LOSS_NAMES
from agenttune.trainer.distributed.channel import LOSSES, MOST_CARRYING, RankChannel, Told
from agenttune.trainer.recording.step_meter import StepMetrics

logger = logging.getLogger("agenttune")

WINDOW_S = 0.25
"""Losses that do not go along with a flag are averaged about so often, as their rows are written (guess)."""
WAIT_S = 5.0
"""How long a reader waits for the others before it takes this rank's own loss."""
COLUMNS = 4
"""Per step: the loss and whether there is one, what the loop itself calls its loss, and whether there is that."""
MOST_STEPS = LOSSES // COLUMNS
"""Of which losses are summed at once: twice as many as go by between two flags."""

Send = Callable[[Sequence[float]], Told]
"""Sends numbers that are added up over the ranks."""


class Window:
    """A few steps whose losses are averaged together.

    Args:
        own: This rank's numbers, `COLUMNS` a step.
        work: Their sending.
        sums: Of all ranks, once that is done.
        world_size: Number of ranks.
    """

    def __init__(self, own: list[Any], work: Any, sums: torch.Tensor, world_size: int) -> None:
        self._own, self._work, self._sums, self._world_size = own, work, sums, world_size
        self.is_given_up = False
        """Another rank will not take part any more."""
        self._lock = threading.Lock()
        self._means: list[float] | None = None

    def means(self) -> list[float]:
        """The averages, in the order of the numbers; this rank's own where the others do not answer."""
        with self._lock:
            if self._means is None:
                self._means = self._read()
                self._work = None  # which holds the connections to the other ranks open
        return self._means

    def _read(self) -> list[float]:
        deadline_s = time.monotonic() + WAIT_S
        while not self._work.is_completed() and time.monotonic() < deadline_s and not self.is_given_up:
            time.sleep(0.0002)
        try:
            if self._work.is_completed():
                self._work.wait()
                return [float(value) / self._world_size for value in self._sums[: len(self._own)].tolist()]
        except RuntimeError:  # torch's error for a rank that is gone; training itself will tell
            pass
        return [float(value) for value in self._own]


class SharedLoss:
    """The mean over all ranks of a step's loss: a number that is read when it is needed.

    Args:
        own: This rank's.
    """

    __slots__ = ("_index", "_own", "window")

    def __init__(self, own: Any, index: int) -> None:
        self._own, self._index = own, index
        self.window: Window | None = None

    def __float__(self) -> float:
        if self.window is None:  # its steps are not complete: of the newest moments only
            return float(self._own)
        means = self.window.means()
        share = means[self._index + 1]  # of the ranks that had a loss in this step
        return means[self._index] / share if share else means[self._index]


class LossAveraging:
    """Averages the losses of one run; each rank has one.

    Args:
        channel: To the other ranks. No group of its own: all ranks come here in the same order anyway.
        joins_unevenly: Whether another rank may have come to its end, and would be waited for.
        clock_s: Monotonic time in seconds.
    """

    def __init__(
        self,
        channel: RankChannel,
        joins_unevenly: Callable[[], bool] = lambda: False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel, self._joins_unevenly, self._clock_s = channel, joins_unevenly, clock_s
        self._window_s = WINDOW_S * max(1.0, channel.size / MOST_CARRYING)
        self._averaged_s = clock_s()
        self._own: list[Any] = []
        self._pending: list[SharedLoss] = []
        self._last: Window | None = None
        self._is_on = True

    @property
    def is_pending(self) -> bool:
        """Whether steps wait for being averaged."""
        return bool(self._own)

    def add(self, point: StepMetrics, at_once: bool) -> StepMetrics:
        """A step of this rank.

        Args:
            point: Its metrics.
            at_once: Average it now, as a trial compares steps one by one.

        Returns:
            The same with losses that are everybody's.
        """
        if not self._has_room:
            return point
        first = len(self._own)
        name = self._put(point)
        losses, extra = point.losses, point.extra
        if losses:
            losses = [self._shared(self._own[first], first)]
        if name:
            extra = {**extra, name: self._shared(self._own[first + 2], first + 2)}
        if at_once:
            self.average_now()
        return point._replace(losses=losses, extra=extra)

    def give(self, point: StepMetrics, at_once: bool) -> None:
        """The same on a rank whose rows nobody reads: it shares what it has, and is told nothing."""
        if self._has_room:
            self._put(point)
            if at_once:
                self.average_now()

    @property
    def _has_room(self) -> bool:
        return self._is_on and len(self._own) < LOSSES

    def _put(self, point: StepMetrics) -> str:
        """Note a step's numbers; returns what the loop itself calls its loss, empty if it gives none."""
        losses, extra, found = point.losses, point.extra, ""
        for name in LOSS_NAMES:
            if name in extra:
                found = name
                break
        loss = 0.0 if not losses else losses[0] if len(losses) == 1 else sum(losses)
        self._own += (loss, 1.0 if losses else 0.0, extra[found] if found else 0.0, 1.0 if found else 0.0)
        return found

    def _shared(self, own: Any, index: int) -> Any:
        loss = SharedLoss(own, index)
        self._pending.append(loss)
        return loss

    # -- when ---------------------------------------------------------------------------------------------------

    def go_along(self, send: Send) -> None:
        """A flag is sent: the losses go along with it, where they can.

        Raises:
            RanksApart: A rank is gone.
        """
        own = self._own if self._is_on and self._goes_along() else []
        told = send([float(value) for value in own])
        if own:
            self._launched(Window(own, told.work, told.sums, self._channel.size))

    def is_due(self) -> bool:
        """On rank 0: whether the losses that did not go along are to be averaged now."""
        if not self._own or not self._is_on or self._goes_along():
            return False
        is_full = 2 * len(self._own) >= LOSSES
        return is_full or self._clock_s() - self._averaged_s >= self._window_s

    def average_now(self) -> None:
        """All ranks stand at the same step, and what is left is to be judged or read: average it."""
        if not self._own or not self._is_on:
            return
        if self._joins_unevenly():
            self.stop()
            return
        try:
            self._launched(self._sum_up(self._own))
        except RuntimeError as error:  # a rank is gone, and training is about to find that out
            logger.warning("losses are no longer averaged over the ranks: %s", error)
            self.stop()

    def _goes_along(self) -> bool:
        return self._channel.carries and _device_of(self._own) is None

    def _sum_up(self, own: list[Any]) -> Window:
        device, size = _device_of(own), self._channel.size
        if device is None:
            told = self._channel.sum_up([float(value) for value in own])
            return Window(own, told.work, told.sums, size)
        # Losses on an accelerator go where its gradients do: nothing is copied, nobody waits.
        sums = torch.nn.functional.pad(_flat(own, device), (0, LOSSES - len(own)))
        return Window(own, dist.all_reduce(sums, async_op=True), sums, size)

    def _launched(self, window: Window) -> None:
        for loss in self._pending:
            loss.window = window
        self._own, self._pending, self._last = [], [], window
        self._averaged_s = self._clock_s()

    def stop(self) -> None:
        """Whoever reads a loss from here on gets this rank's own, and waits for nobody."""
        self._is_on = False
        self._own, self._pending = [], []
        if self._last is not None:
            self._last.is_given_up = True
            self._last = None

    def close(self, is_whole: bool) -> None:
        """No more steps.

        Args:
            is_whole: All ranks end here, so that the last steps can be averaged too; otherwise they keep their own.
        """
        if is_whole:
            self.average_now()
        if is_whole and self._is_on and self._last is not None:
            self._last.means()
        self._is_on = False


def _device_of(values: list[Any]) -> torch.device | None:
    """The accelerator that losses are on."""
    return next((value.device for value in values if isinstance(value, torch.Tensor) and value.is_cuda), None)


@functools.lru_cache(maxsize=8)
def _constant(value: float, device: torch.device) -> torch.Tensor:
    """A number that lies on the device already: to send it there would make the processor wait."""
    return torch.tensor(value, dtype=torch.float64, device=device)


def _flat(values: list[Any], device: torch.device) -> torch.Tensor:
    return torch.stack([_on(value, device) for value in values])


def _on(value: Any, device: torch.device) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().reshape(()).to(device, torch.float64)
    return _constant(float(value), device)
