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
import time
from pathlib import Path

from agenttune.errors import (
    AlreadyDecided,
    CommandIdReused,
    LogFull,
    StoreFault,
    UnknownRun,
    UserError,
)
from agenttune.protocol import events
from agenttune.protocol.proposals import (
    NEXT,
    Ack,
    ApprovalRequest,
    CommandRecord,
    Proposal,
    Record,
    StandingApproval,
    State,
    Verdict,
)
from agenttune.protocol.run_info import LIVE, RunInfo
from agenttune.store.command_table import CommandTable
from agenttune.store.event_table import EventTable
from agenttune.store.log_connection import storing
from agenttune.store.metric_table import MetricTable
from agenttune.store.run_folders import LOG_NAME, newest_names
from agenttune.store.run_info import RunCard
from agenttune.store.sqlite_file import connect, connect_log_read_only, make_file, may_write

__all__ = ["LOG_NAME", "RunLog", "list_runs", "run_folder"]

NAME_BYTES = 255
"""Longest file name that Linux file systems take."""
COMPLETED = frozenset({"finished", "stopped"})
"""Statuses of a run that has nothing left to train."""


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


class RunLog(EventTable, CommandTable, MetricTable):
    """One connection to a run's log. Not shared between threads: each thread opens its own.

    Every writing method is one transaction: all of it is in the file when it returns, or nothing is.

    Raises:
        StoreFault: Any method, when the file cannot be read or written (full disk, damaged file, lock held too
            long).
    """

    @property
    def _card(self) -> RunCard:
        return RunCard(self._db)

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
        """Open a log for reading; also one in an archive where nobody may write, or on a full disk.

        Raises:
            StoreFault: As for `open`.
        """
        if not may_write(folder):
            return cls.open_read_only(folder)
        try:
            return cls.open(folder)
        except LogFull:  # SQLite's shared memory finds no room beside the log
            return cls.open_read_only(folder)

    @classmethod
    def open_read_only(cls, folder: Path) -> RunLog:
        """Open a log without writing beside or into it. Writing to what this returns is refused.

        Raises:
            StoreFault: It cannot be read, or was written by a newer agenttune.
        """
        return cls(folder, connect_log_read_only(folder), is_read_only=True)

    def info(self) -> RunInfo:
        with storing(self.folder), self.snapshot():
            info = self._card.read()
        # The folder's name is the run's id, also after somebody renamed or copied it.
        return info.model_copy(update={"run_id": self.folder.name, "path": str(self.folder)})

    def stored_info(self) -> RunInfo:
        """The identity card as it was written last: without the step and the rates that the newest rows tell of."""
        with storing(self.folder):
            return self._card.stored()

    def take(self, **fields: object) -> bool:
        """Make a run that waits for its trainer ours, by fields of its card; False if it is somebody's already."""
        with self.transaction():
            info = self._card.stored()
            if info.status != "starting" or info.started_at_s is not None:
                return False
            self._card.update(**fields)
            return True

    def begin_attempt(self, by: str, reason: str, **fields: object) -> bool:
        """Go on with a run whose job was started again: open commands expire, and it waits for its trainer.

        Args:
            by: Who has started it again.
            reason: How the attempt before it ended, where the log does not say that.
            fields: Of its card.

        Returns:
            False for a run that was completed, or stopped by command.
        """
        with self.transaction():
            info = self._card.stored()
            if info.status in COMPLETED:
                return False
            step, branch = self._card.place()
            attempt = info.attempt + 1
            why = f"asked for in attempt {info.attempt}, which ended before it was applied"
            for record in self.commands(State.PROPOSED, State.QUEUED):
                ack = Ack(outcome="expired", step=step, branch=branch, message=why)
                self._advance(record.command_id, State.EXPIRED, events.Acked(ack=ack), step, branch)
            waits = {"status": "starting", "status_reason": "", "paused_by": None, "ended_at_s": None}
            self._card.update(**waits, evaluating_step=None, attempt=attempt, **fields)
            body = events.AttemptStarted(attempt=attempt, by=by, reason=reason or _ended(info))
            self._add_event(body, step, branch, None)
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

    def lose(self, seen: RunInfo, reason: str) -> None:
        """Record that a run's process is gone, unless the run has ended since, or another process has taken it over.

        Args:
            seen: The card that names the process.
            reason: How that is known.
        """
        with self.transaction():
            now = self._card.stored()
            if (now.pid, now.pid_started_s) == (seen.pid, seen.pid_started_s):
                self._append_status(events.StatusChanged(status="lost", reason=reason), seen.step, seen.branch)

    def _append(self, body: Record, step: int | None, branch: str, command_id: str | None) -> list[int]:
        if isinstance(body, events.StatusChanged):
            return self._append_status(body, step, branch)
        if isinstance(body, events.KnobsRead):
            facts = {} if body.facts is None else {"facts": body.facts}
            last_id = self.last_point_id()
            self._card.update(knobs=body.knobs, schedule=body.schedule, knobs_point_id=last_id, **facts)
        elif isinstance(body, events.Evaluated):
            if self._card.stored().evaluating_step is not None:
                self._card.update(evaluating_step=None)
        elif isinstance(body, events.BranchStarted):
            self._card.update(branch=body.name, evaluating_step=None)
            self._supersede_waiting(f"the run went back to another branch, {body.name}", step, branch)
        elif isinstance(body, events.TagsChanged):
            self._card.update(tags=body.tags)
        elif isinstance(body, events.RunStarted):
            self._card.update(
                capabilities=body.capabilities,
                pid=body.pid,
                max_steps=body.max_steps,
                started_at_s=time.time(),
            )
        return [self._add_event(body, step, branch, command_id)]

    def _supersede_waiting(self, reason: str, step: int | None, branch: str) -> None:
        """What waits for a decision was asked of a world that is no longer there."""
        verdict = Verdict(decision="superseded", decided_by="restore", reason=reason)
        for record in self.commands(State.PROPOSED):
            self._replace_command(_judged(record, verdict))
            self._add_event(events.Judged(verdict=verdict), step, branch, record.command_id)

    def _append_status(self, body: events.StatusChanged, step: int | None, branch: str) -> list[int]:
        info = self._card.stored()
        if not info.is_live:
            return []
        seqs = []
        fields: dict[str, object] = {
            "status": body.status,
            "status_reason": body.reason,
            "paused_by": body.by if body.status == "paused" else None,
        }
        if body.status not in LIVE:
            fields |= {"ended_at_s": time.time(), "step": max(step or 0, info.step, self._card.place()[0])}
            for record in self.commands(State.PROPOSED, State.QUEUED):
                ack = Ack(outcome="expired", step=step or 0, branch=branch, message=f"the run is {body.status}")
                seqs.append(self._advance(record.command_id, State.EXPIRED, events.Acked(ack=ack), step, branch))
        self._card.update(**fields)
        return [*seqs, self._add_event(body, step, branch, None)]

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
            seq = self._add_event(events.Proposed(proposal=proposal), step, branch, proposal.command_id)
            record = CommandRecord(proposal=proposal, state=State.PROPOSED, submitted_seq=seq, submitted_step=step)
            if isinstance(answer, Verdict):
                record = _judged(record, answer)
                self._add_event(events.Judged(verdict=answer), step, branch, proposal.command_id)
            else:
                record = record.model_copy(update={"request": answer})
                self._add_event(events.ApprovalRequested(request=answer), step, branch, proposal.command_id)
            self._add_command(record)
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
            self._replace_command(record)
            self._add_event(events.Judged(verdict=verdict), *self._card.place(), command_id)
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
            self._replace_command(record)
            self._add_event(events.Escalated(request=request), *self._card.place(), command_id)
            return record

    def _stand(self, standing: StandingApproval, command_id: str | None = None, ended_by: str | None = None) -> None:
        info = self._card.stored()
        others = [s for s in info.standing if (s.kind, s.rule) != (standing.kind, standing.rule)]
        self._card.update(standing=[*others, standing] if ended_by is None else others)
        body = events.StandingChanged(standing=standing, ended_by=ended_by)
        self._add_event(body, *self._card.place(), command_id)

    def end_standing_approval(self, kind: str, ended_by: str) -> list[StandingApproval]:
        """Take back what was allowed for a kind of command; returns what that was."""
        with self.transaction():
            info = self._card.stored()
            ended = [standing for standing in info.standing if standing.kind == kind]
            for standing in ended:
                self._stand(standing, ended_by=ended_by)
            return ended

    def settle(self, command_id: str, settled: events.Settled, step: int, branch: str) -> int:
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
            seq = self._advance(command_id, State(ack.outcome), events.Acked(ack=ack), ack.step, ack.branch)
            for body in also:
                self._append(body, ack.step, ack.branch, command_id)
            return seq

    def _advance(
        self, command_id: str, state: State, body: events.Acked | events.Settled, step: int | None, branch: str
    ) -> int:
        record = self.command(command_id)
        if state not in NEXT[record.state]:
            raise UserError(f"command {command_id} is {record.state.value}, it cannot become {state.value}")
        ack = {"ack": body.ack} if isinstance(body, events.Acked) else {}
        self._replace_command(record.model_copy(update={"state": state, **ack}))
        return self._add_event(body, step, branch, command_id)


def _judged(record: CommandRecord, verdict: Verdict) -> CommandRecord:
    state = State.QUEUED if verdict.decision in ("approved", "edited") else State(verdict.decision)
    return record.model_copy(update={"state": state, "verdict": verdict})


def _ended(info: RunInfo) -> str:
    """How the attempt that has left this card ended, where no event says it."""
    if not info.is_live:
        return f"{info.status}: {info.status_reason}".strip(": ")
    is_told = info.status == "starting" and info.status_reason  # by the event that has put it there
    return "" if is_told else "it ended without closing the log"
