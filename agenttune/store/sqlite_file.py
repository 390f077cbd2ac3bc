"""The file of a run's log: made, opened, opened where nobody may write, and what its errors are called."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from agenttune.errors import LogExists, StoreFault
from agenttune.protocol.events import RunInfo
from agenttune.store.command_table import COMMANDS_SCHEMA
from agenttune.store.event_table import EVENTS_SCHEMA
from agenttune.store.filesystem import refuse_network_file_system
from agenttune.store.metric_table import POINTS_SCHEMA
from agenttune.store.read_only import connect_read_only
from agenttune.store.run_folders import LOG_NAME
from agenttune.store.run_info import RUN_SCHEMA, RunCard

CLAIM_NAME = ".log.claim"
"""Where there are no hard links: whoever makes this file may make the log."""
FORMAT = 1
BUSY_TIMEOUT_S = 10.0
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links answer, such as FAT and some in user space."""


def make_file(folder: Path, info: RunInfo) -> None:
    """Make the file of a new log with `info` as the run's identity card.

    Of any number of processes that make the same file at once, one succeeds.

    Raises:
        LogExists: There is one already.
        StoreFault: The folder is on a network file system, or the disk refuses.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refuse_network_file_system(folder)
    # Build aside, then give it its name: a log that exists is complete, whoever is killed in between.
    aside = folder / f".{LOG_NAME}.{uuid.uuid4().hex}"
    try:
        with storing(folder):
            _build(aside, info)
            _publish(aside, folder / LOG_NAME)
    finally:
        aside.unlink(missing_ok=True)


def _build(aside: Path, info: RunInfo) -> None:
    with contextlib.closing(sqlite3.connect(aside)) as connection:
        # A crash leaves a file that nobody uses, so no journal on the disk; one transaction waits for the disk once.
        connection.execute("PRAGMA journal_mode=MEMORY")
        connection.executescript("BEGIN;" + RUN_SCHEMA + EVENTS_SCHEMA + COMMANDS_SCHEMA + POINTS_SCHEMA)
        connection.execute(f"PRAGMA user_version={FORMAT}")
        RunCard(connection).make(info)
        connection.commit()
        connection.execute("PRAGMA journal_mode=WAL")


def _publish(aside: Path, path: Path) -> None:
    """Give a finished file its name, unless somebody has that name already: a rename would replace theirs."""
    try:
        try:
            os.link(aside, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.close(os.open(path.with_name(CLAIM_NAME), os.O_CREAT | os.O_EXCL))
            aside.replace(path)
    except FileExistsError:
        raise LogExists(f"there is a run in {path.parent} already; choose another name") from None


def connect(folder: Path) -> sqlite3.Connection:
    """A connection to an existing log.

    Raises:
        StoreFault: There is none, or it was written by a newer agenttune.
    """
    path = folder / LOG_NAME
    if not path.is_file():
        raise StoreFault(f"no log at {path}")
    with storing(folder):
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA synchronous=NORMAL")
        _check_format(connection, path)
    return connection


def connect_log_read_only(folder: Path) -> sqlite3.Connection:
    """A connection that writes neither beside the log nor into it.

    Raises:
        StoreFault: It cannot be read, or was written by a newer agenttune.
    """
    with storing(folder):
        connection = connect_read_only(folder / LOG_NAME)
        _check_format(connection, folder / LOG_NAME)
    return connection


def may_write(folder: Path) -> bool:
    """Whether a log can be opened for writing; also where there is none, which opening it will tell."""
    path = folder / LOG_NAME
    return not path.is_file() or (os.access(folder, os.W_OK) and os.access(path, os.W_OK))


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        connection.close()
        raise StoreFault(f"{path} has format {version}, this agenttune reads format {FORMAT}")


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the disk's errors into ours, with the file's name."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreFault(f"the log in {folder}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreFault(
            f"the log in {folder} is damaged or was written by another version of agenttune: "
            f"{error.title} {where}: {first['msg']}"
        ) from error
