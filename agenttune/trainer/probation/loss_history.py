"""The newest training losses, for a comparison of before and after a change; a restore removes those it undoes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from statistics import median
from typing import Any

import torch

from agenttune.detectors.forecast import newest_regime
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.store.run_log import RunLog
from agenttune.trainer.recording.background_writer import StepMetrics


class LossHistory:
    """The newest losses, one a step; fetched from their device only when they are read.

    Args:
        steps: How many of the newest are kept.
    """

    def __init__(self, steps: int) -> None:
        self._inbox: deque[StepMetrics] = deque(maxlen=steps)
        self.add = self._inbox.append
        """Takes the numbers of a step; they are looked at when somebody asks, as this is at every step."""
        self._known: deque[int] = deque(maxlen=steps)
        """Steps whose losses are known."""
        self._losses: deque[Any] = deque(maxlen=steps)
        self._redefined: list[int] = []
        """Steps after each of which the loss has another definition."""

    @property
    def newest(self) -> int:
        """The newest step with a loss; -1 if there is none."""
        return self._steps[-1] if self._steps else -1

    @property
    def _steps(self) -> deque[int]:
        while self._inbox:
            metrics = self._inbox.popleft()
            # One scalar tensor a micro-batch; of a user's own loop, what it calls its loss.
            losses = metrics.losses or [metrics.extra[name] for name in LOSS_NAMES if name in metrics.extra][:1]
            if losses:
                self._known.append(metrics.step)
                self._losses.append(losses)
        return self._known

    @property
    def size(self) -> int:
        """How many are kept."""
        return self._known.maxlen or 0

    def seed(self, losses: Iterable[tuple[int, float]]) -> None:
        """Begin with the losses of an earlier attempt: steps with their loss, in order."""
        steps = self._steps
        for step, loss in losses:
            steps.append(step)
            self._losses.append(loss)

    def cut(self, step: int) -> None:
        """Forget the steps after the one that the run was restored to."""
        steps = self._steps
        while steps and steps[-1] > step:
            steps.pop()
            self._losses.pop()
        self._redefined = [redefined for redefined in self._redefined if redefined <= step]

    def redefine(self, step: int) -> None:
        """The loss has another definition after a step; earlier losses cannot be compared with later ones."""
        oldest = self._steps[0] if self._steps else math.inf
        self._redefined = [*(r for r in self._redefined if r >= oldest), step]

    def count(self, until: int) -> int:
        """Number of losses up to a step, under the definition then in force."""
        return self._end(until) - self._first(until)

    def until(self, step: int, count: int) -> list[float]:
        """Up to `count` losses that end at a step, under one definition, oldest first."""
        end = self._end(step)
        return self._read(max(self._first(step), end - count), end)

    def between(self, step: int, last: int) -> list[float]:
        """Losses of the steps after one up to another, oldest first."""
        return self._read(self._end(step), self._end(last))

    def jumped(self, step: int, count: int) -> int:
        """The last step before the newest `count` losses jumped upwards for good; -1 if they did not."""
        end = self._end(step)
        first = max(self._first(step), end - count)
        finite = [(i, v) for i, v in enumerate(self._read(first, end), first) if math.isfinite(v)]
        jump = newest_regime([v for _, v in finite])
        return self._steps[finite[jump - 1][0]] if jump else -1

    def lowest(self, step: int, but: int, width: int) -> float | None:
        """The lowest median of `width` neighbouring losses up to a step, leaving out the newest `but`."""
        first = self._first(step)
        older = self._read(first, max(first, self._end(step) - but))
        levels = [median(older[i : i + width]) for i in range(0, len(older) - width + 1, width)]
        return min(levels, default=None)

    def _first(self, step: int) -> int:
        """Index of the first loss under the definition that is in force at a step."""
        redefined = max((r for r in self._redefined if r <= step), default=None)
        return 0 if redefined is None else self._end(redefined)

    def _end(self, step: int) -> int:
        """Index of the first loss after a step."""
        return len(self._steps) - self._newer_than(step)

    def _newer_than(self, step: int) -> int:
        """Counted from the end, as the steps asked about are near it."""
        newer = 0
        for known in reversed(self._steps):
            if known <= step:
                break
            newer += 1
        return newer

    def _read(self, first: int, end: int) -> list[float]:
        read = list(islice(self._losses, first, end))  # in one go: each index would be walked to from an end
        for i, loss in enumerate(read):
            if isinstance(loss, list):
                self._losses[first + i] = read[i] = _sum(loss)
        return read


def losses_until(log: RunLog, branch: str, step: int, count: int) -> list[tuple[int, float]]:
    """Up to `count` losses that a run's log has of the steps that led to one, oldest first."""
    line, found = log.lineage(branch), dict[int, float]()
    rows = log.points(max(0, log.last_point_id() - 4 * count), 4 * count)
    for row in rows:
        loss = next((row.values[name] for name in LOSS_NAMES if name in row.values), None)
        if row.source == "step" and loss is not None and row.step <= step and line.has(row.branch, row.step):
            found[row.step] = loss
    return sorted(found.items())[-count:]


def _sum(losses: list[Any]) -> float:
    return sum(float(loss.item() if isinstance(loss, torch.Tensor) else loss) for loss in losses)
