"""A short lock on a folder, for notes in it that several processes read and then replace."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Nobody else who asks holds this folder meanwhile; it writes nothing, and ends with the process.

    Raises:
        OSError: There is no such folder, or its file system knows no locks.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
