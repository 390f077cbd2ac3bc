"""What an agent does, as lines on the terminal or in a file, while it does it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import typer

from agenttune.errors import AgenttuneError
from agenttune.views.repeated_lines import RepeatedLines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agenttune.control.http import HttpControl
    from agenttune.protocol.proposals import CommandRecord
    from agenttune.views.event_lines import EventLine

TOLD = (
    "policy_attached",
    "policy_detached",
    "policy_requested",
    "found",
    "decided",
    "proposed",
    "judged",
    "approval_requested",
    "acked",
    "settled",
    "status_changed",
)
WAIT_S = 1.0
"""How long one look waits for news; the end of the agent is told so late at most."""


class Teller(threading.Thread):
    """Prints what happens in a run from now on.

    Args:
        control: A connection of its own.
        run_id: The run.
        since: The last event that is not told.
    """

    def __init__(self, control: HttpControl, run_id: str, since: int) -> None:
        super().__init__(name="teller", daemon=True)
        self._control, self._run_id, self._since = control, run_id, since
        self._from_s = time.time()
        self._done = threading.Event()
        self._repeated = RepeatedLines()

    def run(self) -> None:
        try:
            while not self._done.is_set():
                self._look(WAIT_S)
            self._look(0.0)
            self._tell(self._repeated.rest())
        except AgenttuneError as error:
            # With the run its server ends; the agent itself says what that means for it.
            typer.echo(f"nothing more is told: {error}", err=True)

    def close(self) -> None:
        """Tell what is left, and end."""
        self._done.set()
        self.join(10 * WAIT_S)

    def _look(self, wait_s: float) -> None:
        from agenttune.views.event_lines import lines_of

        for event in self._control.events(self._run_id, self._since, wait_s=wait_s, kinds=TOLD):
            self._since = event.seq
            if event.at_s >= self._from_s:
                self._tell(self._repeated.told(lines_of(event, self._command)))

    def _tell(self, lines: Iterable[EventLine]) -> None:
        from agenttune.views.terminal.plain import plain_line

        for line in lines:
            typer.echo(plain_line(line))

    def _command(self, command_id: str) -> CommandRecord:
        return self._control.command(self._run_id, command_id)
