"""Signs of life of all ranks, beside training: each rank's thread leaves one in a store, rank 0 reads them all.

No collective operation: it would wait for the very rank that is stuck. The store is torch's, of its own, on rank 0.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from agenttune.protocol.metrics import Metric
from agenttune.protocol.rank_reads import RanksRead
from agenttune.trainer.distributed.pulse import Beat, Pulse

logger = logging.getLogger("agenttune")

INTERVAL_S = 1.0
"""Between two signs of life (guess: a rank that is silent for some seconds is worth telling)."""
RANKS_A_SECOND = 256
"""Of which rank 0 reads the signs; more ranks are read less often."""
TELL_S = 10.0
"""Between two readings in the log (guess: 1,024 ranks then write a megabyte an hour)."""
RANKS_A_READING = 64
"""More ranks are told less often, in proportion."""
STORE_TIMEOUT = timedelta(seconds=10)


class _Heard(NamedTuple):
    """The newest sign of a rank, and since when (monotonic) it is silent, and stands where it is."""

    beat: Beat
    heard_s: float
    moved_s: float


class Heartbeats:
    """The threads' work of one rank.

    Args:
        rank: This rank.
        world_size: Their number.
        pulse: What it tells.
        address: `host:port` of the store; empty on rank 0, which makes it.
        tell: On rank 0: takes each reading that is to be recorded.
        limit_s: After which a collective operation gives up.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        pulse: Pulse,
        address: str = "",
        tell: Callable[[RanksRead], None] = lambda read: None,
        limit_s: float | None = None,
    ) -> None:
        self._rank, self._world_size, self._pulse = rank, world_size, pulse
        self._tell, self._limit_s = tell, limit_s
        self.interval_s = INTERVAL_S * max(1.0, world_size / RANKS_A_SECOND)
        self._tell_s = TELL_S * max(1.0, world_size / RANKS_A_READING)
        host, _, port = address.rpartition(":")
        leads = not address
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            host or "0.0.0.0", int(port or 0), None, leads, STORE_TIMEOUT, wait_for_workers=False
        )
        self.port = int(self._store.port)
        self._heard: dict[int, _Heard] = {}
        self._silent: frozenset[int] = frozenset()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(leads,), name="agenttune-heartbeats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tell no more; the store of rank 0 stays until the process ends, as others may still leave a sign."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * self.interval_s)

    def _run(self, leads: bool) -> None:
        told_s = time.monotonic()
        try:
            while not self._ended.wait(self.interval_s):
                self._store.set(_key(self._rank), self._pulse.take().pack())
                if leads:
                    now_s = time.monotonic()
                    told_s = self._look(now_s, told_s)
        except RuntimeError as error:  # torch's errors of a store that is gone: rank 0 has ended
            logger.debug("agenttune: no more signs of life: %s", error)

    def _look(self, now_s: float, told_s: float) -> float:
        """Read all ranks, and tell what is due; returns when something was told last."""
        self.listen(now_s)
        silent = frozenset(r for r, heard in self._heard.items() if now_s - heard.heard_s > 5 * self.interval_s)
        if now_s - told_s < self._tell_s and silent <= self._silent:
            return told_s
        self._silent = silent
        if len(self._heard) == self._world_size:
            self._tell(self.read(now_s))
        return now_s

    def listen(self, now_s: float) -> None:
        """Read the newest sign of each rank that has left one."""
        known = sorted(self._heard)
        known += [r for r in range(self._world_size) if r not in self._heard and self._store.check([_key(r)])]
        for rank, data in zip(known, self._store.multi_get([_key(r) for r in known]), strict=True):
            beat, before = Beat.unpack(data), self._heard.get(rank)
            if before is None:
                self._heard[rank] = _Heard(beat, now_s, now_s)
            elif beat.number != before.beat.number:
                stands = (beat.step, beat.place) == (before.beat.step, before.beat.place)
                figures = beat if beat.step_time_s else beat._replace(**_figures(before.beat))
                self._heard[rank] = _Heard(figures, now_s, before.moved_s if stands else now_s)

    def read(self, now_s: float) -> RanksRead:
        """All ranks as they were heard of."""
        heard = [self._heard[rank] for rank in range(self._world_size)]
        beats = [h.beat for h in heard]
        return RanksRead(
            steps=[b.step for b in beats],
            places=[b.place for b in beats],
            step_time_s=_rounded([b.step_time_s for b in beats]),
            data_wait_s=_rounded([b.data_wait_s for b in beats]),
            forward_s=_rounded([b.forward_s for b in beats]),
            memory_bytes=[b.memory_bytes for b in beats],
            heard_s=_rounded([now_s - h.heard_s for h in heard]),
            stands_s=_rounded([now_s - h.moved_s for h in heard]),
            interval_s=self.interval_s,
            limit_s=self._limit_s,
        )


def _figures(beat: Beat) -> dict[str, Any]:
    """Of a rank that has completed no step since: what its last steps took."""
    return {"step_time_s": beat.step_time_s, "data_wait_s": beat.data_wait_s, "forward_s": beat.forward_s}


def _key(rank: int) -> str:
    return f"agenttune/rank/{rank}"


def _rounded(values: list[float]) -> list[Metric]:
    return [float(f"{value:.4g}") for value in values]


def store_host(environ: Mapping[str, str] = os.environ) -> str:
    """Where the other ranks reach rank 0: by the name that they met at."""
    import socket

    return environ.get("MASTER_ADDR") or socket.gethostname()


def collective_limit_s() -> float | None:
    """After which a collective operation of the default group gives up, in seconds; None if that cannot be told."""
    try:
        backend = dist.distributed_c10d._get_default_group()._get_backend(_device())
        return float(backend.options._timeout.total_seconds())
    except (AttributeError, RuntimeError, ValueError):  # not a public part of torch
        return None


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
