"""Slurm sends SIGTERM before it takes a job away: training saves and stops, and the requeued job goes on."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger("agenttune")


class Preemption:
    """Follows SIGTERM while training runs under Slurm; does nothing elsewhere, or where somebody else follows it.

    Slurm sends it to the processes of all ranks. Rank 0 asks for a stop through the run's queue, so that all ranks stop
    at the same step; the others only stay alive for it.

    Args:
        ask: Asks for the stop; called once, in a thread of its own, on rank 0.
        environ: Tells whether this is a job of Slurm's.
    """

    def __init__(self, ask: Callable[[], object] | None, environ: Mapping[str, str] = os.environ) -> None:
        self.came = False
        self._ask = ask
        self._is_followed = bool(environ.get("SLURM_JOB_ID")) and _is_free()
        if self._is_followed:
            signal.signal(signal.SIGTERM, self._take)

    def _take(self, number: int, frame: Any) -> None:
        if self.came:
            return
        self.came = True
        if self._ask is not None:  # not here: the signal may have come while the very lock was held
            threading.Thread(target=self._ask, name="agenttune-preemption", daemon=True).start()

    def leave(self) -> None:
        """Training is over; a later SIGTERM ends the process again."""
        if self._is_followed and signal.getsignal(signal.SIGTERM) == self._take:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._is_followed = False


def _is_free() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
