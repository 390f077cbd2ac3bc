"""`Control` over a folder of runs on this machine."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from agenttune.control import open_files
from agenttune.control.control import (
    CHECKPOINT_KINDS,
    MOST_CHECKPOINTS,
    AgentRecord,
    Decision,
    existing_checkpoints,
)
from agenttune.control.judging import Ruling, no_verdict
from agenttune.control.reader import find_layer, measured_model, settled
from agenttune.control.run_context import told
from agenttune.errors import RunEnded, StoreFault, UserError
from agenttune.gate import Gate, person
from agenttune.protocol.commands import ReadModel
from agenttune.protocol.deadlines import BootTime, Instant, boot_time
from agenttune.protocol.events import (
    BranchStarted,
    Curve,
    DatasetRead,
    Event,
    KnobState,
    ModelRead,
    ModuleInfo,
    RunInfo,
    SeriesInfo,
    StatusChanged,
    StoredPoint,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval, State, Verdict
from agenttune.protocol.summary import Intervention
from agenttune.store.journal.observer import Observer
from agenttune.store.journal.run_summary import model_calls, newest_interventions
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_catalog import RunCatalog
from agenttune.store.run_folders import written_before_s
from agenttune.store.run_log import LOG_NAME, RunLog, run_folder

logger = logging.getLogger(__name__)

FOLLOW_POLL_S = 0.02
"""How often a waiting reader looks at the log's version, which costs microseconds."""

SILENT_S = 600.0
"""A run of an unknown process that has written nothing for so long holds no server (a guess)."""
LOST_AFTER_S = 2.0
"""Whoever started a process may record how it ended for so long, before it is recorded as lost (guess)."""

READER = Author(principal="viewer", name="reader")
"""Asks the trainer to measure, which changes nothing."""


class LocalControl:
    """`Control` over a folder of runs on this machine. Safe to share between threads.

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
        self._gone: dict[str, float] = {}
        self._indexed: set[str] = set()
        self._observers: dict[str, Observer] = {}
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
        folder = run_folder(self.runs_dir, run_id)  # also of an open log: its folder may be gone
        if run_id not in opened:
            while len(opened) >= self._most_open:
                opened.popitem(last=False)[1].close()
            opened[run_id] = self._open(folder, opened)
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
        first_seen_s = self._gone.setdefault(info.run_id, self._monotonic())
        if self._monotonic() - first_seen_s < LOST_AFTER_S:
            return info.model_copy(update={"status": "lost", "status_reason": reason})
        log = self.log(info.run_id)
        log.append(StatusChanged(status="lost", reason=reason), step=info.step, branch=info.branch)
        return log.info()

    def observe(self, run_id: str) -> Observation:
        info = self.info(run_id)
        observer = self._observers.setdefault(run_id, Observer())
        log = self.log(run_id)
        return told(observer.observe(log, info, self._clock(), Gate.of(info).budgets.max_commands), log, info)

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        log = self.log(run_id)
        deadline = self._monotonic() + wait_s
        version = None
        while True:
            if version != (version := log.data_version()) and (found := log.events(since, limit, kinds)):
                return found
            left = deadline - self._monotonic()
            if left <= 0:
                return []
            self._sleep(min(FOLLOW_POLL_S, left))

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        ruling = self._ruling(run_id)
        log, info = ruling.log, ruling.info
        if not info.is_live:
            known = log.find_command(proposal.command_id)
            if known is not None:
                return log.submit(proposal, known.verdict or no_verdict())
            raise RunEnded(
                f"run {run_id} is {info.status}; it takes no more commands",
                field="run_id",
                allowed=self._live_runs(),
            )
        ruling.limit_rate(proposal)
        record = log.submit(proposal, ruling.judge(proposal))
        if record.state in (State.PROPOSED, State.QUEUED):
            ruling.supersede(record)
        return record

    def _live_runs(self) -> list[str]:
        return [info.run_id for info in self.runs() if info.is_live]

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        answer = self._ruling(run_id).judge(proposal)
        if isinstance(answer, Verdict):
            return answer
        reason = f"would wait for {answer.asked} ({answer.rule})"
        return Verdict(decision="approved", decided_by="guardrails", reason=reason)

    def pending(self, run_id: str) -> list[CommandRecord]:
        return self._ruling(run_id).pending()

    def decide(self, run_id: str, command_id: str, decision: Decision) -> CommandRecord:
        return self._ruling(run_id).decide(command_id, decision)

    def _ruling(self, run_id: str) -> Ruling:
        log = self.log(run_id)
        return Ruling(log, self._checked(log.info()), self.now())

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        log = self.log(run_id)
        allowed = sorted({standing.kind for standing in log.info().standing})
        if kind not in allowed:
            there_are = ", ".join(allowed) or "nothing is"
            raise UserError(
                f"{kind!r:.80} is not always allowed in this run; {there_are}", field="kind", allowed=allowed
            )
        return log.end_standing_approval(kind, person(author))

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        return self.log(run_id).command(command_id)

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        return self.log(run_id).commands(*states, limit=limit, newest=True)

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        log = self.log(run_id)
        return log.append(body, step=step, branch=log.info().branch)[0]

    def knobs(self, run_id: str) -> list[KnobState]:
        """Knobs as last read, the rates of all groups as of the newest step."""
        return self.info(run_id).knobs

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]:
        return self.log(run_id).series(branch)

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        return self.log(run_id).curve(metric, branch, first_step, last_step, max_points)

    def points(self, run_id: str, since: int = 0, limit: int = 1000) -> list[StoredPoint]:
        return self.log(run_id).points(since, limit)

    def look_after_runs(self) -> None:
        """What a server does every few seconds: requests whose time is up are decided, curves are kept ready."""
        self.index_runs()
        for run_id in self._waiting_in():
            self.pending(run_id)

    def _waiting_in(self) -> list[str]:
        """Live runs with proposals that wait for a decision."""
        found = []
        for path in self.runs_dir.glob(f"*/{LOG_NAME}"):
            run_id = path.parent.name
            if run_id not in self._indexed:
                with contextlib.suppress(StoreFault):
                    if self.log(run_id).count_commands(State.PROPOSED):
                        found.append(run_id)
        return found

    def index_runs(self) -> None:
        """Bring the curves' caches of all runs up to date, so that no client waits for it."""
        for path in self.runs_dir.glob(f"*/{LOG_NAME}"):
            run_id = path.parent.name
            if run_id in self._indexed:
                continue
            try:
                log = self.log(run_id)
                was_live = log.info().is_live
                log.index_points()
            except StoreFault as fault:
                logger.warning("%s: its curves are not kept ready", fault)
                was_live = False
            if not was_live:
                self._indexed.add(run_id)

    def newest(self, run_id: str, kind: str) -> Event | None:
        """The last event of a kind, such as `model_read`."""
        found = self.log(run_id).events(kinds=[kind], limit=1, newest=True)
        return found[0] if found else None

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        return newest_interventions(self.log(run_id), self.info(run_id), limit)

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        if not norms:
            event = self.newest(run_id, "model_read")
            return find_layer(event.body.model, layer) if event and isinstance(event.body, ModelRead) else None
        command = ReadModel(layer_name=layer, norms=True)
        record = self.submit(run_id, Proposal(command=command, author=READER, rationale="asked for norms"))
        return measured_model(settled(self, run_id, record, wait_s, self._monotonic), layer, wait_s)

    def dataset(self, run_id: str) -> DatasetRead | None:
        event = self.newest(run_id, "dataset_read")
        return event.body if event and isinstance(event.body, DatasetRead) else None

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        return model_calls(self.log(run_id))

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        return existing_checkpoints(self.log(run_id).events(kinds=CHECKPOINT_KINDS, limit=MOST_CHECKPOINTS))

    def branches(self, run_id: str) -> list[BranchStarted]:
        """Branches in order of their start; `main` is always the first."""
        events = self.log(run_id).events(kinds=[BranchStarted.model_fields["kind"].default], limit=10_000)
        started = [e.body for e in events if isinstance(e.body, BranchStarted)]
        return started if any(b.name == "main" for b in started) else [BranchStarted(name="main"), *started]
