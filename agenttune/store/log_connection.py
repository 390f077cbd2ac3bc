"""One connection to a run's log: its transactions, and SQLite's errors in our words."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError

from agenttune.errors import LogFull, StoreFault

FULL = ("database or disk is full", "disk I/O error")
"""What SQLite says of a disk that takes nothing more; the second also where its shared memory cannot grow."""


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the disk's errors into ours, with the file's name."""
    try:
        yield
    except (sqlite3.Error, OSError, ValidationError) as error:
        raise _ours(folder, error) from error


def _ours(folder: Path, error: sqlite3.Error | OSError | ValidationError) -> StoreFault:
    """An error of SQLite's or the disk's, or of what cannot be read, in our words."""
    if not isinstance(error, ValidationError):
        return (LogFull if str(error) in FULL else StoreFault)(f"the log in {folder}: {error}")
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return StoreFault(
        f"the log in {folder} is damaged or was written by another version of agenttune: "
        f"{error.title} {where}: {first['msg']}"
    )


def private_copy(source: sqlite3.Connection) -> sqlite3.Connection:
    """A database of the same content in a nameless temporary file, which ends with its connection."""
    copy = sqlite3.connect("", isolation_level=None, check_same_thread=False, cached_statements=256)
    source.backup(copy)
    return copy


class LogConnection:
    """What the tables of a log share. Not used by two threads at once."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all are committed at the end, none if the block raises. Does not nest."""
        with storing(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have several reads tell of one moment, whatever others write meanwhile; part of a transaction there is."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # an error may have ended it
                self._db.execute("COMMIT")

    def data_version(self) -> int:
        """A number that changes when another connection has written; costs a few microseconds."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])


C = TypeVar("C", bound=LogConnection)
P = ParamSpec("P")
R = TypeVar("R")


def reading(read: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """A method that reads a log, with SQLite's errors in our words."""

    @functools.wraps(read)
    def told(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(self, *args, **kwargs)
        except (sqlite3.Error, OSError, ValidationError) as error:
            raise _ours(self.folder, error) from error

    return told
