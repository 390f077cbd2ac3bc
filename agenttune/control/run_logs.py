"""The logs of a folder of runs: open connections, clocks, and whether a run's process still lives."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agenttune.control import open_files
from agenttune.errors import LogFull, StoreFault, UnknownRun
from agenttune.protocol.deadlines import BootTime, Instant, boot_time
from agenttune.protocol.events import Event
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.observer import Observer
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_catalog import RunCatalog
from agenttune.store.run_folders import written_before_s
from agenttune.store.run_log import LOG_NAME, RunLog, run_folder
from agenttune.store.wal_monitor import WalMonitor

logger = logging.getLogger(__name__)
T = TypeVar("T")

FOLLOW_POLL_S = 0.02
"""How often a waiting reader looks at the log's version, which costs microseconds."""
SILENT_S = 600.0
"""A run of an unknown process that has written nothing for so long holds no server (a guess)."""
INDEX_S = 0.5
"""Spent at a time on the curves of runs that have ended, which nobody may ever look at (guess)."""
LOST_AFTER_S = 5.0
"""Whoever started a process may record how it ended for so long, before it is recorded as lost (guess: that takes
milliseconds, and on a busy machine a hundred times as long)."""


class LogTail:
    """The live end of one run's log, with a connection of its own, for one thread.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        log = RunLog.open(folder)
        self.last_seq, self.last_point_id = log.last_seq(), log.last_point_id()
        self.may_have_changed = WalMonitor(folder / LOG_NAME).may_have_changed
        """Whether anybody has written since the last look; takes under a microsecond, in any thread."""
        self.events, self.points, self.close = log.events, log.points, log.close


class RunLogs:
    """The logs of a folder of runs on this machine. Safe to share between threads.

    Args:
        runs_dir: The folder of runs; may not exist yet.
        clock: Unix time in seconds.
        monotonic: A clock that nobody sets, in seconds.
        sleep: Waits for so many seconds.
        boot: Time since the machine was started, by which requests wait.
    """

    def __init__(
        self,
        runs_dir: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        boot: Callable[[], BootTime] = boot_time,
    ) -> None:
        self.runs_dir = runs_dir
        self._clock = clock
        self._boot = boot
        self._monotonic = monotonic
        self._catalog = RunCatalog(runs_dir)
        self._gone: dict[tuple[str, int, float | None], float] = {}
        self._indexed: set[str] = set()
        self._wanted: dict[str, None] = {}
        self.observers: dict[str, Observer] = {}
        self._sleep = sleep
        self._local = threading.local()
        self._most_open = open_files.logs_per_thread_for(open_files.limit())

    def now_s(self) -> float:
        """Unix time by this control's clock."""
        return self._clock()

    def now(self) -> Instant:
        """Now by both of this control's clocks, which decides what has expired."""
        return Instant(self._clock(), self._boot())

    def log(self, run_id: str) -> RunLog:
        """This thread's connection to a run's log."""
        opened: OrderedDict[str, RunLog] = self._local.__dict__.setdefault("opened", OrderedDict())
        known = opened.get(run_id)
        if known is None or not (known.folder / LOG_NAME).is_file():  # its folder may be gone
            folder = run_folder(self.runs_dir, run_id)
        if run_id not in opened:
            while len(opened) >= self._most_open:
                opened.popitem(last=False)[1].close()
            try:
                opened[run_id] = self._open(folder, opened)
            except LogFull:  # not kept: it would not see what is written once there is room
                return RunLog.open_read_only(folder)
        opened.move_to_end(run_id)
        return opened[run_id]

    @staticmethod
    def _open(folder: Path, others: OrderedDict[str, RunLog]) -> RunLog:
        """Open a log; where no more files can be opened, those that this thread keeps make room for it."""
        try:
            return RunLog.open(folder)
        except StoreFault:
            if not others:
                raise
            while others:
                others.popitem()[1].close()
            return RunLog.open(folder)

    def runs(self) -> list[RunInfo]:
        return [self._checked(info) for info in self._catalog.infos()]

    def newest_run(self, is_seen: Callable[[str], bool] = lambda run_id: True) -> str | None:
        """The id of the run that was made last, of those that `is_seen` lets pass; however many there are."""
        return self._catalog.newest(is_seen)

    def has_running(self) -> bool:
        """Whether a process trains any of these runs, as far as can be told; records nothing, and so cannot fail.

        A run whose process is not known counts while its log is written.
        """
        return any(info.is_live and self._is_running(info) for info in self._catalog.infos())

    def _is_running(self, info: RunInfo) -> bool:
        if info.pid is not None:
            return is_alive(info.pid, info.pid_started_s)
        written_s = written_before_s(self.runs_dir / info.run_id)
        return written_s is not None and self._clock() - written_s < SILENT_S

    def info(self, run_id: str) -> RunInfo:
        return self._checked(self.log(run_id).info())

    def _checked(self, info: RunInfo) -> RunInfo:
        """Tell, and after a grace record, that a run's process is gone: nobody else will close its log."""
        if not info.is_live or info.pid is None or is_alive(info.pid, info.pid_started_s):
            return info
        reason = f"its process {info.pid} ended without closing the log"
        process = (info.run_id, info.pid, info.pid_started_s)  # a job that is started again trains on in its run
        first_seen_s = self._gone.setdefault(process, self._monotonic())
        if self._monotonic() - first_seen_s < LOST_AFTER_S:
            return info.model_copy(update={"status": "lost", "status_reason": reason})
        log = self.log(info.run_id)
        try:
            log.lose(info, reason)
        except StoreFault:  # on a full disk it is told all the same, and recorded once there is room
            return info.model_copy(update={"status": "lost", "status_reason": reason})
        return log.info()

    def wait_for(self, run_id: str, look: Callable[[RunLog], T | None], wait_s: float) -> T | None:
        """What `look` finds in a log, looked for again after every write until `wait_s` is over."""
        log, deadline, version = self.log(run_id), self._monotonic() + wait_s, None
        while True:
            if version != (version := log.data_version()) and (found := look(log)):
                return found
            left_s = deadline - self._monotonic()
            if left_s <= 0:
                return None
            self._sleep(min(FOLLOW_POLL_S, left_s))

    def newest(self, run_id: str, kind: str) -> Event | None:
        """The last event of a kind, such as `model_read`."""
        found = self.newest_events(run_id, [kind], 1)
        return found[0] if found else None

    def newest_events(self, run_id: str, kinds: Sequence[str], limit: int) -> list[Event]:
        """The newest events of these kinds, oldest first."""
        return self.log(run_id).events(kinds=kinds, limit=limit, newest=True)

    def events_of(self, run_id: str, command_id: str, kind: str) -> list[Event]:
        """What of a kind was recorded of one command, oldest first."""
        return self.log(run_id).events(kinds=[kind], command_id=command_id)

    def last_seq(self, run_id: str) -> int:
        """The cursor of the newest event."""
        return self.log(run_id).last_seq()

    def tail(self, run_id: str) -> LogTail:
        """A log to be followed live; whoever asks closes it."""
        return LogTail(run_folder(self.runs_dir, run_id))

    def run_ids(self) -> list[str]:
        """The names of all folders with a log, in no order."""
        return [path.parent.name for path in self.runs_dir.glob(f"*/{LOG_NAME}")]

    def index_soon(self, run_id: str) -> None:
        """Somebody looks at this run's curves: they are brought up to date before those of others."""
        self._wanted[run_id] = None

    def index_runs(self, most_s: float = INDEX_S) -> None:
        """Bring the cached curves of runs up to date, so that no client waits for them.

        Those that somebody looks at come first, then those that go on; of the many that have ended, the newest, for
        `most_s` at most: the next call goes on with the rest.
        """
        until_s = self._monotonic() + most_s
        infos = {info.run_id: info for info in self._catalog.infos()}
        self._indexed &= set(infos)
        wanted = [run_id for run_id in self._wanted.copy() if run_id in infos]
        live = [run_id for run_id, info in infos.items() if info.is_live]
        ended = [run_id for run_id in infos if run_id not in self._indexed]
        for run_id in dict.fromkeys([*wanted, *live, *ended]):
            if not (run_id in wanted or infos[run_id].is_live) and self._monotonic() > until_s:
                return
            self._index(run_id, infos[run_id].is_live)

    def _index(self, run_id: str, is_live: bool) -> None:
        try:
            self.log(run_id).index_points()
        except StoreFault as fault:
            logger.warning("%s: its curves are not kept ready", fault)
            is_live = False
        except UnknownRun:  # its folder was deleted meanwhile
            return
        finally:
            self._wanted.pop(run_id, None)
        if not is_live:
            self._indexed.add(run_id)
