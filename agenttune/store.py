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
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agenttune.archived import connect_read_only, private_copy
from agenttune.command_table import COMMANDS_SCHEMA, CommandTable
from agenttune.errors import AlreadyDecided, CommandIdReused, StoreFault, UnknownCommandId, UnknownRun, UserError
from agenttune.events import (
    BODY,
    LIVE,
    TRIAL_PREFIX,
    Acked,
    ApprovalRequested,
    BranchStarted,
    Curve,
    Escalated,
    Event,
    Judged,
    KnobsRead,
    Point,
    Proposed,
    RunInfo,
    RunStarted,
    SeriesInfo,
    Settled,
    StandingChanged,
    StatusChanged,
    StoredPoint,
)
from agenttune.filesystem import refuse_network_file_system
from agenttune.points import POINTS_SCHEMA, SOURCES, PointTable, Row
from agenttune.proposals import (
    NEXT,
    Ack,
    ApprovalRequest,
    CommandRecord,
    Principal,
    Proposal,
    Record,
    Standing,
    State,
    Verdict,
)

LOG_NAME = "log.db"
FORMAT = 1
NAME_BYTES = 255
"""Longest file name that Linux file systems take."""
BUSY_TIMEOUT_S = 10.0
INFOS_KEPT = 64
"""Parsed identity cards kept, about 2 MB (guess: more than the runs that one process looks at in turn)."""
EVENT_ROWS = 100
"""Events in memory at once where all of them are read: a transcript may hold megabytes."""

_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), info TEXT NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, kind TEXT NOT NULL, step INTEGER,
    branch TEXT NOT NULL, command_id TEXT, body TEXT NOT NULL
);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX events_by_command ON events (command_id, seq) WHERE command_id IS NOT NULL;
"""

_LAST_STEP = (
    # Trials of a probe are at steps that the run does not stand at.
    f"coalesce((SELECT step FROM points WHERE branch NOT LIKE '{TRIAL_PREFIX}%' ORDER BY point_id DESC LIMIT 1), 0)"
)


def run_folder(runs_dir: Path, run_id: str) -> Path:
    """The folder of a run; refuses ids that would lead outside `runs_dir`.

    Raises:
        UnknownRun: No log there; lists the newest runs.
    """
    folder = runs_dir / run_id
    is_name = run_id not in ("", ".", "..") and Path(run_id).name == run_id and len(os.fsencode(run_id)) <= NAME_BYTES
    if not is_name or not (folder / LOG_NAME).is_file():
        known = [info.run_id for info in list_runs(runs_dir)[:10]]
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
        self._is_archived = False

    def _connect(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._points = PointTable(connection)
        self._commands = CommandTable(connection)

    @classmethod
    def create(cls, folder: Path, info: RunInfo) -> RunLog:
        """Make a new log with `info` as the run's identity card.

        Raises:
            StoreFault: There is a log already, or the folder is on a network file system.
        """
        with _storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        refuse_network_file_system(folder)
        path = folder / LOG_NAME
        if path.exists():
            raise StoreFault(f"there is a run in {folder} already; choose another name")
        # Build aside, then rename: a log that exists is complete, whoever is killed in between.
        aside = folder / f".{LOG_NAME}.{os.getpid()}"
        with _storing(folder):
            aside.unlink(missing_ok=True)
            connection = sqlite3.connect(aside)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_SCHEMA + COMMANDS_SCHEMA + POINTS_SCHEMA)
                connection.execute(f"PRAGMA user_version={FORMAT}")
                connection.execute("INSERT INTO run VALUES (1, ?)", (info.model_dump_json(),))
                connection.commit()
            finally:
                connection.close()
            aside.rename(path)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> RunLog:
        """Open an existing log.

        Raises:
            StoreFault: There is none, or it was written by a newer agenttune.
        """
        path = folder / LOG_NAME
        if not path.is_file():
            raise StoreFault(f"no log at {path}")
        with _storing(folder):
            connection = sqlite3.connect(
                path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            connection.execute("PRAGMA synchronous=NORMAL")
            _check_format(connection, path)
        return cls(folder, connection)

    @classmethod
    def open_to_read(cls, folder: Path) -> RunLog:
        """Open a log for reading; also one in an archive where nobody may write.

        Raises:
            StoreFault: As for `open`.
        """
        path = folder / LOG_NAME
        if not path.is_file() or (os.access(folder, os.W_OK) and os.access(path, os.W_OK)):
            return cls.open(folder)
        return cls.open_archived(folder)

    @classmethod
    def open_archived(cls, folder: Path) -> RunLog:
        """Open a log without writing beside or into it. Writing to what this returns is refused.

        Raises:
            StoreFault: It cannot be read, or was written by a newer agenttune.
        """
        with _storing(folder):
            connection = connect_read_only(folder / LOG_NAME)
            _check_format(connection, folder / LOG_NAME)
        log = cls(folder, connection)
        log._is_archived = True
        return log

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all are committed at the end, none if the block raises. Does not nest."""
        with _storing(self.folder):
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
        with _storing(self.folder):
            text, step = self._db.execute(f"SELECT info, {_LAST_STEP} FROM run").fetchone()
            info = _info(text)
        # The folder's name is the run's id, also after somebody renamed or copied it.
        now = {"run_id": self.folder.name, "path": str(self.folder), "step": max(info.step, step)}
        return info.model_copy(update=now)

    def _place(self) -> tuple[int, str]:
        """The step and the branch that the run stands at."""
        row = self._db.execute(f"SELECT {_LAST_STEP}, json_extract(info, '$.branch') FROM run").fetchone()
        return int(row[0]), str(row[1])

    def _stored_info(self) -> RunInfo:
        return _info(self._db.execute("SELECT info FROM run").fetchone()[0])

    def _update_info(self, **fields: object) -> None:
        info = self._stored_info().model_copy(update=fields)
        self._db.execute("UPDATE run SET info = ?", (info.model_dump_json(),))

    def update_info(self, **fields: object) -> None:
        """Change fields of the identity card (not of the history)."""
        with self.transaction():
            self._update_info(**fields)

    def append(
        self, *bodies: Record, step: int | None = None, branch: str = "main", command_id: str | None = None
    ) -> list[int]:
        """Append events in one transaction and return their `seq`.

        `RunStarted`, `KnobsRead`, `BranchStarted` and `StatusChanged` also update the identity card. A final status
        is never followed by another one: a later one is not written. Queued commands of a run that ends expire in
        the same transaction.
        """
        with self.transaction():
            return [seq for body in bodies for seq in self._append(body, step, branch, command_id)]

    def _append(self, body: Record, step: int | None, branch: str, command_id: str | None) -> list[int]:
        if isinstance(body, StatusChanged):
            return self._append_status(body, step, branch)
        if isinstance(body, KnobsRead):
            self._update_info(knobs=body.knobs)
        elif isinstance(body, BranchStarted):
            self._update_info(branch=body.name)
            self._supersede_waiting(f"the run went back to another branch, {body.name}", step, branch)
        elif isinstance(body, RunStarted):
            self._update_info(
                capabilities=body.capabilities,
                pid=body.pid,
                max_steps=body.max_steps,
                started_at_s=time.time(),
            )
        return [self._insert_event(body, step, branch, command_id)]

    def _supersede_waiting(self, reason: str, step: int | None, branch: str) -> None:
        """What waits for a decision was asked of a world that is no longer there."""
        verdict = Verdict(decision="superseded", decided_by="restore", reason=reason)
        for record in self.commands(State.PROPOSED):
            self._commands.replace(_judged(record, verdict))
            self._insert_event(Judged(verdict=verdict), step, branch, record.command_id)

    def _insert_event(self, body: Record, step: int | None, branch: str, command_id: str | None) -> int:
        cursor = self._db.execute(
            "INSERT INTO events (at_s, kind, step, branch, command_id, body) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time(), getattr(body, "kind"), step, branch, command_id, body.model_dump_json()),
        )
        return int(cursor.lastrowid or 0)

    def _append_status(self, body: StatusChanged, step: int | None, branch: str) -> list[int]:
        info = self._stored_info()
        if not info.is_live:
            return []
        seqs = []
        fields: dict[str, object] = {"status": body.status, "status_reason": body.reason}
        if body.status not in LIVE:
            fields |= {"ended_at_s": time.time(), "step": max(step or 0, info.step, self._place()[0])}
            for record in self.commands(State.PROPOSED, State.QUEUED):
                ack = Ack(outcome="expired", step=step or 0, branch=branch, message=f"the run is {body.status}")
                seqs.append(self._advance(record.command_id, State.EXPIRED, Acked(ack=ack), step, branch))
        self._update_info(**fields)
        return [*seqs, self._insert_event(body, step, branch, None)]

    def events(
        self,
        since: int = 0,
        limit: int = 1000,
        kinds: Sequence[str] | None = None,
        command_id: str | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Events with `seq > since`, oldest first; with `newest`, the last `limit` of them (still oldest first)."""
        where, arguments = ["seq > ?"], [since]  # type: tuple[list[str], list[Any]]
        if kinds is not None:
            where.append(f"kind IN ({','.join('?' * len(kinds))})")
            arguments += list(kinds)
        if command_id is not None:
            where.append("command_id = ?")
            arguments.append(command_id)
        order = "DESC" if newest else "ASC"
        sql = (
            "SELECT seq, at_s, step, branch, command_id, body FROM events "
            f"WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"
        )
        with _storing(self.folder):
            rows = self._db.execute(sql, (*arguments, limit)).fetchall()
            events = [_event(row) for row in rows]
        return events[::-1] if newest else events

    def event_rows(self, since: int, until: int) -> Iterator[tuple[Any, ...]]:
        """Events with `since < seq <= until` as they lie in the file, one at a time: memory does not grow.

        Yields:
            (seq, at_s, step, branch, command_id, kind, body); the body is JSON text.
        """
        sql = (
            "SELECT seq, at_s, step, branch, command_id, kind, body FROM events WHERE seq > ? AND seq <= ? "
            "ORDER BY seq LIMIT ?"
        )
        while True:
            with _storing(self.folder):
                rows = self._db.execute(sql, (since, until, EVENT_ROWS)).fetchall()
            if not rows:
                return
            yield from rows
            since = rows[-1][0]

    def lineage(self, branch: str) -> list[tuple[str, int | None]]:
        """The branches that a branch stands on, oldest first, each with the last step that counts (None: all).

        A branch takes over the history of its parent up to the step of the checkpoint that it stands on.
        """
        bodies = (event.body for event in self.events(kinds=["branch_started"], limit=100_000))
        started = {body.name: body for body in bodies if isinstance(body, BranchStarted)}
        found: list[tuple[str, int | None]] = [(branch, None)]
        until: int | None = None
        while (start := started.get(found[-1][0])) is not None and start.parent is not None:
            until = start.from_step if until is None else min(until, start.from_step)
            found.append((start.parent, until))
        return found[::-1]

    def last_seq(self) -> int:
        row = self._db.execute("SELECT max(seq) FROM events").fetchone()
        return int(row[0] or 0)

    def extra_steps(self) -> int:
        """Training steps that probes took and gave back."""
        sql = "SELECT coalesce(sum(json_extract(body, '$.extra_steps')), 0) FROM events WHERE kind = 'probed'"
        with _storing(self.folder):
            return int(self._db.execute(sql).fetchone()[0])

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
            step, branch = self._place()
            seq = self._insert_event(Proposed(proposal=proposal), step, branch, proposal.command_id)
            record = CommandRecord(proposal=proposal, state=State.PROPOSED, submitted_seq=seq, submitted_step=step)
            if isinstance(answer, Verdict):
                record = _judged(record, answer)
                self._insert_event(Judged(verdict=answer), step, branch, proposal.command_id)
            else:
                record = record.model_copy(update={"request": answer})
                self._insert_event(ApprovalRequested(request=answer), step, branch, proposal.command_id)
            self._commands.add(record)
            return record

    def decide(self, command_id: str, verdict: Verdict, standing: Standing | None = None) -> CommandRecord:
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
            self._insert_event(Judged(verdict=verdict), *self._place(), command_id)
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
            self._insert_event(Escalated(request=request), *self._place(), command_id)
            return record

    def _stand(self, standing: Standing, command_id: str | None = None, ended_by: str | None = None) -> None:
        info = self._stored_info()
        others = [s for s in info.standing if (s.kind, s.rule) != (standing.kind, standing.rule)]
        self._update_info(standing=[*others, standing] if ended_by is None else others)
        body = StandingChanged(standing=standing, ended_by=ended_by)
        self._insert_event(body, *self._place(), command_id)

    def end_standing(self, kind: str, ended_by: str) -> list[Standing]:
        """Take back what was allowed for a kind of command; returns what that was."""
        with self.transaction():
            info = self._stored_info()
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
        return self._insert_event(body, step, branch, command_id)

    def commands(
        self, *states: State, limit: int = 1000, newest: bool = False, principal: Principal | None = None
    ) -> list[CommandRecord]:
        """Commands in order of submission, of all states or of those named; `newest`: the last `limit` of them."""
        with _storing(self.folder):
            read = self._commands.newest if newest else self._commands.oldest
            return read(states, principal, limit)

    def count_commands(self, *states: State, principal: Principal | None = None) -> int:
        """How many commands there are, of all states or of those named."""
        with _storing(self.folder):
            return self._commands.count(states, principal)

    def agent_proposed_at_s(self, back: int) -> float | None:
        """Unix time at which an agent made the proposal that is `back` before the newest; None if there are fewer."""
        with _storing(self.folder):
            return self._commands.agent_proposed_at_s(back)

    def command(self, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        record = self.find_command(command_id)
        if record is None:
            raise UnknownCommandId(f"no command {command_id!r} in this run", field="command_id")
        return record

    def find_command(self, command_id: str) -> CommandRecord | None:
        with _storing(self.folder):
            return self._commands.find(command_id)

    def append_points(self, points: Iterable[Point | Row]) -> None:
        """Append metric rows in one transaction. One process writes a run's points."""
        with self.transaction():
            self._points.append(points)

    def points(self, since: int = 0, limit: int = 1000, sources: Sequence[str] = SOURCES) -> list[StoredPoint]:
        """Whole rows with `point_id > since`, in order of writing."""
        with _storing(self.folder):
            return self._points.rows(since, limit, sources)

    def recent_points(
        self, limit: int, sources: Sequence[str] = ("step",), branch: str = "main", last_step: int | None = None
    ) -> list[StoredPoint]:
        """The last `limit` rows of a branch, up to a step, oldest first."""
        with _storing(self.folder):
            return self._points.recent(limit, sources, branch, last_step)

    def last_point_id(self) -> int:
        with _storing(self.folder):
            return self._points.last_id()

    def index_points(self, max_transactions: int = 1_000_000) -> None:
        """Bring the curves' cache up to date; done by readers, in transactions of a few milliseconds."""
        if self._is_archived:
            self._index_copy()
            return
        for _ in range(max_transactions):
            with _storing(self.folder):
                if not self._points.is_behind():
                    return
            with self.transaction():
                self._points.index()

    def _index_copy(self) -> None:
        """Where nobody may write, the cache is brought up to date in a copy of our own, which ends with us."""
        with _storing(self.folder):
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
        with _storing(self.folder):
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
        with _storing(self.folder):
            return self._points.curve(name, branch, first_step, last_step, max_points)


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        connection.close()
        raise StoreFault(f"{path} has format {version}, this agenttune reads format {FORMAT}")


@lru_cache(INFOS_KEPT)
def _info(text: str) -> RunInfo:
    """An identity card; the same one is read again at every look and every submission."""
    return RunInfo.model_validate_json(text)


def _judged(record: CommandRecord, verdict: Verdict) -> CommandRecord:
    state = State.QUEUED if verdict.decision in ("approved", "edited") else State(verdict.decision)
    return record.model_copy(update={"state": state, "verdict": verdict})


def _event(row: tuple[Any, ...]) -> Event:
    seq, at_s, step, branch, command_id, body = row
    return Event(seq=seq, at_s=at_s, step=step, branch=branch, command_id=command_id, body=BODY.validate_json(body))


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the disk's errors into ours, with the file's name."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreFault(f"the log in {folder}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreFault(
            f"the log in {folder} is damaged or was written by another version of agenttune: "
            f"{error.title} {where}: {first['msg']}"
        ) from error
