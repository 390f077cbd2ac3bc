"""Which runs of a folder are over, for what is to end with a run: cheap enough to be asked at every request."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agenttune.errors import StoreFault
from agenttune.protocol.run_info import RunInfo
from agenttune.store.process_liveness import may_be_alive
from agenttune.store.run_log import LOG_NAME, RunLog

LOOK_EVERY_S = 0.5
"""How often the log of a run that is not over is read; a look takes about a millisecond (measured)."""
LAST_WORDS_S = 60.0
"""A run is over so long after its end: its agent sees the end within moments, but may have to wait for a model's answer
before it writes what it did last (guess)."""


class _Look(NamedTuple):
    """What was seen of a run, and until when (monotonic) that is good. Another file of that name is another run."""

    inode: int
    is_over: bool
    until_s: float


class RunEnds:
    """Tells whether a run of a folder is over: ended for some time, or gone.

    A run whose process died without closing the log ended when its log was last written.

    Args:
        runs_dir: The folder of runs.
        clock: Unix time in seconds.
        monotonic: A clock that nobody sets, in seconds.
    """

    def __init__(
        self,
        runs_dir: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs_dir, self._clock, self._monotonic = runs_dir, clock, monotonic
        self._seen: dict[str, _Look] = {}

    def __call__(self, run_id: str) -> bool:
        """Whether it is over. Raises StoreFault if its log cannot be read."""
        path = os.path.join(self._runs_dir, run_id, LOG_NAME)  # a Path would take longer than all the rest
        try:
            inode = os.stat(path).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as error:
            raise StoreFault(f"cannot read {path}: {error.strerror}") from None
        seen = self._seen.get(run_id)
        if seen is None or seen.inode != inode or self._monotonic() >= seen.until_s:
            seen = self._seen[run_id] = self._look(Path(path), inode)
        return seen.is_over

    def _look(self, path: Path, inode: int) -> _Look:
        with contextlib.closing(RunLog.open_to_read(path.parent)) as log:
            info = log.info()
        # Either way: a clock set far back must not open again what was over.
        is_over = not may_be_alive(info) and abs(self._clock() - _ended_s(info, path)) >= LAST_WORDS_S
        # What is recorded as ended stays so; a process that seems gone may yet turn out to have handed over.
        is_final = is_over and not info.is_live
        return _Look(inode, is_over, math.inf if is_final else self._monotonic() + LOOK_EVERY_S)


def _ended_s(info: RunInfo, path: Path) -> float:
    """When it ended, in Unix time; by the last writing of its log if nobody has recorded it."""
    if info.ended_at_s is not None:
        return info.ended_at_s
    written_s = [path.stat().st_mtime]
    with contextlib.suppress(FileNotFoundError):
        written_s.append(path.with_name(f"{path.name}-wal").stat().st_mtime)
    return max(written_s)
