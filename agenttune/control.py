"""The only door to a trainer: submit, observe, follow, record.

`Control` is what the agent loop, the page and the command line see. `LocalControl` works on the runs folder itself;
`client.HttpControl` asks a control server, which uses a `LocalControl`. One gate serves all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from agenttune.commands import ReadModel
from agenttune.errors import RunEnded, StoreFault
from agenttune.events import (
    BranchStarted,
    CheckpointDeleted,
    CheckpointSaved,
    Curve,
    DatasetRead,
    Decided,
    Event,
    Found,
    KnobState,
    ModelRead,
    ModuleInfo,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    RunInfo,
    SeriesInfo,
    StatusChanged,
    StoredPoint,
)
from agenttune.gate import Gate
from agenttune.journal import model_calls, newest_interventions
from agenttune.observation import HISTORY, Observation
from agenttune.observe import Observer, live_knobs
from agenttune.processes import is_alive
from agenttune.proposals import TAKEN, Author, CommandRecord, Proposal, State, Verdict
from agenttune.reading import find_layer, measured_model, settled
from agenttune.store import LOG_NAME, RunLog, list_runs, run_folder
from agenttune.summary import Intervention
from agenttune.transcripts import ModelCalled

logger = logging.getLogger(__name__)

OPEN_LOGS_PER_THREAD = 32
FOLLOW_POLL_S = 0.02
"""How often a waiting reader looks at the log's version, which costs microseconds."""

LOST_AFTER_S = 2.0
"""Whoever started a process may record how it ended for so long, before it is recorded as lost (guess)."""

CHECKPOINT_KINDS = ("checkpoint_saved", "checkpoint_deleted")
MOST_CHECKPOINTS = 20_000
"""Events about checkpoints that are read of one run (guess: far more than a disk holds)."""

READER = Author(principal="viewer", name="reader")
"""Asks the trainer to measure, which changes nothing."""

AgentRecord = Found | Decided | PolicyAttached | PolicyDetached | PolicyRequested | ModelCalled
"""What may be written into a log beside proposals: by an agent, and an operator's wish for another policy."""


class Control(Protocol):
    """What can be done to runs, wherever they are.

    Raises:
        UnknownRun: Every method with a `run_id` that does not exist.
        ServerUnreachable: Every method, when there is a server in between and it does not answer.
    """

    def runs(self) -> list[RunInfo]:
        """All runs, newest first."""
        ...

    def info(self, run_id: str) -> RunInfo: ...

    def observe(self, run_id: str) -> Observation:
        """What a policy sees now; bounded however long the run is."""
        ...

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        """Events after `since`; with `wait_s`, waits that long for the first one."""
        ...

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command: it gets a verdict, and if approved is queued.

        Raises:
            RunEnded: The run takes no more commands.
            CommandIdReused: The id belongs to a different command.
        """
        ...

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        """The verdict that `submit` would give, without submitting."""
        ...

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        ...

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        """The newest commands, oldest first."""
        ...

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        """Write a finding or a decision into the log; returns its `seq`."""
        ...

    def knobs(self, run_id: str) -> list[KnobState]:
        """Every live-tunable value as it stands."""
        ...

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]: ...

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        """A metric of one branch, thinned; raises UserError if that branch has none of that name."""
        ...

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        ...

    def branches(self, run_id: str) -> list[BranchStarted]:
        """Branches in order of their start; `main` is always the first."""
        ...

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        """The newest commands with their measured effect, oldest first."""
        ...

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        """The model's layers as last read; with `norms`, as the trainer measures them now, within `wait_s`.

        Raises:
            UserError: No such layer, or the trainer refuses to measure.
            SystemFault: It did not measure in time.
        """
        ...

    def dataset(self, run_id: str) -> DatasetRead | None:
        """The training dataset as last read."""
        ...

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        """Calls of language models, oldest first; without the messages and the answer."""
        ...


class LocalControl:
    """`Control` over a folder of runs on this machine. Safe to share between threads.

    Args:
        runs_dir: The folder of runs; may not exist yet.
        clock: Unix time in seconds.
        monotonic: A clock that nobody sets, in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        runs_dir: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.runs_dir = runs_dir
        self._clock = clock
        self._monotonic = monotonic
        self._gone: dict[str, float] = {}
        self._indexed: set[str] = set()
        self._observers: dict[str, Observer] = {}
        self._sleep = sleep
        self._local = threading.local()

    def log(self, run_id: str) -> RunLog:
        """This thread's connection to a run's log."""
        opened: OrderedDict[str, RunLog] = self._local.__dict__.setdefault("opened", OrderedDict())
        folder = run_folder(self.runs_dir, run_id)
        if run_id not in opened:
            opened[run_id] = RunLog.open(folder)
        opened.move_to_end(run_id)
        while len(opened) > OPEN_LOGS_PER_THREAD:
            opened.popitem(last=False)[1].close()
        return opened[run_id]

    def runs(self) -> list[RunInfo]:
        return [self._checked(info) for info in list_runs(self.runs_dir)]

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
        return observer.observe(self.log(run_id), info, self._clock(), Gate.of(info).budgets.max_commands)

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
        log = self.log(run_id)
        info = self.info(run_id)
        if not info.is_live:
            known = log.find_command(proposal.command_id)
            if known is not None:
                return log.submit(proposal, known.verdict or _no_verdict())
            raise RunEnded(
                f"run {run_id} is {info.status}; it takes no more commands",
                field="run_id",
                allowed=self._live_runs(),
            )
        return log.submit(proposal, self._judge(log, info, proposal))

    def _live_runs(self) -> list[str]:
        return [info.run_id for info in self.runs() if info.is_live]

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        return self._judge(self.log(run_id), self.info(run_id), proposal)

    def _judge(self, log: RunLog, info: RunInfo, proposal: Proposal) -> Verdict:
        step = proposal.valid_until_step
        if step is not None and step < info.step:
            reason = f"valid until step {step}, the run is at step {info.step}"
            return Verdict(decision="expired", decided_by="clock", reason=reason)
        history, taken = _taken_by_agents(log) if proposal.author.principal == "agent" else ([], 0)
        return Gate.of(info).judge(proposal, info, history, taken)

    def command(self, run_id: str, command_id: str) -> CommandRecord:
        return self.log(run_id).command(command_id)

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        return self.log(run_id).commands(*states, limit=limit, newest=True)

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        log = self.log(run_id)
        return log.append(body, step=step, branch=log.info().branch)[0]

    def knobs(self, run_id: str) -> list[KnobState]:
        """Knobs as last read, the rates as of the newest step."""
        return live_knobs(self.log(run_id), self.info(run_id))

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


def existing_checkpoints(events: Sequence[Event]) -> list[Event]:
    """Of events of `CHECKPOINT_KINDS`, those that tell of a checkpoint which nobody has deleted since."""
    left: dict[str, Event] = {}
    for event in events:
        if isinstance(event.body, CheckpointSaved):
            left[event.body.checkpoint_id] = event
        elif isinstance(event.body, CheckpointDeleted):
            left.pop(event.body.checkpoint_id, None)
    return list(left.values())


def _taken_by_agents(log: RunLog) -> tuple[list[CommandRecord], int]:
    """The newest commands of agents that count against cooldown and budget, and how many there are in all."""
    history = log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True)
    return history, log.count_commands(*TAKEN, principal="agent")


def _no_verdict() -> Verdict:
    return Verdict(decision="rejected", decided_by="store", reason="no verdict recorded")
