"""The runs of a folder, found without opening each of their logs again and again.

What a log says of itself is in the log; this only remembers what cannot have changed since it was read, in memory and,
of runs that have ended, in a file for the next process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from agenttune.errors import StoreFault
from agenttune.protocol.run_info import RunInfo
from agenttune.store.kept_reads import KeptReads
from agenttune.store.run_folders import Key, Writing, content, folders, writing, written_before_s
from agenttune.store.run_log import RunLog

FEW = 8
"""Logs that are sooner opened than what was kept of all runs is read (guess). There are more in a folder that was
copied: all of its logs were written at once."""


class _Born(NamedTuple):
    """When a run was made, in Unix time: known, or not later than the log's last writing."""

    at_s: float
    is_exact: bool


class RunCatalog:
    """Lists the runs of a folder. Safe to share between threads.

    Args:
        runs_dir: The folder of runs; may not exist yet.
    """

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._lock = threading.Lock()
        self._born: dict[Key, _Born] = {}
        self._ended: dict[Key, tuple[Writing, RunInfo]] = {}
        self._kept = KeptReads(runs_dir, "card")

    def newest(self, is_seen: Callable[[str], bool] = lambda run_id: True) -> str | None:
        """The id of the run that was made last, of those that `is_seen` lets pass; None if there is none.

        Opens the logs that were written since that run was made, each once, and no other.
        """
        with self._lock:
            there = list(folders(self._runs_dir))
            self._born = {key: born for key in there if (born := self._bound(key)) is not None}
            seen = [key for key in self._born if is_seen(key[0])]
            best: tuple[float, str] | None = None
            for number, key in enumerate(sorted(seen, key=lambda key: self._born[key].at_s, reverse=True)):
                if best is not None and self._born[key].at_s < best[0]:
                    break
                made_s = self._made_s(key, number >= FEW)
                if made_s is not None and (best is None or made_s > best[0]):
                    best = (made_s, key[0])
            self._kept.save(name for name, _ in there)
            return None if best is None else best[1]

    def _bound(self, key: Key) -> _Born | None:
        """A run is not younger than its log's last writing, whenever that was seen; None if it has no log yet."""
        known = self._born.get(key)
        if known is not None:
            return known
        written_s = written_before_s(self._runs_dir / key[0])
        return None if written_s is None else _Born(written_s, False)

    def _made_s(self, key: Key, is_one_of_many: bool) -> float | None:
        """When a run was made; None if its log cannot be read, which may be otherwise the next time."""
        if not self._born[key].is_exact:
            info = self._info(key) if is_one_of_many else self._read(key[0])
            if info is None:
                return None
            self._born[key] = _Born(info.created_at_s, True)
        return self._born[key].at_s

    def infos(self) -> list[RunInfo]:
        """Identity cards of all runs, newest first. A log that cannot be read is left out."""
        with self._lock:
            there = list(folders(self._runs_dir))
            self._ended = {key: self._ended[key] for key in there if key in self._ended}
            found = [info for key in there if (info := self._info(key)) is not None]
            self._kept.save(name for name, _ in there)
        return sorted(found, key=lambda info: info.created_at_s, reverse=True)

    def _info(self, key: Key) -> RunInfo | None:
        """A run that has ended says the same until its log is written again."""
        run_id, written = key[0], content(writing(self._runs_dir / key[0]))
        if written is None:
            return None
        known = self._ended.get(key)
        if known is not None and known[0] == written:
            return known[1]
        info = self._kept_info(run_id, written)
        if info is None:
            info = self._read(run_id)
            if info is None or info.is_live or written != content(writing(self._runs_dir / run_id)):
                return info
            self._kept.add(run_id, written, info.model_dump_json())
        self._ended[key] = (written, info)
        return info

    def _kept_info(self, run_id: str, written: Writing) -> RunInfo | None:
        body = self._kept.find(run_id, written)
        if body is None:
            return None
        try:
            info = RunInfo.model_validate_json(body)
        except ValidationError:  # of another build of this version
            return None
        path = str(self._runs_dir / run_id)  # the whole folder may have been moved
        return info if info.path == path else info.model_copy(update={"path": path})

    def _read(self, run_id: str) -> RunInfo | None:
        """What a log says of itself; one that lies still is read without a trace beside it, in half the time."""
        folder = self._runs_dir / run_id
        written = writing(folder)
        try:
            if written is not None and written[3] == 0:
                info = _info_of(RunLog.open_read_only(folder))
                if writing(folder) == written:
                    return info
            return _info_of(RunLog.open_to_read(folder))
        except StoreFault:
            return None


def _info_of(log: RunLog) -> RunInfo:
    with contextlib.closing(log):
        return log.info()
