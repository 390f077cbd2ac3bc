"""Commands as they come in: read from the log only if somebody wrote to it, and judged by the guardrails once more.

That second judgement, just before a command is applied, is the one that counts: it goes by the values of this moment,
after whatever was applied before it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Set
from dataclasses import replace

from agenttune.errors import StoreFault
from agenttune.gate import GUARDRAILS, CommandHistory, Gate
from agenttune.gate.change_limits import change_factor, window_factor
from agenttune.gate.context import Guardrail
from agenttune.gate.feasibility import feasible
from agenttune.gate.value_bounds import bounds
from agenttune.protocol.commands import LoadCheckpoint
from agenttune.protocol.deadlines import Instant, instant, is_over
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.proposals import TAKEN, Ack, ApprovalRequest, Change, CommandRecord, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.store.wal_monitor import OwnCommits, WalMonitor
from agenttune.trainer.execution.acks import AckWriter
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

logger = logging.getLogger("agenttune")


AT_TRAINER = tuple(guardrail for guardrail in GUARDRAILS if guardrail is not feasible)
"""Left out: what the run cannot do, the trainer finds itself, with a better message."""


FACTORS: tuple[Guardrail, ...] = (change_factor, window_factor)


class Admission:
    """Judges each queued command just before it is applied; knows the requests that training waits for.

    Args:
        log: The run's log, for reading.
        now: By both clocks.
    """

    def __init__(self, log: RunLog, now: Callable[[], Instant] = instant) -> None:
        self._log, self._now = log, now
        self._holding: list[ApprovalRequest] = []
        self._unwritten: dict[str, Ack] = {}

    def refusal(self, record: CommandRecord, as_of_now: Callable[[RunInfo], RunInfo]) -> str:
        """Why a guardrail refuses a command now; empty if none does.

        Args:
            record: The command; what the training process itself asks for was judged by values of the same moment.
            as_of_now: Brings the run's card up to this moment.
        """
        principal = record.proposal.author.principal
        if principal == "trainer" or (not record.command.touched() and principal != "agent"):
            return ""
        info = as_of_now(self._log.info())
        if info.capabilities and record.command.kind not in info.capabilities:
            return ""  # the loop says better why it cannot
        history = self._history(record) if principal == "agent" else CommandHistory()
        proposal = record.proposal.model_copy(update={"command": record.command})
        gate = replace(Gate.of(info), guardrails=AT_TRAINER)
        refusal = gate.refusal(proposal, info, history)
        return f"refused before it was applied: {refusal.reason}" if refusal is not None else ""

    def refusal_there(self, record: CommandRecord, command: LoadCheckpoint, now: RunInfo, there: RunInfo) -> str:
        """Why a guardrail refuses what a return changes; empty if none does.

        Args:
            record: What was asked for.
            command: The return: that itself, or what is tried of it.
            now: The run's card of this moment.
            there: As the run will stand once it has gone back.
        """
        principal, change = record.proposal.author.principal, command.change_there()
        if principal == "trainer" or change is None:
            return ""
        proposal = record.proposal.model_copy(update={"command": change})
        info, history = self._log.info(), self._history(record) if principal == "agent" else CommandHistory()

        def refusal(card: RunInfo, *guardrails: Guardrail) -> str:
            stands = {"step": card.step, "knobs": card.knobs, "schedule": card.schedule, "max_steps": card.max_steps}
            known = info.model_copy(update=stands)
            found = replace(Gate.of(info), guardrails=guardrails).refusal(proposal, known, history)
            return "" if found is None else found.reason

        return refusal(there, bounds) or (refusal(now, *FACTORS) and refusal(there, *FACTORS))

    def _history(self, record: CommandRecord) -> CommandHistory:
        branch = self._log.info().branch
        taken = self._log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True)
        others = [self._with_ack(other, branch) for other in taken if other.command_id != record.command_id]
        return CommandHistory(
            others,
            self._count_others,
            lambda: self._count_returns(record),
            extra_steps=self._log.extra_steps(),
            lineage=self._log.lineage(branch),
            approved_by=record.verdict.decided_by if record.verdict is not None else "auto",
        )

    def note(self, record: CommandRecord, step: int, changes: list[Change]) -> None:
        """What a command has changed; its own ack is in the log only when that is confirmed, a step later."""
        self._unwritten[record.command_id] = Ack(outcome="applied", step=step, changes=changes)
        while len(self._unwritten) > HISTORY:
            del self._unwritten[next(iter(self._unwritten))]

    def _with_ack(self, record: CommandRecord, branch: str) -> CommandRecord:
        """A command as it will be in the log, on whose branch it counts until then."""
        if record.ack is not None or record.command_id not in self._unwritten:
            return record
        ack = self._unwritten[record.command_id].model_copy(update={"branch": branch})
        return record.model_copy(update={"ack": ack})

    def _count_others(self) -> int:
        """Number of an agent's commands that were let through, without the one at hand."""
        return self._log.count_commands(*TAKEN, principal="agent") - 1

    def _count_returns(self, record: CommandRecord) -> int:
        return self._log.count_returns() - record.goes_back()

    def look_for_requests(self) -> None:
        """Note the requests that want training to wait."""
        requests = [record.request for record in self._log.commands(State.PROPOSED)]
        self._holding = [request for request in requests if request is not None and request.training == "pause"]

    @property
    def is_held(self) -> bool:
        """Whether training is to wait for a decision; never longer than the request's own time."""
        return bool(self._holding) and any(not is_over(request, self._now()) for request in self._holding)


class CommandQueue:
    """The queue of one run; empty on ranks that only follow.

    Args:
        log: The run's log, for reading.
        run_state: The run.
        acks: Answers what is refused.
        recorder: Reads the knobs.
    """

    def __init__(self, log: RunLog | None, run_state: RunState, acks: AckWriter, recorder: Recorder) -> None:
        self._log = log
        self._run_state = run_state
        self._acks = acks
        self._recorder = recorder
        self.own = OwnCommits(log.folder / LOG_NAME) if log is not None else None
        """Own commits of rows, as the writer reports them: they bring no commands, so the queue ignores them."""
        self.monitor = WalMonitor(log.folder / LOG_NAME if log is not None else None, self.own)
        """Tells in microseconds that nobody else has written to the log."""
        self._admission = Admission(log) if log is not None else None
        if self._admission is not None:
            run_state.refusal_there = self._admission.refusal_there
            run_state.is_held = lambda: self.is_held
        self._has_fault = False
        self.queue: list[CommandRecord] = []

    @property
    def is_held(self) -> bool:
        """Whether a request for approval wants training to wait; ranks that only follow know nothing of it."""
        return self._admission is not None and self._admission.is_held

    def fetch(self) -> list[CommandRecord]:
        """Queued commands in order of acceptance; reads the log only if it has changed."""
        if self._log is None:
            return []
        if not self._has_fault and not self.monitor.may_have_changed():
            return self.queue
        try:
            self.queue = self._log.commands(State.QUEUED)
            if self._admission is not None:
                self._admission.look_for_requests()
        except (StoreFault, sqlite3.Error) as fault:
            if not self._has_fault:
                logger.warning("commands cannot be read (%s); training goes on", fault)
            self._has_fault = True
            return []
        self._has_fault = False
        self.queue = [record for record in self.queue if record.command_id not in self._acks.taken]
        # What the trainer itself asks for, the state of before a change or the way back, comes before the next change.
        self.queue.sort(key=lambda record: record.proposal.author.principal != "trainer")
        return self.queue

    def interruption(self) -> CommandRecord | None:
        """A person's wish to pause or stop, while everything else has to wait; takes nothing off the queue."""
        if self._log is None or self.monitor.is_unchanged():
            return None
        try:
            queued = self._log.commands(State.QUEUED)
        except (StoreFault, sqlite3.Error):  # `fetch` tells of it
            return None
        new = [record for record in queued if record.command_id not in self._acks.taken]
        return next((r for r in new if r.proposal.author.principal != "agent" and r.command.interrupts), None)

    def next(self, tried: Set[str]) -> list[CommandRecord]:
        """The next command, if there is one, past the guardrails as of this moment; what they refuse is answered.

        Args:
            tried: Ids of those that have had their turn at this boundary.
        """
        for record in self.fetch():
            if record.command_id in self._acks.taken or record.command_id in tried:
                continue
            refusal = "" if self._admission is None else self._admission.refusal(record, self._run_state.as_info)
            if not refusal:
                return [record]
            self._acks.refuse(record, refusal)
        return []

    def note(self, record: CommandRecord, changes: list[Change]) -> None:
        """A command has changed something; its ack comes later, when that is confirmed and written."""
        if self._admission is not None and changes:
            self._admission.note(record, self._run_state.step, changes)
