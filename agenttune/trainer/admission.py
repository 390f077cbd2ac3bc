"""The gate once more, just before a command is applied: the world may have changed since it was let through."""

from __future__ import annotations

from collections.abc import Callable

from agenttune.commands import Probe
from agenttune.events import KnobState
from agenttune.gate import Gate, History
from agenttune.instants import Instant, instant, is_over
from agenttune.observation import HISTORY
from agenttune.proposals import TAKEN, ApprovalRequest, CommandRecord, State
from agenttune.store import RunLog


class Admission:
    """Looks at queued commands of agents once each, and at requests that want training to wait for them.

    Args:
        log: The run's log, for reading.
        now: By both clocks.
    """

    def __init__(self, log: RunLog, now: Callable[[], Instant] = instant) -> None:
        self._log, self._now = log, now
        self._passed: set[str] = set()
        self._holding: list[ApprovalRequest] = []

    def refusal(self, record: CommandRecord, read_knobs: Callable[[], list[KnobState]], step: int) -> str:
        """Why a guardrail refuses a command now; empty if none does, or if it was looked at before."""
        if record.proposal.author.principal != "agent" or record.command_id in self._passed:
            return ""
        info = self._log.info().model_copy(update={"knobs": read_knobs(), "step": step})
        taken = self._log.commands(*TAKEN, principal="agent", limit=HISTORY, newest=True)
        others = [other for other in taken if other.command_id != record.command_id]
        proposal = record.proposal.model_copy(update={"command": record.command})
        history = History(others, self._count_others, extra_steps=self._log.extra_steps())
        refusal = Gate.of(info).refusal(proposal, info, history)
        if refusal is None:
            if not isinstance(record.command, Probe):  # another probe may use up the steps while it waits
                self._passed.add(record.command_id)
            return ""
        return f"refused before it was applied: {refusal.reason}"

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
        return any(not is_over(request, self._now()) for request in self._holding)
