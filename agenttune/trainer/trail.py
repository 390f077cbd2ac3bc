"""The newest losses of the steps that a run stands on, for whoever compares before and after."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

import torch

from agenttune.trainer.meter import Held


class Trail:
    """Losses as the steps left them; they are fetched from their device only when they are read.

    Args:
        steps: How many of the newest are kept.
    """

    def __init__(self, steps: int) -> None:
        self._steps: deque[int] = deque(maxlen=steps)
        self._losses: deque[Any] = deque(maxlen=steps)

    @property
    def newest(self) -> int:
        """The newest step with a loss; -1 if there is none."""
        return self._steps[-1] if self._steps else -1

    def add(self, held: Held) -> None:
        """The losses of a step, one a micro-batch."""
        if held.losses:
            self._steps.append(held.step)
            self._losses.append(held.losses)

    def cut(self, step: int) -> None:
        """Forget the steps after one that the run went back to."""
        while self._steps and self._steps[-1] > step:
            self._steps.pop()
            self._losses.pop()

    def count(self, until: int) -> int:
        """How many losses there are up to a step."""
        return len(self._steps) - self._newer_than(until)

    def until(self, step: int, count: int) -> list[float]:
        """Losses of the newest `count` steps up to one, oldest first."""
        end = self.count(step)
        return self._read(max(0, end - count), end)

    def between(self, step: int, last: int) -> list[float]:
        """Losses of the steps after one up to another, oldest first."""
        return self._read(self.count(step), self.count(last))

    def lowest(self, step: int, but: int, width: int) -> float | None:
        """The lowest level, a median of `width` neighbours, of the losses up to a step but for the newest ones."""
        older = self._read(0, max(0, self.count(step) - but))
        levels = [median(older[i : i + width]) for i in range(0, len(older) - width + 1, width)]
        return min(levels, default=None)

    def _newer_than(self, step: int) -> int:
        """Counted from the end: whoever asks, asks about steps near it."""
        newer = 0
        for known in reversed(self._steps):
            if known <= step:
                break
            newer += 1
        return newer

    def _read(self, first: int, end: int) -> list[float]:
        left = [i for i in range(first, end) if isinstance(self._losses[i], list)]
        for i in left:
            self._losses[i] = _sum(self._losses[i])
        return [self._losses[i] for i in range(first, end)]


def _sum(losses: list[Any]) -> float:
    return sum(float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss) for loss in losses)
