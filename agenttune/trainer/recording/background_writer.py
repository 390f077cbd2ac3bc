"""What a step leaves behind, and the background thread that makes rows of it and writes them into the run's log.

Training never waits for a disk. Between two steps the processor's caches hold the model, and Python runs several times
slower than in a hot loop: so a step only leaves its numbers, in as few calls as can be, and the thread does the rest.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from agenttune.errors import StoreFault, UserError
from agenttune.protocol.events import LogGap
from agenttune.protocol.metrics import Point
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.store.wal_monitor import OwnCommits
from agenttune.trainer.layers.weight_sampler import WeightSample
from agenttune.trainer.recording.logged_rows import split
from agenttune.trainer.recording.weight_looks import WeightLooks

logger = logging.getLogger("agenttune")

INTERVAL_S = 0.25
"""Time between commits of metrics (guess: four a second look live and cost nothing)."""
CAPACITY_ROWS = 50_000
"""Metric rows kept while the disk is full; about 20 MB."""
BATCH_ROWS = 5_000
LONGEST_BACKOFF_S = 5.0
CLOSE_TIMEOUT_S = 15.0
"""Longer than the store waits for a lock, so that a busy log is not given up."""
REASON_CHARACTERS = 500
MEMORY_INTERVAL_S = 5.0
"""How often the process' memory is among a step's metrics (guess): asking the system for it takes up to 0.2 ms."""


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
_NOTHING: dict[str, Any] = {}


class StepMeter:
    """Collects what happens within one optimizer step.

    Args:
        replicas: Data-parallel processes; samples and tokens are counted for all of them.

    Attributes:
        branch: The branch that training is on.
        losses: Of the micro-batches so far, each [], as its share of the step's loss; detached.
        norm: The gradient norm before clipping.
        began_s: Where the step began, by `time.perf_counter`.
    """

    __slots__ = ("_extra", "_key", "_replicas", "_samples", "_tokens", "began_s", "branch", "losses", "norm")

    def __init__(self, replicas: int = 1) -> None:
        self.branch = "main"
        self.losses: list[torch.Tensor] = []
        self.norm: Any = None
        self.began_s = time.perf_counter()
        self._replicas = replicas
        self._extra: dict[str, float | torch.Tensor] = _NOTHING
        self._samples = self._tokens = 0
        self._key: str | None = None

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
        self._extra = {**self._extra, **values}

    def skip(self) -> None:
        """What took place since the last mark (an evaluation, a save, a pause) is not part of the step."""
        self.began_s = time.perf_counter()

    def finish(
        self, step: int, lr: float, base_lr: float, other_rates: Mapping[str, float] | None = None
    ) -> StepMetrics:
        """Close a step, with the rates of its update; `other_rates` are of the other parameter groups, by name."""
        extra, losses, norm = self._extra, self.losses, self.norm
        if other_rates:
            extra = {**extra, **other_rates}
        counts = self._samples * self._replicas, self._tokens * self._replicas
        self.losses, self.norm, self._samples, self._tokens, self._extra = [], None, 0, 0, _NOTHING
        took_s = time.perf_counter() - self.began_s
        values = (step, self.branch, time.time(), took_s, lr, base_lr, *counts, losses, norm, extra, None)
        return tuple.__new__(StepMetrics, values)  # without the call of Python's own that a named tuple takes


def _telling(inputs: Any) -> tuple[str | None, tuple[int, ...]]:
    """The entry of a batch that tells how many samples (and tokens) are in it."""
    if not isinstance(inputs, Mapping) or not len(inputs):
        return None, ()
    key = "input_ids" if "input_ids" in inputs else next(iter(inputs))
    return key, tuple(getattr(inputs[key], "shape", ()))


Job = Callable[[RunLog], object]
Row = Point | MetricRow
MakeRows = Callable[[Sequence[Metrics]], list[Row]]


class BackgroundWriter:
    """Takes metric rows and other writes, and commits them in order on a connection of its own.

    When the log cannot be written (a full disk), everything is kept and tried again; the oldest metric rows go first
    if the buffer is full, and the log says how many. Acks and events are never dropped.

    Args:
        folder: The run's.
        open_log: Opens its log, in the thread.
        interval_s: Time between commits of metrics.
        capacity_rows: What may wait while the log cannot be written.
        make_rows: Makes rows of metrics as they were handed over, in the thread.

    Attributes:
        queue: What waits, in order. Who hands over something at every step appends it here, and calls `trim` when it
            is longer than `capacity_rows`.
        own: Where own commits of rows are reported, so that the command queue ignores them.
    """

    def __init__(
        self,
        folder: Path,
        open_log: Callable[[Path], RunLog] = RunLog.open,
        interval_s: float = INTERVAL_S,
        capacity_rows: int = CAPACITY_ROWS,
        make_rows: MakeRows | None = None,
    ) -> None:
        self._folder = folder
        self._open_log = open_log
        self._interval_s = interval_s
        self.capacity_rows = capacity_rows
        self._make_rows = make_rows or RowMaker()
        self.queue: deque[Metrics | Job] = deque()
        self._batch: list[Row] = []
        """Rows that are being written."""
        self._heads = threading.Lock()
        """Held by who takes from the queue."""
        self._dropped_total = self._dropped_told = 0  # each is changed in one thread only
        self._unreadable: list[str] = []
        """Why, of each row that could not be made and is not told yet."""
        self._fault: StoreFault | None = None
        self._wake = threading.Event()
        self._closing = False
        self._close_by_s = 0.0
        self._log: RunLog | None = None
        self.own: OwnCommits | None = None
        self._thread = threading.Thread(target=self._run, name="agenttune-writer", daemon=True)
        self._thread.start()

    def add_point(self, point: Metrics) -> None:
        """Hand over the metrics of one step, or a row; written within `interval_s`."""
        self.queue.append(point)
        if len(self.queue) > self.capacity_rows:
            self.trim()

    def trim(self) -> None:
        """Drop the oldest rows, and a tenth of what may wait more, as each look goes through all that waits."""
        with self._heads:
            waiting = [self.queue.popleft() for _ in range(len(self.queue))]
            most = len(waiting) - self.capacity_rows + self.capacity_rows // 10
            kept, dropped = list[Metrics | Job](), 0
            for entry in waiting:
                if dropped < most and not callable(entry):
                    dropped += 1
                else:
                    kept.append(entry)
            self._dropped_total += dropped
            self.queue.extendleft(reversed(kept))

    def submit(self, job: Job, urgent: bool = True) -> None:
        """Hand over any other write, done after the rows handed over before it; if `urgent` at once."""
        self.queue.append(job)
        if urgent:
            self._wake.set()

    @property
    def is_held_up(self) -> bool:
        """Whether the last try to write failed; everything is kept and tried again."""
        return self._fault is not None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Write what is left and stop the thread. False, with an error in the program's log, if that failed."""
        self._close_by_s = time.monotonic() + timeout_s
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s + 1.0)
        jobs = sum(map(callable, self.queue))
        left = len(self.queue) - jobs + len(self._batch), jobs
        if any(left):
            logger.error("%s: %d metric rows and %d events could not be written: %s", self._folder, *left, self._fault)
        return not any(left)

    # -- in the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = 0.0
        while True:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            closing = self._closing  # read before draining: what came before close() is then in this round
            try:
                self._drain()
                backoff_s = 0.0
            except StoreFault as fault:
                self._report(fault)
                backoff_s = min(max(2 * backoff_s, self._interval_s), LONGEST_BACKOFF_S)
                self._pause(backoff_s)
            if closing and (self._is_done() or time.monotonic() >= self._close_by_s):
                break
        if self._log is not None:
            self._log.close()

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; new jobs do not cut it short, closing does."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._wake.wait(0.05)
            self._wake.clear()
            if self._closing:
                self._wake.wait(0.05)
                return

    def _report(self, fault: StoreFault) -> None:
        if self._fault is None:
            logger.warning("%s; training goes on, writing is tried again", fault)
        self._fault = fault

    def _drain(self) -> None:
        """Write what has been handed over by now: rows that follow each other in one transaction."""
        log = self._log = self._log or self._open_log(self._folder)
        log.own = self.own
        left = len(self.queue)
        while self._batch or (left > 0 and self.queue):
            if not self._batch:
                taken = self._next_rows(min(left, BATCH_ROWS))
                left -= len(taken)
                self._batch = self._rows_of(taken) if taken else []
            if self._batch:
                log.append_points(self._batch)
                self._batch = []
            elif (job := self._next_job()) is not None:
                self._write_job(log, job)
                with self._heads:  # the same still: only rows are dropped
                    self.queue.popleft()
                left -= 1
        if self._fault is not None or self._dropped_total > self._dropped_told:
            self._recover(log)
        if self._unreadable:
            reason = f"could not be read: {self._unreadable[-1]}"
            log.append(LogGap(dropped_rows=len(self._unreadable), reason=reason))
            self._unreadable.clear()

    def _rows_of(self, taken: Sequence[Metrics]) -> list[Row]:
        """Rows of what was taken; what cannot be read, as a user's values can be anything, is left out and told."""
        try:
            return self._make_rows(taken)
        except Exception as error:
            if len(taken) > 1:
                return [row for one in taken for row in self._rows_of([one])]
            logger.exception("a row for %s cannot be read", self._folder)
            self._unreadable.append(f"{type(error).__name__}: {error}"[:REASON_CHARACTERS])
            return []

    def _next_job(self) -> Job | None:
        """The job that waits first, left where it is; None if a row does, or nothing."""
        with self._heads:
            head = self.queue[0] if self.queue else None
        return head if callable(head) else None

    def _is_done(self) -> bool:
        with self._heads:  # while rows are dropped, the queue is empty for a moment
            return not (self.queue or self._batch)

    def _next_rows(self, most: int) -> list[Metrics]:
        """Take the rows before the next job."""
        queue, taken = self.queue, list[Any]()
        with self._heads:
            while queue and len(taken) < most and not callable(queue[0]):
                taken.append(queue.popleft())
        return taken

    def _write_job(self, log: RunLog, job: Job) -> None:
        try:
            job(log)
        except StoreFault:
            raise
        except UserError as error:  # such as an ack for a command that has an answer already
            logger.warning("not written to %s: %s", self._folder, error.message)
        except Exception:  # a defect in one write must not end all writing
            logger.exception("not written to %s", self._folder)

    def _recover(self, log: RunLog) -> None:
        while (total := self._dropped_total) > self._dropped_told:  # more may be dropped while this is written
            reason = str(self._fault or "rows came faster than they could be written")
            log.append(LogGap(dropped_rows=total - self._dropped_told, reason=reason))
            self._dropped_told = total
        if self._fault is None:
            return
        logger.warning("%s: the log is written again", self._folder)
        self._fault = None


class RowMaker:
    """Makes rows of step metrics; called in the writer's thread, in order."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._memory_due_s = 0.0
        self._looks = WeightLooks()
        self._nonfinite_on: str | None = None
        """The branch of the last step whose loss was not finite, until its row is logged."""

    def __call__(self, metrics: Sequence[Metrics]) -> list[Row]:
        """Rows, in order; numbers that lie on a device are fetched in one copy."""
        fetched = _Fetched(metrics)
        rows: list[Row] = []
        newest: Row | None = None
        for m in metrics:
            row: Row
            if isinstance(m, StepMetrics):
                row = newest = self._row(m, fetched.number)
            else:
                row = m.read() if isinstance(m, RawRow) else m
                self._mend_loss(row)
            rows.append(row)
        if newest is not None and time.monotonic() >= self._memory_due_s:
            self._memory_due_s = time.monotonic() + MEMORY_INTERVAL_S
            newest.values.setdefault("memory_bytes", self._memory_bytes(fetched.is_of_gpu))
        return rows

    def _mend_loss(self, row: Row) -> None:
        """The Trainer's own filter logs a finite loss after a NaN (0.0 in the end)."""
        if row.source == "log":
            if self._nonfinite_on == row.branch and "loss" in row.values:
                row.values["loss"] = math.nan
            self._nonfinite_on = None

    def _row(self, held: StepMetrics, number: Callable[[Any], float]) -> MetricRow:
        step, branch, at_s, took_s, lr, base_lr, samples, tokens, losses, norm, extra, weights = held
        values = {"lr": lr, "base_lr": base_lr, "step_time_s": took_s}
        if took_s > 0 and samples:
            values["samples_per_s"] = samples / took_s
        if took_s > 0 and tokens:
            values["tokens_per_s"] = tokens / took_s
        if losses:
            values["step_loss"] = loss = sum(map(number, losses))
            if not math.isfinite(loss):
                self._nonfinite_on = branch
        if norm is not None:
            values["step_grad_norm"] = number(norm)
        for name, value in extra.items():
            values[name] = number(value)
        look = None if weights is None else self._looks.add(weights)
        if look is not None:
            told = {"path_straightness": look.straightness, "update_ratio": look.update_ratio}
            values.update({name: value for name, value in told.items() if not math.isnan(value)})
        return MetricRow(step, at_s, values, "step", branch, None, look)

    def _memory_bytes(self, is_of_gpu: bool) -> float:
        return float(torch.cuda.memory_allocated() if is_of_gpu else self._process.memory_info().rss)


class _Fetched:
    """Numbers of steps; one-element tensors that lie on a device are fetched in one copy, in the order of use."""

    def __init__(self, metrics: Sequence[Metrics]) -> None:
        held = [m for m in metrics if isinstance(m, StepMetrics)]
        tensors = [v for h in held for v in (*h.losses, h.norm, *h.extra.values()) if isinstance(v, torch.Tensor)]
        self.is_of_gpu = any(map(attrgetter("is_cuda"), tensors))
        self._ahead: Iterator[float] | None = None
        if not all(map(attrgetter("is_cpu"), tensors)):
            flat = [t.detach().reshape(()).to(tensors[0].device, torch.float32, non_blocking=True) for t in tensors]
            self._ahead = iter(torch.stack(flat).tolist())

    def number(self, value: Any) -> float:
        """A number, or the next tensor's."""
        if not isinstance(value, torch.Tensor):
            return float(value)
        return value.item() if self._ahead is None else next(self._ahead)
