"""What each rank of a run is doing, so that a rank that is gone or stuck can be named.

Each rank writes down where it is when it begins to do something for all, in the store that torch's own start-up uses.
Nothing is written at a step.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.distributed import distributed_c10d

from agenttune.store.process_liveness import is_alive, started_s

logger = logging.getLogger("agenttune")

DEATH_S = 2.0
"""How long a process may take to be seen as gone once its connection is."""
KEY = "agenttune/rank/"
WHY_CHARACTERS, MOST_TOLD = 300, 3
TRANSPORT = ("gloo", "NCCL", "nccl", "Connection", "connection", "imed out", "process group")
"""Words of torch's errors about other processes."""


class RankProcess(NamedTuple):
    """The process of a rank."""

    host: str
    pid: int
    started_s: float | None


class Whereabouts:
    """Who the ranks are, and what each was last seen doing.

    Args:
        rank: This one.
        gather: Returns what every rank says.
    """

    def __init__(self, rank: int, gather: Callable[[RankProcess], list[RankProcess]]) -> None:
        self.rank = rank
        self._processes: list[RankProcess] = []
        self.has_left = False
        """Whether another rank was found to have come to its end without an error, and none to be gone."""
        self._store: Any = distributed_c10d._get_default_store()
        pid = os.getpid()
        self.note("its start")  # before the others are heard from: what an earlier run has left there is over
        self._processes = gather(RankProcess(platform.node(), pid, started_s(pid)))

    def note(self, doing: str) -> None:
        """This rank begins to do something."""
        self._write({"doing": doing, "at_s": time.time()})

    def leave(self, why: str = "") -> None:
        """This rank has come to its end; `why`: the error that ended it."""
        self._write({"doing": "", "at_s": time.time(), "why": why[:WHY_CHARACTERS]})

    def _write(self, entry: dict[str, object]) -> None:
        try:
            self._store.set(f"{KEY}{self.rank}", json.dumps(entry))
        except RuntimeError as error:  # the store is gone with the process that held it; nobody can read it either
            logger.debug("where this rank is cannot be told: %s", error)

    def reason(self, error: BaseException, limit_s: float) -> str:
        """Why ranks no longer hear from each other, in words, with the rank that is the cause as far as it is known."""
        gone, left, silent = self._missing()
        failed = "" if gone else self._failed(left)
        self.has_left = bool(left) and not gone and not failed
        if gone:
            return f"{_ranks(gone)} gone: {'; '.join(self._said(rank) for rank in gone)}"
        if left:
            return (
                failed
                or f"{_ranks(left)} no longer there: training has come to its end on that rank before it did on this"
            )
        text = str(error).splitlines()[0][:200]
        if silent and "imed out" in text:
            told = "; ".join(self._said(rank) for rank in silent)
            return f"no answer from another rank for {limit_s:g} s; {told}"
        return f"the ranks no longer hear from each other ({text}); " + "; ".join(map(self._said, silent))

    def gone_reason(self, error: BaseException) -> str:
        """Why training ended, where that is another rank's end; empty where nothing says so."""
        text = str(error)
        if not (isinstance(error, RuntimeError) and any(word in text for word in TRANSPORT)):
            return ""
        gone, left, _ = self._missing()
        if gone:
            return f"{_ranks(gone)} gone: {'; '.join(self._said(rank) for rank in gone)}"
        return self._failed(left) or (f"{_ranks(left)} no longer there: it ended before this one" if left else "")

    def gone_ranks(self) -> list[int]:
        """Ranks of this machine whose process has ended."""
        here = platform.node()
        return [
            rank
            for rank, process in enumerate(self._processes)
            if rank != self.rank and process.host == here and not is_alive(process.pid, process.started_s)
        ]

    def _missing(self) -> tuple[list[int], list[int], list[int]]:
        """Ranks whose process has ended, that came to their end, and the others."""
        until_s = time.monotonic() + DEATH_S
        left = self._left()
        gone = self.gone_ranks()
        while not (gone or left) and time.monotonic() < until_s:
            time.sleep(0.05)
            gone, left = self.gone_ranks(), self._left()
        gone = [rank for rank in gone if rank not in left]
        others = [rank for rank in range(len(self._processes)) if rank != self.rank]
        return gone, left, [rank for rank in others if rank not in gone and rank not in left]

    def _left(self) -> list[int]:
        entries = ((rank, self._entry(rank)) for rank in range(len(self._processes)) if rank != self.rank)
        return [rank for rank, entry in entries if entry is not None and not entry["doing"]]

    def _failed(self, left: list[int]) -> str:
        """Which ranks have ended with an error of their own; empty if none is known to have."""
        told = [(rank, str((self._entry(rank) or {}).get("why", ""))) for rank in left]
        words = [f"rank {rank} ended before this one: {why}" for rank, why in told if why]
        return "; ".join(words[:MOST_TOLD])

    def _entry(self, rank: int) -> dict[str, Any] | None:
        key = f"{KEY}{rank}"
        try:
            found = json.loads(self._store.get(key)) if self._store.check([key]) else None
        except RuntimeError:  # the store is gone
            return None
        return found if isinstance(found, dict) else None

    def _said(self, rank: int) -> str:
        process = self._processes[rank]
        entry = self._entry(rank)
        who = f"rank {rank} (process {process.pid} on {process.host})"
        if entry is None or not entry["doing"]:
            return who
        return f"{who} was last seen in {entry['doing']}, {max(0.0, time.time() - entry['at_s']):.0f} s ago"


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]} is" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} are"
