"""Whether a run's log can still grow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

FULL_BYTES = 65_536
"""With less room SQLite can write nothing more (guess: a few pages and its shared memory)."""


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class DiskRoom:
    """Says once that a disk is full, and once that it no longer is: the log itself cannot tell.

    Args:
        folder: Of the run.
        free: Bytes that are free there.
    """

    def __init__(self, folder: Path, free: Callable[[Path], int] = free_bytes) -> None:
        self._folder, self._free = folder, free
        self._is_full = False

    def news(self) -> str:
        """What to tell the user; mostly nothing."""
        try:
            is_full = self._free(self._folder) < FULL_BYTES
        except OSError:  # the folder is gone, which whoever reads the log says
            return ""
        if is_full is self._is_full:
            return ""
        self._is_full = is_full
        if not is_full:
            return f"the disk of {self._folder} has room again: the log goes on"
        return (
            f"the disk of {self._folder} is full: training goes on, but nothing is recorded and no command arrives "
            "until there is room again"
        )
