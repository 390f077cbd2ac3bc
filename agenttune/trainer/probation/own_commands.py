"""Commands that the training process itself asks for: a save before a change, its revert. They pass the gate too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from agenttune.errors import CommandError
from agenttune.gate import CommandHistory, Gate, Moment
from agenttune.protocol.commands import CommandBase, SaveCheckpoint, parse_command
from agenttune.protocol.deadlines import instant
from agenttune.protocol.proposals import Ack, ApprovalRequest, Author, CommandRecord, Proposal, Verdict
from agenttune.store.run_log import RunLog
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

AUTHOR = Author(principal="trainer", name="probation")
FOR_AGENT = "restart, of an agent's"
"""The author's name of what is applied again for an agent after a restart: probation watches it anew."""
FOR_OTHERS = "restart"
OWN_COMMAND_S = 10.0
"""How long training waits for a command of its own to be in the log: milliseconds but on a busy machine (guess)."""
LOOK_EVERY_S = 0.1
"""How often it looks meanwhile whether the log can be written at all: a full disk is not waited for (guess)."""


class OwnCommands:
    """Submits commands of the training process itself.

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
        verdict = Gate.of(info).judge(proposal, Moment(info, instant()), CommandHistory())
        written = threading.Event()

        def write(log: RunLog) -> None:
            log.submit(proposal, verdict)
            written.set()

        self._recorder.submit(write)
        # Otherwise training would be some steps further, more on a busy machine, before it sees its own command.
        until_s = time.monotonic() + OWN_COMMAND_S
        while not written.wait(LOOK_EVERY_S) and not self._recorder.is_held_up and time.monotonic() < until_s:
            pass
        return "" if isinstance(verdict, Verdict) and verdict.decision == "approved" else _reason(verdict)


def _reason(ruling: Verdict | ApprovalRequest) -> str:
    return ruling.reason if isinstance(ruling, Verdict) else f"it would wait for {', '.join(ruling.approvers)}"


class CheckpointsBefore:
    """The checkpoint that is saved before each change of an agent, so that it can be restored.

    Args:
        keep_in: Where; what does not fit into memory goes to disk.
        submit: Asks for a command; returns why the gate refuses it, empty if it does not.
    """

    def __init__(self, keep_in: Literal["memory", "disk"], submit: Callable[[Proposal], str]) -> None:
        self._keep_in, self._submit = keep_in, submit
        self._ids: dict[str, str] = {}
        self._wanted: dict[str, tuple[str, Literal["memory", "disk"]]] = {}

    def has(self, command_id: str) -> bool:
        """Whether the checkpoint before a command was saved, or cannot be; asks for it the first time."""
        if command_id not in self._ids and all(command_id != wanted for wanted, _ in self._wanted.values()):
            self._want(command_id, self._keep_in)
        return command_id in self._ids

    def drop(self) -> list[str]:
        """The run was restored, so what was saved before changes that are still to come is out of date.

        Returns:
            Those checkpoints, for the caller to release.
        """
        dropped = [checkpoint for checkpoint in self._ids.values() if checkpoint]
        self._ids.clear()
        return dropped

    def take(self, command_id: str) -> str:
        """The checkpoint before a command, empty if there is none; the caller releases it."""
        return self._ids.pop(command_id, "")

    def asked_for(self, command_id: str) -> bool:
        """Whether a command is a save that was asked for here."""
        return command_id in self._wanted

    def saved(self, record: CommandRecord, ack: Ack) -> None:
        """A save was answered; if it failed, the next try is on disk, and after that the change goes without."""
        wanted_for, keep_in = self._wanted.pop(record.command_id)
        if ack.outcome == "applied":
            self._ids[wanted_for] = str(ack.result["checkpoint_id"])
        elif keep_in == "memory":
            self._want(wanted_for, "disk")
        else:
            self._ids[wanted_for] = ""

    def _want(self, command_id: str, keep_in: Literal["memory", "disk"]) -> None:
        rationale = f"the state before {command_id}, in case it has to be reverted"
        command = SaveCheckpoint(keep_in=keep_in, tag=f"before-{command_id}"[:64])
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale)
        self._wanted[proposal.command_id] = command_id, keep_in
        if self._submit(proposal):
            del self._wanted[proposal.command_id]
            self._ids[command_id] = ""


def inverse_of(record: CommandRecord) -> CommandBase | None:
    """The command that reverts an applied one, built from its ack's previous values; None where no single one can."""
    ack = record.ack
    command = None if ack is None or not ack.changes else record.command.in_force(ack)
    if ack is None or command is None:
        return None
    raw = command.inverse(ack.changes)
    try:
        return None if raw is None else parse_command(raw)
    except CommandError:  # a previous value that no command may set, such as an infinite one
        return None
