"""Has anybody written to a log? Asked at every training step, so it must cost next to nothing.

In WAL mode SQLite keeps a header in the shared-memory file `log.db-shm`; its change counter and checksum are new
after every commit of any connection (https://www.sqlite.org/walformat.html#the_wal_index_header). Reading it from a
memory map takes under a microsecond, where `PRAGMA data_version`, which reads the same header, takes locks: 4 us in
a hot loop and 60 us between two training steps, when the caches hold the model (measured).

The file is opened once a process and not closed while it exists: POSIX drops all locks that a process holds on a file
when it closes any descriptor of it, SQLite's own among them, and another process would then cut the shared memory off
under our feet (measured: SIGBUS;
https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from pathlib import Path

HEADER_BYTES = 48
CHANGES = slice(8, 12)
"""Where in the header the number of commits since the file was opened first stands, in the machine's byte order."""
_maps: dict[tuple[int, int], tuple[int, mmap.mmap]] = {}
"""By device and inode, with the descriptor that keeps others off the inode; a map holds one of its own beside it."""
_lock = threading.Lock()


def _header_of(path: str) -> mmap.mmap | None:
    """The header of a shared-memory file; None where there is no such file (another file system layer)."""
    with contextlib.suppress(OSError, ValueError), _lock:
        status = os.stat(path)
        key = status.st_dev, status.st_ino
        if key not in _maps:
            _release_deleted()
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            _maps[key] = descriptor, mmap.mmap(descriptor, HEADER_BYTES, access=mmap.ACCESS_READ)
        return _maps[key][1]
    return None


def _release_deleted() -> None:
    """Let go of files that are no more, as SQLite deletes them with its last connection: nobody can lock them anew.

    A process that opens one log after the other would run out of descriptors. A monitor that still reads such a map
    keeps it.
    """
    for key, (descriptor, _) in list(_maps.items()):
        if os.fstat(descriptor).st_nlink == 0:
            del _maps[key]
            os.close(descriptor)


class OwnCommits:
    """Commits of this process that whoever watches need not look at: of metric rows, which nobody waits for.

    The number of a commit is read in its transaction, while nobody else can commit, and told once it is made.

    Args:
        database: Path of the SQLite file, with a connection to it open.
    """

    def __init__(self, database: Path) -> None:
        self._map = _header_of(f"{database}-shm")
        self._run = (0, -1)  # replaced as a whole, as the reader is in another thread

    def next(self) -> int | None:
        """In a transaction that writes: the number of its commit, if it can be told."""
        return None if self._map is None else _changes(self._map[:HEADER_BYTES]) + 1

    def note(self, number: int | None) -> None:
        """The commit of this number is made, and of rows only."""
        if number is not None:
            first, last = self._run
            self._run = (first, number) if number == last + 1 else (number, number)

    def are_all(self, seen: int, now: int) -> bool:
        """Whether all commits after one, up to another, are such."""
        first, last = self._run
        return first <= seen + 1 and seen < now <= last

    def forget(self) -> None:
        """SQLite has begun to count anew."""
        self._run = (0, -1)


class WalMonitor:
    """Tells cheaply whether a log in WAL mode may have changed.

    Args:
        database: Path of the SQLite file. A connection to it must stay open, or the shared memory may go away. None:
            there is none here, as on ranks that only follow.
        own: Commits that do not count as a change.
    """

    def __init__(self, database: Path | None, own: OwnCommits | None = None) -> None:
        # Without the file, every question is answered with "perhaps".
        self._map = None if database is None else _header_of(f"{database}-shm")
        self._own = own
        self._seen = b""

    def is_unchanged(self) -> bool:
        """Whether the header is what it was when `may_have_changed` was last asked, but for our own commits."""
        if self._map is None:
            return False
        header = self._map[:HEADER_BYTES]
        return header == self._seen or (self._own is not None and self._is_own(header, self._own))

    def _is_own(self, header: bytes, own: OwnCommits) -> bool:
        if not self._seen:
            return False
        seen, now = _changes(self._seen), _changes(header)
        if now < seen:
            own.forget()
        if not own.are_all(seen, now):
            return False
        self._seen = header
        return True

    def may_have_changed(self) -> bool:
        """Whether the header differs from what it was at the last call; True when that cannot be told."""
        if self._map is None:
            return True
        if self.is_unchanged():
            return False
        self._seen = self._map[:HEADER_BYTES]
        return True


def _changes(header: bytes) -> int:
    return int.from_bytes(header[CHANGES], sys.byteorder)
