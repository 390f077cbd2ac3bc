"""The file of a run's log: created, opened, opened read-only without leaving a trace, and its errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import uuid
from pathlib import Path

from agenttune.errors import LogExists, StoreFault
from agenttune.protocol.run_info import RunInfo
from agenttune.store.command_table import COMMANDS_SCHEMA
from agenttune.store.event_table import EVENTS_SCHEMA
from agenttune.store.log_connection import private_copy, storing
from agenttune.store.metric_table import CURVES_SCHEMA, POINTS_SCHEMA
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
        connection.executescript(
            "BEGIN;" + RUN_SCHEMA + EVENTS_SCHEMA + COMMANDS_SCHEMA + POINTS_SCHEMA + CURVES_SCHEMA
        )
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


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )


NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs"}
)


def refuse_network_file_system(folder: Path) -> None:
    """WAL needs shared memory, which network file systems do not give (https://www.sqlite.org/wal.html).

    Raises:
        StoreFault: `folder` is on one; says how to choose another.
    """
    kind = network_kind(folder)
    if kind:
        raise StoreFault(
            f"the runs folder {folder} is on a network file system ({kind}), where SQLite's WAL mode is unsafe; "
            "set store.runs_dir (or AGENTTUNE_RUNS_DIR) to a folder on a local disk"
        )


def network_kind(folder: Path) -> str:
    """The network file system that a folder is on, which need not exist yet; empty for none."""
    kind = _file_system_of(folder)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def _file_system_of(folder: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    target, best, kind = str(folder.resolve()), "", "unknown"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        mount = fields[1].replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[2]
    return kind
