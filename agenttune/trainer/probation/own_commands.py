"""Commands that the training process asks for itself, such as taking a change back: they pass the gate too."""

from __future__ import annotations

import threading

from agenttune.gate import Gate, History, Moment
from agenttune.protocol.deadlines import instant
from agenttune.protocol.proposals import ApprovalRequest, Proposal, Verdict
from agenttune.store.run_log import RunLog
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

OWN_COMMAND_S = 1.0
"""How long training waits for a command of its own to be in the log; milliseconds unless the disk is full."""


class OwnCommands:
    """Asks for commands from inside.

    Args:
        log: The run's log, for reading.
        run_state: The run.
        recorder: Writes the log.
    """

    def __init__(self, log: RunLog, run_state: RunState, recorder: Recorder) -> None:
        self._log = log
        self._run_state = run_state
        self._recorder = recorder

    def ask(self, proposal: Proposal) -> str:
        """Ask for a command; returns why the gate refuses it, empty if it does not."""
        info = self._run_state.as_info(self._log.info())
        verdict = Gate.of(info).judge(proposal, Moment(info, instant()), History())
        written = threading.Event()

        def write(log: RunLog) -> None:
            log.submit(proposal, verdict)
            written.set()

        self._recorder.submit(write)
        # Otherwise training would be some steps further, more on a busy machine, before it sees its own command.
        written.wait(OWN_COMMAND_S)
        return "" if isinstance(verdict, Verdict) and verdict.decision == "approved" else _reason(verdict)


def _reason(ruling: Verdict | ApprovalRequest) -> str:
    return ruling.reason if isinstance(ruling, Verdict) else f"it would wait for {', '.join(ruling.approvers)}"
