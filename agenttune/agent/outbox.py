"""An agent's entries on their way into a run's log."""

from __future__ import annotations

from agenttune.control import Control
from agenttune.errors import UserError
from agenttune.protocol.events import Decided, Found, PolicyAttached, PolicyDetached
from agenttune.protocol.model_calls import ModelCalled

AgentEntry = Found | Decided | PolicyAttached | PolicyDetached | ModelCalled
"""What the loop writes into a log beside its proposals."""


class Outbox:
    """Entries in the order of writing; what the server did not take stays for the next try."""

    def __init__(self, control: Control, run_id: str) -> None:
        self._control, self._run_id = control, run_id
        self._entries: list[tuple[AgentEntry, int | None]] = []

    def put(self, body: AgentEntry, step: int | None) -> None:
        self._entries.append((body, step))

    def send(self, body: AgentEntry, step: int | None) -> None:
        self.put(body, step)
        self.flush()

    def flush(self) -> None:
        """Write what is not yet written.

        Raises:
            ServerUnreachable: Some of it is not; call again.
        """
        while self._entries:
            self._write(*self._entries[0])
            self._entries.pop(0)

    def _write(self, body: AgentEntry, step: int | None) -> None:
        try:
            self._control.record(self._run_id, body, step)
        except UserError as error:
            if not isinstance(body, ModelCalled):
                raise
            # A transcript may be larger than the server takes; the call's cost must be in the log all the same.
            self._control.record(self._run_id, _without_texts(body, error.message), step)


def _without_texts(call: ModelCalled, reason: str) -> ModelCalled:
    details = {"texts_not_recorded": reason[:500]}
    return call.model_copy(update={"messages": [], "answer": None, "details": details})
