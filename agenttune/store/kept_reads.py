"""What was read of runs that have ended, kept in the folder of runs, so that the next process opens none of their logs.

A cache and nothing else: an entry counts only while the log is as it was when it was read, and whoever deletes the file
loses a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agenttune.store.run_folders import COARSE_S, Writing

logger = logging.getLogger(__name__)

FILE_NAME = ".kept-reads.db"
FORMAT = 1
"""Raised when what is read of a run comes to mean something else."""
BUSY_TIMEOUT_S = 1.0
"""Whoever waits longer goes without."""
SCHEMA = """CREATE TABLE IF NOT EXISTS reads (
    part TEXT NOT NULL, run TEXT NOT NULL, log_ns INTEGER NOT NULL, log_bytes INTEGER NOT NULL, wal_ns INTEGER NOT NULL,
    wal_bytes INTEGER NOT NULL, format INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (part, run)
) WITHOUT ROWID"""


class _Kept(NamedTuple):
    written: Writing
    body: str


class KeptReads:
    """One kind of reads of all runs of a folder, for one thread at a time. Faults cost the cache and nothing else.

    Args:
        runs_dir: The folder of runs.
        part: What is kept of each, such as `card`.
    """

    def __init__(self, runs_dir: Path, part: str) -> None:
        self._path = runs_dir / FILE_NAME
        self._part = part
        self._known: dict[str, _Kept] | None = None
        self._new: dict[str, _Kept] = {}

    def find(self, run_id: str, written: Writing) -> str | None:
        """What an earlier process read of a run whose log lies as it did then, as JSON."""
        if self._known is None:
            self._known = self._load()
        known = self._known.get(run_id)
        return known.body if known is not None and known.written == written else None

    def add(self, run_id: str, written: Writing, body: str) -> None:
        """Keep what was just read of a run that has ended; `save` writes it down.

        Not of a log that was written this moment: a second writing may get the same time, and would not show.
        """
        if time.time() - max(written[0], written[2]) / 1e9 > COARSE_S:
            self._new[run_id] = _Kept(written, body)

    def save(self, there: Iterable[str]) -> None:
        """Write down what was added, and forget runs that are no longer there."""
        new, self._new = self._new, {}
        if not new or not os.access(self._path.parent, os.W_OK):
            return
        rows = [(self._part, run_id, *kept.written, FORMAT, kept.body) for run_id, kept in new.items()]
        names = set(there)
        with self._telling_faults(), contextlib.closing(self._connect()) as db:
            db.execute(SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            known = db.execute("SELECT run FROM reads WHERE part = ?", (self._part,)).fetchall()
            gone = [(self._part, name) for (name,) in known if name not in names]
            db.executemany("DELETE FROM reads WHERE part = ? AND run = ?", gone)
            db.executemany("INSERT OR REPLACE INTO reads VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")

    def _load(self) -> dict[str, _Kept]:
        """All that was kept in this format."""
        if not self._path.is_file():
            return {}
        sql = "SELECT run, log_ns, log_bytes, wal_ns, wal_bytes, body FROM reads WHERE part = ? AND format = ?"
        with self._telling_faults(), contextlib.closing(self._connect()) as db:
            rows = db.execute(sql, (self._part, FORMAT)).fetchall()
            return {
                run: _Kept((log_ns, log_bytes, wal_ns, wal_bytes), body)
                for run, log_ns, log_bytes, wal_ns, wal_bytes, body in rows
            }
        return {}

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, BUSY_TIMEOUT_S, isolation_level=None)
        db.execute("PRAGMA synchronous=OFF")  # what a power cut takes is read again
        return db

    @contextlib.contextmanager
    def _telling_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as fault:  # held, full, or nobody may write
            logger.info("runs are read from their logs, without %s: %s", self._path, fault)
        except sqlite3.DatabaseError as fault:
            logger.info("%s is damaged and made anew: %s", self._path, fault)
            self._path.unlink(missing_ok=True)
