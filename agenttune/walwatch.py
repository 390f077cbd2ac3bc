"""Has anybody written to a log? Asked at every training step, so it must cost next to nothing.

In WAL mode SQLite keeps a header in the shared-memory file `log.db-shm`; its change counter and checksum are new
after every commit of any connection (https://www.sqlite.org/walformat.html#the_wal_index_header). Reading it from a
memory map takes under a microsecond, where `PRAGMA data_version`, which reads the same header, takes locks: 4 us in
a hot loop and 60 us between two training steps, when the caches hold the model (measured).

The file is opened once a process and never closed: POSIX drops all locks that a process holds on a file when it closes
any descriptor of it, SQLite's own among them, and another process would then cut the shared memory off under our feet
(measured: SIGBUS; https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path

HEADER_BYTES = 48
_maps: dict[tuple[int, int], mmap.mmap] = {}
"""By device and inode, for as long as the process lives; a map holds a descriptor of its own."""
_descriptors: list[int] = []
_lock = threading.Lock()


def _header_of(path: str) -> mmap.mmap | None:
    """The header of a shared-memory file; None where there is no such file (another file system layer)."""
    with contextlib.suppress(OSError, ValueError), _lock:
        status = os.stat(path)
        key = status.st_dev, status.st_ino
        if key not in _maps:
            _descriptors.append(descriptor := os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            _maps[key] = mmap.mmap(descriptor, HEADER_BYTES, access=mmap.ACCESS_READ)
        return _maps[key]
    return None


class WalWatch:
    """Tells cheaply whether a log in WAL mode may have changed.

    Args:
        database: Path of the SQLite file. A connection to it must stay open, or the shared memory may go away.
    """

    def __init__(self, database: Path) -> None:
        # Without the file, every question is answered with "perhaps".
        self._map = _header_of(f"{database}-shm")
        self._seen = b""

    def is_unchanged(self) -> bool:
        """Whether the header is what it was when `may_have_changed` was last asked."""
        return self._map is not None and self._map[:HEADER_BYTES] == self._seen

    def may_have_changed(self) -> bool:
        """Whether the header differs from what it was at the last call; True when that cannot be told."""
        if self._map is None:
            return True
        header = self._map[:HEADER_BYTES]
        if header == self._seen:
            return False
        self._seen = header
        return True
