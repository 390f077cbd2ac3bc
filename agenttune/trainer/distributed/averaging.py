"""The loss of a step as the mean over all ranks, without making any of them wait.

Each rank launches an all-reduce of a few numbers at the end of a step and goes on; whoever reads the loss later finds
it done, as no rank can have got on without the others. Short steps are averaged several at once. All ranks launch the
same number of times, as they take the same steps; how many go together is computed from numbers that all have.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from agenttune.detectors.trend import LOSS_NAMES
from agenttune.trainer.recording.background_writer import StepMetrics

logger = logging.getLogger("agenttune")

WINDOW_S = 0.25
"""Steps of this time together are averaged at once, as their rows are written: an all-reduce costs about 0.1 ms of a
processor (measured)."""
RANKS_A_WINDOW = 64
"""With more ranks windows are longer in proportion: gloo passes a message on from rank to rank."""
MOST_STEPS = 32
WAIT_S = 5.0
"""How long a reader waits for the others before it takes this rank's own loss."""
COLUMNS = 4
"""Per step: the loss and whether there is one, what the loop itself calls its loss, and whether there is that."""


class Window:
    """A few steps whose losses are averaged together.

    Args:
        own: This rank's numbers, `COLUMNS` a step.
        took_s: Mean time of these steps.
        world_size: Number of ranks.
        group: For numbers that are on the processor.
    """

    def __init__(self, own: list[Any], took_s: float, world_size: int, group: Any) -> None:
        device = next((value.device for value in own if isinstance(value, torch.Tensor) and value.is_cuda), None)
        self.is_on_device = device is not None
        self._own = own
        # Always as many numbers: a rank that ends before the others, with fewer steps at hand, meets theirs.
        if device is None:
            self._sums = torch.zeros(MOST_STEPS * COLUMNS + 1, dtype=torch.float64)
            numbers = self._sums.numpy()  # the same memory: a tensor's elements cost ten times as much to set
            numbers[: len(own)] = [float(value) for value in own]
            numbers[-1] = took_s
            # Not `dist.all_reduce`, whose checks cost as much as sending does.
            self._work = group.allreduce([self._sums], dist.AllreduceOptions())
        else:  # losses on an accelerator go where its gradients do: nothing is copied, nobody waits
            self._sums = torch.nn.functional.pad(_flat(own, device), (0, MOST_STEPS * COLUMNS + 1 - len(own)))
            self._work = dist.all_reduce(self._sums, async_op=True)
        self._world_size = world_size
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
                return [float(value) / self._world_size for value in self._sums.tolist()]
        except RuntimeError:  # torch's error for a rank that is gone; training itself will tell
            pass
        return [float(value) for value in self._own]

    def mean_time_s(self) -> float:
        """The mean time of the steps over all ranks, the same number on each.

        Raises:
            RuntimeError: A rank is gone.
        """
        work = self._work
        if work is not None:
            work.wait()  # no wait: who has completed a later step has met all ranks after this one's launch
        return float(self._sums[-1]) / self._world_size


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
        world_size: Number of ranks.
        group: The channel's. Not one of its own: each gloo group has a thread that wakes a hundred times a second
            (measured, 0.3 to 1.2 ms of a processor a second), and all ranks come here in the same order anyway.
        joins_unevenly: Whether another rank may have come to its end, and would be waited for.
    """

    def __init__(self, world_size: int, group: Any, joins_unevenly: Callable[[], bool] = lambda: False) -> None:
        self._world_size, self._joins_unevenly = world_size, joins_unevenly
        self._window_s = WINDOW_S * max(1.0, world_size / RANKS_A_WINDOW)
        self._group = group
        self._steps = 1
        self._own: list[Any] = []
        self._pending: list[SharedLoss] = []
        self._took_s = 0.0
        self._last: Window | None = None
        self._is_on = True

    def add(self, point: StepMetrics, at_once: bool) -> tuple[StepMetrics, bool]:
        """A step of this rank.

        Args:
            point: Its metrics.
            at_once: Average it now, as a trial compares steps one by one.

        Returns:
            The same with losses that are everybody's, and whether they may be read by now.
        """
        if not self._is_on:
            return point, True
        first = len(self._own)
        name = self._put(point)
        losses, extra = point.losses, point.extra
        if losses:
            losses = [self._shared(self._own[first], first)]
        if name:
            extra = {**extra, name: self._shared(self._own[first + 2], first + 2)}
        is_due = self._launch_if_due(at_once)
        return point._replace(losses=losses, extra=extra), is_due

    def give(self, point: StepMetrics, at_once: bool) -> None:
        """The same on a rank whose rows nobody reads: it shares what it has, and is told nothing."""
        if self._is_on:
            self._put(point)
            self._launch_if_due(at_once)

    def _put(self, point: StepMetrics) -> str:
        """Note a step's numbers; returns what the loop itself calls its loss, empty if it gives none."""
        losses, extra, found = point.losses, point.extra, ""
        for name in LOSS_NAMES:
            if name in extra:
                found = name
                break
        loss = 0.0 if not losses else losses[0] if len(losses) == 1 else sum(losses)
        self._own += (loss, 1.0 if losses else 0.0, extra[found] if found else 0.0, 1.0 if found else 0.0)
        self._took_s += point.took_s
        return found

    def _launch_if_due(self, at_once: bool) -> bool:
        is_due = at_once or len(self._own) >= self._steps * COLUMNS
        if is_due:
            self._launch()
        return is_due

    def average_now(self) -> None:
        """All ranks stand at the same step, and what is left is to be judged or read: average it."""
        if self._own and self._is_on:
            self._launch()

    def stop(self) -> None:
        """Whoever reads a loss from here on gets this rank's own, and waits for nobody."""
        self._is_on = False
        if self._last is not None:
            self._last.is_given_up = True
            self._last = None

    def _shared(self, own: Any, index: int) -> Any:
        loss = SharedLoss(own, index)
        self._pending.append(loss)
        return loss

    def _launch(self) -> None:
        if self._joins_unevenly():
            self.stop()
            return
        own, took_s = self._own, self._took_s * COLUMNS / len(self._own)
        self._own, self._took_s = [], 0.0
        try:
            if self._last is not None and not self._last.is_on_device:
                self._steps = max(1, min(MOST_STEPS, round(self._window_s / max(self._last.mean_time_s(), 1e-6))))
            window = Window(own, took_s, self._world_size, self._group)
        except RuntimeError as error:  # a rank is gone, and training is about to find that out
            logger.warning("losses are no longer averaged over the ranks: %s", error)
            self._is_on = False
            return
        for loss in self._pending:
            loss.window = window
        self._pending, self._last = [], window

    def close(self, is_whole: bool) -> None:
        """No more steps.

        Args:
            is_whole: All ranks end here, so that the last steps can be averaged too; otherwise they keep their own.
        """
        if is_whole:
            self.average_now()
        self._is_on = False
        if is_whole and self._last is not None:
            self._last.means()
        self._last = self._group = None


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
