"""Has anybody written to a log? Asked at every training step, so it must cost next to nothing.

In WAL mode SQLite keeps a header in the shared-memory file `log.db-shm`; its change counter and checksum are new
after every commit of any connection (https://www.sqlite.org/walformat.html#the_wal_index_header). Reading it from a
memory map takes under a microsecond, where `PRAGMA data_version`, which reads the same header, takes locks: 4 us in
a hot loop and 60 us between two training steps, when the caches hold the model (measured).
"""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

HEADER_BYTES = 48


class WalWatch:
    """Tells cheaply whether a log in WAL mode may have changed.

    Args:
        database: Path of the SQLite file. A connection to it must stay open, or the shared memory may go away.
    """

    def __init__(self, database: Path) -> None:
        self._map: mmap.mmap | None = None
        self._seen = b""
        # Where there is no such file (another file system layer), every question is answered with "perhaps".
        with contextlib.suppress(OSError, ValueError), open(f"{database}-shm", "rb") as shm:
            self._map = mmap.mmap(shm.fileno(), HEADER_BYTES, access=mmap.ACCESS_READ)

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

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
