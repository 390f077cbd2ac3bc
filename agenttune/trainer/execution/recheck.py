"""The gate once more, just before a command is applied: the world may have changed since it was let through.

This is the look that counts: at the values of this very moment, after whatever was applied before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agenttune.gate import GUARDRAILS, Gate, History
from agenttune.gate.feasibility import feasible
from agenttune.protocol.deadlines import Instant, instant, is_over
from agenttune.protocol.events import RunInfo
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.proposals import TAKEN, Ack, ApprovalRequest, Change, CommandRecord, State
from agenttune.store.run_log import RunLog

AT_TRAINER = tuple(guardrail for guardrail in GUARDRAILS if guardrail is not feasible)
"""What does not fit the run, the trainer finds itself, and says it best."""


class Admission:
    """Looks at each queued command before its turn, and at requests that want training to wait for them.

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
        history = self._history(record) if principal == "agent" else History()
        proposal = record.proposal.model_copy(update={"command": record.command})
        gate = replace(Gate.of(info), guardrails=AT_TRAINER)
        refusal = gate.refusal(proposal, info, history)
        return f"refused before it was applied: {refusal.reason}" if refusal is not None else ""

    def _history(self, record: CommandRecord) -> History:
        taken = self._log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True)
        others = [self._with_ack(other) for other in taken if other.command_id != record.command_id]
        return History(others, self._count_others, extra_steps=self._log.extra_steps())

    def note(self, record: CommandRecord, step: int, changes: list[Change]) -> None:
        """What a command has changed; its own ack is in the log only when that is confirmed, a step later."""
        self._unwritten[record.command_id] = Ack(outcome="applied", step=step, changes=changes)
        while len(self._unwritten) > HISTORY:
            del self._unwritten[next(iter(self._unwritten))]

    def _with_ack(self, record: CommandRecord) -> CommandRecord:
        if record.ack is not None or record.command_id not in self._unwritten:
            return record
        return record.model_copy(update={"ack": self._unwritten[record.command_id]})

    def _count_others(self) -> int:
        """How many commands of agents were let through beside the one that is looked at."""
        return self._log.count_commands(*TAKEN, principal="agent") - 1

    def look_for_requests(self) -> None:
        """Note the requests that want training to wait."""
        requests = [record.request for record in self._log.commands(State.PROPOSED)]
        self._holding = [request for request in requests if request is not None and request.training == "pause"]

    @property
    def is_held(self) -> bool:
        """Whether training is to wait for a decision; never longer than the request's own time."""
        return bool(self._holding) and any(not is_over(request, self._now()) for request in self._holding)
