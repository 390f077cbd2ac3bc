"""The file of a run's log: made, opened, opened where nobody may write, and what its errors are called."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from agenttune.archived import connect_read_only
from agenttune.command_table import COMMANDS_SCHEMA
from agenttune.errors import StoreFault
from agenttune.event_table import EVENTS_SCHEMA
from agenttune.events import RunInfo
from agenttune.filesystem import refuse_network_file_system
from agenttune.points import POINTS_SCHEMA
from agenttune.run_card import RUN_SCHEMA, RunCard

LOG_NAME = "log.db"
FORMAT = 1
BUSY_TIMEOUT_S = 10.0


def make_file(folder: Path, info: RunInfo) -> None:
    """Make the file of a new log with `info` as the run's identity card.

    Raises:
        StoreFault: There is one already, or the folder is on a network file system.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refuse_network_file_system(folder)
    path = folder / LOG_NAME
    if path.exists():
        raise StoreFault(f"there is a run in {folder} already; choose another name")
    # Build aside, then rename: a log that exists is complete, whoever is killed in between.
    aside = folder / f".{LOG_NAME}.{os.getpid()}"
    with storing(folder):
        aside.unlink(missing_ok=True)
        connection = sqlite3.connect(aside)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(RUN_SCHEMA + EVENTS_SCHEMA + COMMANDS_SCHEMA + POINTS_SCHEMA)
            connection.execute(f"PRAGMA user_version={FORMAT}")
            RunCard(connection).make(info)
            connection.commit()
        finally:
            connection.close()
        aside.rename(path)


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


def connect_archived(folder: Path) -> sqlite3.Connection:
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
