"""The background thread that writes a run's log, so that training never waits for a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from agenttune.errors import StoreFault, UserError
from agenttune.protocol.events import LogGap
from agenttune.protocol.metrics import Point
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog
from agenttune.store.wal_monitor import OwnCommits
from agenttune.trainer.recording.step_meter import Metrics, RowMaker

logger = logging.getLogger("agenttune")

INTERVAL_S = 0.25
"""Time between commits of metrics (guess: four a second look live and cost nothing)."""
CAPACITY_ROWS = 50_000
"""Metric rows kept while the disk is full; about 20 MB."""
BATCH_ROWS = 5_000
LONGEST_BACKOFF_S = 5.0
CLOSE_TIMEOUT_S = 15.0
"""Longer than the store waits for a lock, so that a busy log is not given up."""

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
        self._dropped_rows = self._dropped_total = 0
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
        self._dropped_rows += 1
        self._dropped_total += 1

    def submit(self, job: Job, urgent: bool = True) -> None:
        """Hand over any other write, done after the rows handed over before it; if `urgent` at once."""
        self._jobs.append((self._handed, job))
        if urgent:
            self._wake.set()

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
        if self._fault is not None or self._dropped_rows:
            self._recover(self._log)

    def _write_rows(self, log: RunLog, until: int) -> None:
        """Write the rows that were handed over before so many others, a batch a transaction."""
        log.own = self.own
        while (self._points and self._taken + self._dropped_total < until) or self._batch:
            taken: list[Metrics] = []
            room = min(BATCH_ROWS - len(self._batch), until - self._taken - self._dropped_total)
            while self._points and len(taken) < room:
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
        if self._dropped_rows:
            reason = str(self._fault or "rows came faster than they could be written")
            log.append(LogGap(dropped_rows=self._dropped_rows, reason=reason))
            self._dropped_rows = 0
        if self._fault is None:
            return
        logger.warning("%s: the log is written again", self._folder)
        self._fault = None
