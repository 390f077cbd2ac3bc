"""Worker processes of this machine, which stay from cell to cell; one that hangs or dies costs its cell only."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures import TimeoutError as LimitReached
from multiprocessing.connection import wait as wait_for_handles
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import psutil

from agenttune.bench.backends.backend import Backend, FinishedCell
from agenttune.bench.cell import CellResult
from agenttune.bench.play import PID_NAME, Work, failed, play_in_worker, printed_end, tidy
from agenttune.errors import NotSupported

_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")
THREADS = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES} | {"TOKENIZERS_PARALLELISM": "false"}
"""One thread a worker: with several, workers wait for each other's, and sums are in another order."""
PRELOADED = ("agenttune.bench.play", "torch", "transformers")
"""What takes seconds to import."""
YOUNG_OBJECTS = 20_000
"""Made since the last look for garbage before the next: at Python's 700 such looks take a tenth of a simulated cell
(measured)."""
POOL_NOTICES_S = 2.0
"""The pool tells of a worker that died within a tenth of a second, unless its exit code was 0 (measured)."""


class _Worker(ForkServerProcess):
    """A worker process."""

    def start(self) -> None:
        """Without the script that started this process: multiprocessing would import it in every worker."""
        main = sys.modules["__main__"]
        kept = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
        try:
            for name in kept:
                setattr(main, name, None)
            super().start()
        finally:
            for name, value in kept.items():
                setattr(main, name, value)


class _Context(ForkServerContext):
    Process = _Worker


class Local(Backend):
    """Some worker processes.

    Args:
        workers: How many; default: the cores that this process may use.
        preload: Modules that are imported once, in the process that workers are forked from.

    Raises:
        NotSupported: The package that keeps the workers is not installed.
    """

    def __init__(self, workers: int | None = None, preload: Sequence[str] = PRELOADED) -> None:
        try:
            from pebble import ProcessPool
        except ImportError:
            raise NotSupported(
                "worker processes need the package pebble: pip install 'agenttune-toolkit[bench]'; or do all cells in "
                "this process with --workers 0",
                field="workers",
            ) from None
        self.slots = workers or usable_cores()
        os.environ.update(THREADS)  # workers inherit it, and libraries read it when they are loaded
        context = _Context()
        context.set_forkserver_preload(list(preload))
        self._pool: Any = ProcessPool(max_workers=self.slots, max_tasks=0, initializer=_started, context=context)
        self._work: dict[Future[CellResult], Work] = {}
        self._missed_at: dict[Future[CellResult], float] = {}

    def submit(self, work: Work) -> None:
        tidy(work)  # what a killed runner's worker left would tell that this one died
        self._work[self._pool.schedule(play_in_worker, args=[work], timeout=work.limit_s)] = work

    def wait(self, timeout_s: float) -> list[FinishedCell]:
        wait(self._work, timeout_s, FIRST_COMPLETED)
        return [self._ended(future) for future in list(self._work) if future.done() or self._has_lost(future)]

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()
        for work in self._work.values():
            tidy(work)

    def _ended(self, future: Future[CellResult]) -> FinishedCell:
        from pebble import ProcessExpired

        work = self._work.pop(future)
        self._missed_at.pop(future, None)
        if not future.done():
            future.cancel()
            return self._lost(work, "its worker process ended in the middle of it, without an error")
        try:
            return FinishedCell(work, future.result())
        except LimitReached:
            reason = f"not done after {work.limit_s:g} s of wall time; its worker was killed\n\nprinted before:\n"
            return self._done(work, failed(work.cell, f"{reason}{printed_end(work)}".strip()))
        except ProcessExpired as error:
            return self._lost(work, f"its worker process died with exit code {error.exitcode}")
        except CancelledError:
            return self._lost(work, "it was cancelled")

    def _done(self, work: Work, result: CellResult) -> FinishedCell:
        tidy(work)
        return FinishedCell(work, result)

    def _lost(self, work: Work, reason: str) -> FinishedCell:
        printed = printed_end(work)
        tidy(work)
        return FinishedCell(work, None, f"{reason}; it printed: {printed}" if printed else reason)

    def _has_lost(self, future: Future[CellResult]) -> bool:
        """Whether a worker ended with exit code 0, which its pool takes for a good end."""
        path = self._work[future].folder.with_suffix(f".{PID_NAME}")
        try:
            pid = int(path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):  # not begun, ended, or just being written
            return False
        if psutil.pid_exists(pid):
            return False
        return time.monotonic() - self._missed_at.setdefault(future, time.monotonic()) > POOL_NOTICES_S


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started() -> None:
    """In a new worker: end with the runner, whose kill -9 nobody else would tell it of."""
    gc.freeze()  # what was loaded before the fork stays; looking through it again and again takes time
    gc.set_threshold(YOUNG_OBJECTS)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent.sentinel], name="end with the runner", daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_handles([sentinel])
    os._exit(1)
