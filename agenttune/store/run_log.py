"""A run's log: one SQLite file that the training process and the control server share.

Events are append-only. `commands` and `run` are projections of the events, changed in the same transaction as the
event that changes them, so that "what is queued" is one indexed look-up. Points (metrics) are rows of their own:
one row a step. Buckets of 16, 256, 4096, ... points, a cache that readers keep, let the curve of a million points be
read from a few thousand rows.

WAL mode: readers never block the writer. `synchronous=NORMAL`: a killed process loses nothing that was committed;
a power cut may lose the last moments but never corrupts (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agenttune.errors import AlreadyDecided, CommandIdReused, StoreFault, UnknownCommandId, UnknownRun, UserError
from agenttune.protocol.commands import Impact
from agenttune.protocol.events import (
    Acked,
    ApprovalRequested,
    BranchStarted,
    Escalated,
    Evaluated,
    Event,
    Judged,
    KnobsRead,
    Proposed,
    RunStarted,
    Settled,
    StandingChanged,
    StatusChanged,
)
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.metrics import Curve, Point, SeriesInfo, StoredPoint
from agenttune.protocol.proposals import (
    NEXT,
    TAKEN,
    Ack,
    ApprovalRequest,
    CommandRecord,
    Principal,
    Proposal,
    Record,
    StandingApproval,
    State,
    Verdict,
)
from agenttune.protocol.run_info import LIVE, RunInfo
from agenttune.store.command_table import CommandTable
from agenttune.store.event_table import EventTable
from agenttune.store.metric_table import SOURCES, MetricRow, PointTable
from agenttune.store.run_folders import LOG_NAME, newest_names
from agenttune.store.run_info import RunCard
from agenttune.store.sqlite_file import connect, connect_log_read_only, make_file, may_write, private_copy, storing
from agenttune.store.wal_monitor import OwnCommits

__all__ = ["LOG_NAME", "RunLog", "list_runs", "run_folder"]

NAME_BYTES = 255
"""Longest file name that Linux file systems take."""
EVENT_ROWS = 100
"""Events in memory at once where all of them are read: a transcript may hold megabytes."""


def run_folder(runs_dir: Path, run_id: str) -> Path:
    """The folder of a run; refuses ids that would lead outside `runs_dir`.

    Raises:
        UnknownRun: No log there; lists the newest runs.
    """
    folder = runs_dir / run_id
    is_name = run_id not in ("", ".", "..") and Path(run_id).name == run_id and len(os.fsencode(run_id)) <= NAME_BYTES
    if not is_name or not (folder / LOG_NAME).is_file():
        known = newest_names(runs_dir, 10)
        raise UnknownRun(
            f"no run {run_id!r} in {runs_dir}; newest: {', '.join(known) or 'none'}",
            field="run_id",
            allowed=known,
        )
    return folder


def list_runs(runs_dir: Path) -> list[RunInfo]:
    """Identity cards of all runs in a folder, newest first. A log that cannot be read is left out."""
    infos = []
    for path in runs_dir.glob(f"*/{LOG_NAME}"):
        with contextlib.suppress(StoreFault), contextlib.closing(RunLog.open_to_read(path.parent)) as log:
            infos.append(log.info())
    return sorted(infos, key=lambda info: info.created_at_s, reverse=True)


class RunLog:
    """One connection to a run's log. Not shared between threads: each thread opens its own.

    Every writing method is one transaction: all of it is in the file when it returns, or nothing is.

    Raises:
        StoreFault: Any method, when the file cannot be read or written (full disk, damaged file, lock held too
            long).
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connect(connection)
        self._is_read_only = False
        self.own: OwnCommits | None = None
        """Where own commits of rows are reported, so that the command queue ignores them."""

    def _connect(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._card = RunCard(connection)
        self._events = EventTable(connection)
        self._points = PointTable(connection)
        self._commands = CommandTable(connection)

    @classmethod
    def create(cls, folder: Path, info: RunInfo) -> RunLog:
        """Make a new log with `info` as the run's identity card.

        Raises:
            StoreFault: There is a log already, or the folder is on a network file system.
        """
        make_file(folder, info)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> RunLog:
        """Open an existing log.

        Raises:
            StoreFault: There is none, or it was written by a newer agenttune.
        """
        return cls(folder, connect(folder))

    @classmethod
    def open_to_read(cls, folder: Path) -> RunLog:
        """Open a log for reading; also one in an archive where nobody may write.

        Raises:
            StoreFault: As for `open`.
        """
        return cls.open(folder) if may_write(folder) else cls.open_read_only(folder)

    @classmethod
    def open_read_only(cls, folder: Path) -> RunLog:
        """Open a log without writing beside or into it. Writing to what this returns is refused.

        Raises:
            StoreFault: It cannot be read, or was written by a newer agenttune.
        """
        log = cls(folder, connect_log_read_only(folder))
        log._is_read_only = True
        return log

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all are committed at the end, none if the block raises. Does not nest."""
        with storing(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._points.forget()
                raise

    def data_version(self) -> int:
        """A number that changes when another connection has written; costs a few microseconds."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def info(self) -> RunInfo:
        with storing(self.folder):
            info = self._card.read()
        # The folder's name is the run's id, also after somebody renamed or copied it.
        return info.model_copy(update={"run_id": self.folder.name, "path": str(self.folder)})

    def take(self, **fields: object) -> bool:
        """Make a run that waits for its trainer ours, by fields of its card; False if it is somebody's already."""
        with self.transaction():
            info = self._card.stored()
            if info.status != "starting" or info.started_at_s is not None:
                return False
            self._card.update(**fields)
            return True

    def update_info(self, **fields: object) -> None:
        """Change fields of the identity card (not of the history)."""
        with self.transaction():
            self._card.update(**fields)

    def append(
        self, *bodies: Record, step: int | None = None, branch: str = "main", command_id: str | None = None
    ) -> list[int]:
        """Append events in one transaction and return their `seq`.

        `RunStarted`, `KnobsRead`, `Evaluated`, `BranchStarted` and `StatusChanged` also update the identity card. A
        final status is never followed by another one: a later one is not written. Queued commands of a run that ends
        expire in the same transaction.
        """
        with self.transaction():
            return [seq for body in bodies for seq in self._append(body, step, branch, command_id)]

    def _append(self, body: Record, step: int | None, branch: str, command_id: str | None) -> list[int]:
        if isinstance(body, StatusChanged):
            return self._append_status(body, step, branch)
        if isinstance(body, KnobsRead):
            facts = {} if body.facts is None else {"facts": body.facts}
            last_id = self._points.last_id()
            self._card.update(knobs=body.knobs, schedule=body.schedule, knobs_point_id=last_id, **facts)
        elif isinstance(body, Evaluated):
            if self._card.stored().evaluating_step is not None:
                self._card.update(evaluating_step=None)
        elif isinstance(body, BranchStarted):
            self._card.update(branch=body.name, evaluating_step=None)
            self._supersede_waiting(f"the run went back to another branch, {body.name}", step, branch)
        elif isinstance(body, RunStarted):
            self._card.update(
                capabilities=body.capabilities,
                pid=body.pid,
                max_steps=body.max_steps,
                started_at_s=time.time(),
            )
        return [self._events.add(body, step, branch, command_id)]

    def _supersede_waiting(self, reason: str, step: int | None, branch: str) -> None:
        """What waits for a decision was asked of a world that is no longer there."""
        verdict = Verdict(decision="superseded", decided_by="restore", reason=reason)
        for record in self.commands(State.PROPOSED):
            self._commands.replace(_judged(record, verdict))
            self._events.add(Judged(verdict=verdict), step, branch, record.command_id)

    def _append_status(self, body: StatusChanged, step: int | None, branch: str) -> list[int]:
        info = self._card.stored()
        if not info.is_live:
            return []
        seqs = []
        fields: dict[str, object] = {"status": body.status, "status_reason": body.reason}
        if body.status not in LIVE:
            fields |= {"ended_at_s": time.time(), "step": max(step or 0, info.step, self._card.place()[0])}
            for record in self.commands(State.PROPOSED, State.QUEUED):
                ack = Ack(outcome="expired", step=step or 0, branch=branch, message=f"the run is {body.status}")
                seqs.append(self._advance(record.command_id, State.EXPIRED, Acked(ack=ack), step, branch))
        self._card.update(**fields)
        return [*seqs, self._events.add(body, step, branch, None)]

    def events(
        self,
        since: int = 0,
        limit: int = 1000,
        kinds: Sequence[str] | None = None,
        command_id: str | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Events with `seq > since`, oldest first; with `newest`, the last `limit` of them (still oldest first)."""
        with storing(self.folder):
            return self._events.read(since, limit, kinds, command_id, newest)

    def event_rows(self, since: int, until: int) -> Iterator[tuple[Any, ...]]:
        """Events with `since < seq <= until` as they lie in the file, one at a time: memory does not grow.

        Yields:
            (seq, at_s, step, branch, command_id, kind, body); the body is JSON text.
        """
        while True:
            with storing(self.folder):
                rows = self._events.rows(since, until, EVENT_ROWS)
            if not rows:
                return
            yield from rows
            since = rows[-1][0]

    def lineage(self, branch: str) -> Lineage:
        """The branches that a branch stands on."""
        with storing(self.folder):
            return self._events.lineage(branch)

    def last_seq(self) -> int:
        return self._events.last_seq()

    def extra_steps(self) -> int:
        """Training steps that probes took and gave back."""
        with storing(self.folder):
            return self._events.extra_steps()

    def submit(self, proposal: Proposal, answer: Verdict | ApprovalRequest) -> CommandRecord:
        """Record a proposal with the gate's answer: approved ones are queued for the trainer, others may wait.

        The same `command_id` again returns the record as it stands, whatever came of it.

        Raises:
            CommandIdReused: The id was used for a different command.
        """
        with self.transaction():
            known = self.find_command(proposal.command_id)
            if known is not None:
                if known.proposal.digest() != proposal.digest():
                    raise CommandIdReused(
                        f"command_id {proposal.command_id!r} was used for another command "
                        f"({known.proposal.command.kind}); use a new id",
                        field="command_id",
                    )
                return known
            step, branch = self._card.place()
            seq = self._events.add(Proposed(proposal=proposal), step, branch, proposal.command_id)
            record = CommandRecord(proposal=proposal, state=State.PROPOSED, submitted_seq=seq, submitted_step=step)
            if isinstance(answer, Verdict):
                record = _judged(record, answer)
                self._events.add(Judged(verdict=answer), step, branch, proposal.command_id)
            else:
                record = record.model_copy(update={"request": answer})
                self._events.add(ApprovalRequested(request=answer), step, branch, proposal.command_id)
            self._commands.add(record)
            return record

    def decide(self, command_id: str, verdict: Verdict, standing: StandingApproval | None = None) -> CommandRecord:
        """Record the verdict on a proposal that waits for one; the first one is final.

        Args:
            command_id: Of the proposal.
            verdict: What was decided.
            standing: What is allowed with it from now on, in the same transaction.

        Raises:
            UnknownCommandId: There is none of that id.
            AlreadyDecided: It does not wait (any more); says what became of it.
        """
        with self.transaction():
            record = _judged(self._waiting(command_id), verdict)
            self._commands.replace(record)
            self._events.add(Judged(verdict=verdict), *self._card.place(), command_id)
            if standing is not None:
                self._stand(standing, command_id)
            return record

    def _waiting(self, command_id: str) -> CommandRecord:
        record = self.command(command_id)
        if record.state is not State.PROPOSED:
            by = f" by {record.verdict.decided_by}" if record.verdict else ""
            raise AlreadyDecided(
                f"command {command_id} does not wait for a decision: it is {record.state.value}, decided{by}",
                field="command_id",
            )
        return record

    def escalate(self, command_id: str, request: ApprovalRequest) -> CommandRecord:
        """Record that the approver who was asked left a proposal to the next.

        Raises:
            UnknownCommandId: There is none of that id.
            AlreadyDecided: It was decided, or passed on, meanwhile.
        """
        with self.transaction():
            record = self._waiting(command_id)
            before = [] if record.request is None else record.request.passed
            if request.passed[: len(before)] != before or len(request.passed) == len(before):
                raise AlreadyDecided(f"command {command_id} was passed on meanwhile", field="command_id")
            record = record.model_copy(update={"request": request})
            self._commands.replace(record)
            self._events.add(Escalated(request=request), *self._card.place(), command_id)
            return record

    def _stand(self, standing: StandingApproval, command_id: str | None = None, ended_by: str | None = None) -> None:
        info = self._card.stored()
        others = [s for s in info.standing if (s.kind, s.rule) != (standing.kind, standing.rule)]
        self._card.update(standing=[*others, standing] if ended_by is None else others)
        body = StandingChanged(standing=standing, ended_by=ended_by)
        self._events.add(body, *self._card.place(), command_id)

    def end_standing_approval(self, kind: str, ended_by: str) -> list[StandingApproval]:
        """Take back what was allowed for a kind of command; returns what that was."""
        with self.transaction():
            info = self._card.stored()
            ended = [standing for standing in info.standing if standing.kind == kind]
            for standing in ended:
                self._stand(standing, ended_by=ended_by)
            return ended

    def settle(self, command_id: str, settled: Settled, step: int, branch: str) -> int:
        """Record how the probation of an applied command ended.

        Raises:
            UserError: The command is not in force (it was settled before).
        """
        with self.transaction():
            return self._advance(command_id, State(settled.outcome), settled, step, branch)

    def acknowledge(self, command_id: str, ack: Ack, *also: Record) -> int:
        """Record the trainer's answer, the command's new state and `also`, in one transaction.

        Raises:
            UserError: The command is not queued (it has an answer already).
        """
        with self.transaction():
            seq = self._advance(command_id, State(ack.outcome), Acked(ack=ack), ack.step, ack.branch)
            for body in also:
                self._append(body, ack.step, ack.branch, command_id)
            return seq

    def _advance(self, command_id: str, state: State, body: Acked | Settled, step: int | None, branch: str) -> int:
        record = self.command(command_id)
        if state not in NEXT[record.state]:
            raise UserError(f"command {command_id} is {record.state.value}, it cannot become {state.value}")
        ack = {"ack": body.ack} if isinstance(body, Acked) else {}
        self._commands.replace(record.model_copy(update={"state": state, **ack}))
        return self._events.add(body, step, branch, command_id)

    def commands(
        self, *states: State, limit: int = 1000, newest: bool = False, principal: Principal | None = None
    ) -> list[CommandRecord]:
        """Commands in order of submission, of all states or of those named; `newest`: the last `limit` of them."""
        with storing(self.folder):
            read = self._commands.newest if newest else self._commands.oldest
            return read(states, principal, limit)

    def count_commands(self, *states: State, principal: Principal | None = None) -> int:
        """How many commands there are, of all states or of those named."""
        with storing(self.folder):
            return self._commands.count(states, principal)

    def count_returns(self) -> int:
        """How often agents went back to a checkpoint, or are about to."""
        return sum(c.command.impact is Impact.RESTORE for c in self.commands(*TAKEN, principal="agent"))

    def agent_proposed_at_s(self, back: int) -> float | None:
        """Unix time at which an agent made the proposal that is `back` before the newest; None if there are fewer."""
        with storing(self.folder):
            return self._commands.agent_proposed_at_s(back)

    def command(self, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        record = self.find_command(command_id)
        if record is None:
            raise UnknownCommandId(f"no command {command_id!r} in this run", field="command_id")
        return record

    def find_command(self, command_id: str) -> CommandRecord | None:
        with storing(self.folder):
            return self._commands.find(command_id)

    def append_points(self, points: Iterable[Point | MetricRow]) -> None:
        """Append metric rows, and the events that some of them are, in one transaction.

        One process writes a run's points.
        """
        with self.transaction():
            count = self._points.append(points)
            number = self.own.next() if self.own is not None and count else None
        if self.own is not None:
            self.own.note(number)

    def points(self, since: int = 0, limit: int = 1000, sources: Sequence[str] = SOURCES) -> list[StoredPoint]:
        """Whole rows with `point_id > since`, in order of writing."""
        with storing(self.folder):
            return self._points.rows(since, limit, sources)

    def recent_points(
        self, limit: int, sources: Sequence[str] = ("step",), branch: str = "main", last_step: int | None = None
    ) -> list[StoredPoint]:
        """The last `limit` rows of a branch, up to a step, oldest first."""
        with storing(self.folder):
            return self._points.recent(limit, sources, branch, last_step)

    def first_points(
        self,
        limit: int,
        sources: Sequence[str] = ("step",),
        branch: str = "main",
        after_step: int = 0,
        last_step: int | None = None,
    ) -> list[StoredPoint]:
        """The first `limit` rows of each source of a branch after a step, up to another; in order of steps."""
        with storing(self.folder):
            return self._points.first(limit, sources, branch, after_step, last_step)

    def sampled_points(
        self, count: int, sources: Sequence[str] = ("step",), branch: str = "main", last_step: int | None = None
    ) -> list[StoredPoint]:
        """About `count` rows of each source, evenly over the steps of a branch up to one; in order of writing."""
        with storing(self.folder):
            return self._points.sample(count, sources, branch, last_step)

    def index_lag(self) -> int:
        """Rows, at most, that a curve would first have to take in."""
        with storing(self.folder):
            return self._points.lag()

    def last_point_id(self) -> int:
        with storing(self.folder):
            return self._points.last_id()

    def index_points(self, max_transactions: int = 1_000_000) -> None:
        """Bring the curves' cache up to date; done by readers, in transactions of a few milliseconds."""
        if self._is_read_only:
            self._index_copy()
            return
        for _ in range(max_transactions):
            with storing(self.folder):
                if not self._points.is_behind():
                    return
            with self.transaction():
                self._points.index()

    def _index_copy(self) -> None:
        """Where nobody may write, the cache is brought up to date in a copy of our own, which ends with us."""
        with storing(self.folder):
            if not self._points.is_behind():
                return
            copy = private_copy(self._db)
            self._db.close()
            self._connect(copy)
            while self._points.is_behind():
                self._points.index()
            copy.execute("PRAGMA query_only=ON")

    def series(self, branch: str = "main") -> list[SeriesInfo]:
        """Every metric of a branch with its extent."""
        self.index_points()
        with storing(self.folder):
            return self._points.series(branch)

    def curve(
        self,
        name: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        """One metric over steps, with at most `max_points` entries.

        Raises:
            UserError: No such metric in that branch; lists those there are.
        """
        self.index_points()
        with storing(self.folder):
            return self._points.curve(name, branch, first_step, last_step, max_points)


def _judged(record: CommandRecord, verdict: Verdict) -> CommandRecord:
    state = State.QUEUED if verdict.decision in ("approved", "edited") else State(verdict.decision)
    return record.model_copy(update={"state": state, "verdict": verdict})
