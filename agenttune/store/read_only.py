"""Reading a log where nobody may write: an archive, a read-only disk, another user's folder."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that leaves no trace beside the file.

    A log that was closed well is one file, which SQLite reads as it is. With a write-ahead log beside it there is, or
    was, a writer: SQLite reads both if it finds the writer's shared memory. A killed writer's may be gone, and what it
    left can then be put together only where we may write: in a copy.

    Raises:
        sqlite3.Error, OSError: It cannot be read.
    """
    wal = path.with_name(path.name + "-wal")
    if not wal.is_file() or wal.stat().st_size == 0:
        return _connect(path, "mode=ro&immutable=1")
    if path.with_name(path.name + "-shm").is_file():
        return _connect(path, "mode=ro")
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / path.name
        shutil.copyfile(path, copied)
        shutil.copyfile(wal, copied.with_name(wal.name))
        source = sqlite3.connect(copied)
        try:
            connection = private_copy(source)
        finally:
            source.close()
    connection.execute("PRAGMA query_only=ON")
    return connection


def private_copy(source: sqlite3.Connection) -> sqlite3.Connection:
    """A database of the same content in a nameless temporary file, which ends with its connection."""
    copy = sqlite3.connect("", isolation_level=None, check_same_thread=False, cached_statements=256)
    source.backup(copy)
    return copy


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
