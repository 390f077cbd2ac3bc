"""The folders of runs, as the file system knows them: no log is opened here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LOG_NAME = "log.db"
Key = tuple[str, int]
"""A run's folder: its name and its inode. Another folder of the name is another run."""
Writing = tuple[int, int, int, int]
"""Time of the last writing in ns, and size in bytes, of a log's file and of its write-ahead log."""
COARSE_S = 1.0
"""File systems keep times by a coarser clock than programs have; a generous bound (guess)."""


def newest_names(runs_dir: Path, limit: int | None = None) -> list[str]:
    """Ids of the runs that were written to last, newest first; opens no log."""
    written = [(written_before_s(runs_dir / name), name) for name, _ in folders(runs_dir)]
    known = [(at_s, name) for at_s, name in written if at_s is not None]
    return [name for _, name in sorted(known, reverse=True)[:limit]]


def folders(runs_dir: Path) -> Iterator[Key]:
    """Folders that may be runs, in no order; none if `runs_dir` is not there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(runs_dir) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir():
                yield entry.name, entry.inode()


def written_before_s(folder: Path) -> float | None:
    """A moment after the last writing of a run's log, in Unix time; None if there is no log."""
    found = writing(folder)
    return None if found is None else max(found[0], found[2]) / 1e9 + COARSE_S


def writing(folder: Path) -> Writing | None:
    """What changes whenever a run's log is written; None if there is no log."""
    path = os.path.join(folder, LOG_NAME)
    try:
        log = os.stat(path)
    except OSError:
        return None
    try:
        wal = os.stat(f"{path}-wal")
    except OSError:
        return log.st_mtime_ns, log.st_size, 0, 0
    return log.st_mtime_ns, log.st_size, wal.st_mtime_ns, wal.st_size


def content(written: Writing | None) -> Writing | None:
    """A log's last writing; whoever opens it makes an empty write-ahead log, which is none."""
    return (*written[:2], 0, 0) if written is not None and written[3] == 0 else written
