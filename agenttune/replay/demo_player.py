"""Plays a recorded rescue into a log as if it were trained now; a real control server shows it, a person answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agenttune.errors import UserError
from agenttune.protocol.commands import AddNote, CommandBase, PauseTraining, ResumeTraining, StopTraining
from agenttune.protocol.deadlines import Instant, boot_time
from agenttune.protocol.events import (
    Acked,
    ApprovalRequested,
    Judged,
    NoteAdded,
    PolicyAttached,
    Proposed,
    RunStarted,
    Settled,
    StatusChanged,
)
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, ApprovalRequest, CommandRecord, Record, State, Verdict
from agenttune.protocol.run_info import RunInfo
from agenttune.replay.demo_recording import DemoRecording, RecordedEvent, RecordedRow
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import RunLog

RUN_ID = "demo"
ANSWER_S = 900.0
"""How long the request waits for a person (guess: longer than anybody looks at a demo)."""
TICK_S = 0.05
"""How often the player writes: as a trainer, which commits about four times a second, but smoother."""
REFUSED = "this run is a recording: it can do what was recorded only, so approve or reject the request of the agent"
EDITED = "this run is a recording, which has only what was asked for, not your edit: it goes on as after a no"
Part = Sequence[RecordedEvent | RecordedRow]


class DemoPlayer:
    """Writes a recording into a new log, in time, and answers commands as the trainer would.

    Args:
        recording: What is played.
        runs_dir: An empty folder of runs.
        speed: So many times as fast as it is meant to be watched.
        sleep: Waits for so many seconds; returns whether to stop.
        clock_s: A clock that nobody sets, in seconds.
    """

    def __init__(
        self,
        recording: DemoRecording,
        runs_dir: Path,
        speed: float,
        sleep: Callable[[float], bool],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recording = recording
        self._speed = speed
        self._sleep = sleep
        self._clock_s = clock_s
        pid = os.getpid()
        own = {"pid": pid, "pid_started_s": started_s(pid)}
        info = RunInfo.model_validate(
            {**recording.info, "run_id": RUN_ID, "status": "starting", "created_at_s": time.time(), **own}
        )
        self.log = RunLog.create(runs_dir / RUN_ID, info)
        self.log.take(**own, started_at_s=time.time())
        self._own = own
        self._step, self._branch = 0, "main"
        self._is_paused = False
        self._is_stopped = False

    def play(self, on_asked: Callable[[], object] = lambda: None) -> str:
        """Play it to its end; returns the status that the run ended with.

        Args:
            on_asked: Called once the request waits for a person.
        """
        asked = self._recording.asked
        self._play(self._recording.before)
        if not self._is_stopped:
            on_asked()
        record = self._answer(asked)
        is_approved = record is not None and record.state is State.QUEUED
        if record is not None and is_approved and record.command != record.proposal.command:
            self._acknowledge(record, "failed", EDITED)
            is_approved = False
        self._play(self._recording.approved if is_approved else self._recording.rejected)
        if self.log.info().is_live:
            self._end("interrupted", "the demo was ended")
        return self.log.info().status

    def close(self) -> None:
        self.log.close()

    # -- in time ---------------------------------------------------------------------------------------------------

    def _play(self, part: Part) -> None:
        at_s, last_s, next_ = 0.0, self._clock_s(), 0
        while next_ < len(part) and not self._is_stopped:
            due = next_
            while due < len(part) and part[due].after_s <= at_s:
                due += 1
            self._write(part[next_:due])
            next_ = due
            self._obey()
            self._is_stopped = self._is_stopped or (next_ < len(part) and self._sleep(TICK_S))
            now_s = self._clock_s()
            at_s += 0.0 if self._is_paused else (now_s - last_s) * self._speed
            last_s = now_s

    def _answer(self, command_id: str) -> CommandRecord | None:
        """Wait until somebody has decided; None if the demo was ended meanwhile."""
        while not self._is_stopped:
            record = self.log.command(command_id)
            if record.state is not State.PROPOSED:
                return record
            self._obey()
            self._is_stopped = self._is_stopped or self._sleep(TICK_S)
        return None

    # -- what is written ---------------------------------------------------------------------------------------------

    def _write(self, part: Part) -> None:
        rows = list[Point]()
        for entry in part:
            self._step, self._branch = entry.step or self._step, entry.branch
            if isinstance(entry, RecordedRow):
                rows.append(Point.model_validate({**entry.model_dump(exclude={"after_s"}), "at_s": time.time()}))
                continue
            self._flush(rows)
            self._event(entry)
        self._flush(rows)

    def _flush(self, rows: list[Point]) -> None:
        if rows:
            self.log.append_points(rows)
            rows.clear()

    def _event(self, entry: RecordedEvent) -> None:
        body: Record = entry.body
        if isinstance(body, Proposed):
            self._propose(entry, body)
        elif isinstance(body, Acked) and entry.command_id is not None:
            self.log.acknowledge(entry.command_id, body.ack)
        elif isinstance(body, Settled) and entry.command_id is not None:
            self.log.settle(entry.command_id, body, entry.step or 0, entry.branch)
        elif not isinstance(body, (Judged, ApprovalRequested)):  # those were written with their proposal
            if isinstance(body, PolicyAttached):
                body = body.model_copy(update=self._own)
            elif isinstance(body, RunStarted):
                body = body.model_copy(update={"pid": self._own["pid"]})
            self.log.append(body, step=entry.step, branch=entry.branch, command_id=entry.command_id)

    def _propose(self, entry: RecordedEvent, body: Proposed) -> None:
        proposal = body.proposal.model_copy(update={"created_at_s": time.time()})
        answers = [
            other.body
            for other in self._recording.before
            if isinstance(other, RecordedEvent) and other.command_id == entry.command_id
        ]
        requests = [answer.request for answer in answers if isinstance(answer, ApprovalRequested)]
        self.log.submit(proposal, _asked_now(requests[0]) if requests else _verdict(self._parts(), entry.command_id))

    def _parts(self) -> Part:
        recording = self._recording
        return [*recording.before, *recording.approved, *recording.rejected]

    # -- what is asked of it -----------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Do what people ask of the run, as far as a recording can."""
        recorded = {e.command_id for e in self._parts() if isinstance(e, RecordedEvent) and isinstance(e.body, Acked)}
        for record in self.log.commands(State.QUEUED):
            if record.command_id not in recorded:
                self._apply(record, record.command)

    def _apply(self, record: CommandRecord, command: CommandBase) -> None:
        if isinstance(command, AddNote):
            note = NoteAdded(text=command.text, author=record.proposal.author.name)
            self._acknowledge(record, "applied", "", note)
        elif isinstance(command, PauseTraining):
            self._is_paused = True
            self._acknowledge(record, "applied", "", StatusChanged(status="paused", by=record.proposal.author))
        elif isinstance(command, ResumeTraining):
            self._is_paused = False
            self._acknowledge(record, "applied", "", StatusChanged(status="running"))
        elif isinstance(command, StopTraining):
            self._acknowledge(record, "applied", "")
            self._end("stopped", "a person stopped it")
            self._is_stopped = True
        else:
            self._acknowledge(record, "failed", REFUSED)

    def _acknowledge(self, record: CommandRecord, outcome: str, message: str, *also: Record) -> None:
        ack = Ack.model_validate({"outcome": outcome, "step": self._step, "branch": self._branch, "message": message})
        self.log.acknowledge(record.command_id, ack)
        if also:
            self.log.append(*also, step=self._step, branch=self._branch, command_id=record.command_id)

    def _end(self, status: str, reason: str) -> None:
        body = StatusChanged.model_validate({"status": status, "reason": reason})
        self.log.append(body, step=self._step, branch=self._branch)


def _asked_now(request: ApprovalRequest) -> ApprovalRequest:
    """A request as if it were made now."""
    now = Instant(time.time(), boot_time())
    return request.model_copy(
        update={
            "requested_at_s": now.unix_s,
            "expires_at_s": now.unix_s + ANSWER_S,
            "boot_id": now.boot.boot_id,
            "requested_boot_s": now.boot.at_s,
        }
    )


def _verdict(part: Part, command_id: str | None) -> Verdict:
    for entry in part:
        if isinstance(entry, RecordedEvent) and entry.command_id == command_id and isinstance(entry.body, Judged):
            return entry.body.verdict
    raise UserError(f"the recording has no verdict on {command_id}")
