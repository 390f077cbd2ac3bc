"""The background thread that writes a run's log, so that training never waits for a disk; it makes the rows too."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from agenttune.errors import StoreFault, UserError
from agenttune.protocol.events import LogGap
from agenttune.protocol.metrics import Point
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.store.wal_monitor import OwnCommits
from agenttune.trainer.layers.weight_sampler import WeightSample
from agenttune.trainer.recording.step_meter import Metrics, RawRow, StepMetrics
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
MEMORY_INTERVAL_S = 1.0
"""How often the process' memory is among a step's metrics: once a second is enough for eyes."""

Job = Callable[[RunLog], object]
MakeRows = Callable[[Sequence[Metrics]], list[Point | MetricRow]]


class BackgroundWriter:
    """Takes metric rows and other writes, and commits them in order on a connection of its own.

    When the log cannot be written (a full disk), everything is kept and tried again; the oldest metric rows go first
    if the buffer is full, and the log says how many. Acks and events are never dropped.

    Args:
        folder: The run's.
        open_log: Opens its log, in the thread.
        interval_s: Time between commits of metrics.
        capacity_rows: Metric rows kept while the log cannot be written.
        make_rows: Makes rows of metrics as they were handed over, in the thread.
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
        self._capacity_rows = capacity_rows
        self._make_rows = make_rows or RowMaker()
        self._points: deque[Metrics] = deque()
        self._batch: list[Point | MetricRow] = []
        self._jobs: deque[tuple[int, Job]] = deque()
        self._handed = self._taken = 0
        self._dropped_total = self._dropped_told = 0  # each is changed in one thread only
        self._fault: StoreFault | None = None
        self._wake = threading.Event()
        self._closing = False
        self._close_by_s = 0.0
        self._log: RunLog | None = None
        self.own: OwnCommits | None = None
        """Where own commits of rows are reported, so that the command queue ignores them."""
        self._thread = threading.Thread(target=self._run, name="agenttune-writer", daemon=True)
        self._thread.start()

    def add_point(self, point: Metrics) -> None:
        """Hand over the metrics of one step, or a row; written within `interval_s`."""
        if len(self._points) + len(self._batch) >= self._capacity_rows:
            self._drop_one()
        self._handed += 1
        self._points.append(point)

    def _drop_one(self) -> None:
        try:
            self._points.popleft()
        except IndexError:  # the writer has just taken them
            return
        self._dropped_total += 1

    def submit(self, job: Job, urgent: bool = True) -> None:
        """Hand over any other write, done after the rows handed over before it; if `urgent` at once."""
        self._jobs.append((self._handed, job))
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
        left = len(self._points) + len(self._batch), len(self._jobs)
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
            if closing and (not self._left() or time.monotonic() >= self._close_by_s):
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

    def _left(self) -> int:
        return len(self._points) + len(self._batch) + len(self._jobs)

    def _report(self, fault: StoreFault) -> None:
        if self._fault is None:
            logger.warning("%s; training goes on, writing is tried again", fault)
        self._fault = fault

    def _drain(self) -> None:
        if self._log is None:
            self._log = self._open_log(self._folder)
        while self._jobs:
            before, job = self._jobs[0]
            self._write_rows(self._log, before)
            self._write_job(self._log, job)
            self._jobs.popleft()
        self._write_rows(self._log, self._handed)
        if self._fault is not None or self._dropped_total > self._dropped_told:
            self._recover(self._log)

    def _write_rows(self, log: RunLog, until: int) -> None:
        """Write the rows that were handed over before so many others, a batch a transaction."""
        log.own = self.own
        while (self._points and self._taken + self._dropped_total < until) or self._batch:
            taken: list[Metrics] = []
            room = min(BATCH_ROWS - len(self._batch), until - self._taken - self._dropped_total)
            with contextlib.suppress(IndexError):  # the training thread has just dropped the last one
                while len(taken) < room:
                    taken.append(self._points.popleft())
            self._taken += len(taken)
            self._batch += self._make_rows(taken)
            log.append_points(self._batch)
            self._batch = []

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

    def __call__(self, metrics: Sequence[Metrics]) -> list[Point | MetricRow]:
        """Rows, in order; numbers that lie on a device are fetched in one copy."""
        held = [m for m in metrics if isinstance(m, StepMetrics)]
        left = [value for h in held for value in (*h.losses, h.norm, *h.extra.values())]
        tensors = [value for value in left if isinstance(value, torch.Tensor)]
        fetched = iter(_fetch(tensors))
        rows: list[Point | MetricRow] = []
        for m in metrics:
            if isinstance(m, StepMetrics):
                losses, norm = [_number(value, fetched) for value in m.losses], _number(m.norm, fetched)
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
