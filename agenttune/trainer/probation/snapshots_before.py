"""The states of before changes: asked for as checkpoints before a change is let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agenttune.protocol.commands import SaveCheckpoint
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal

AUTHOR = Author(principal="trainer", name="probation")


class StatesBefore:
    """Keeps the state of before each change, in memory or on disk.

    Args:
        keep_in: Where; what memory does not take goes to disk.
        submit: Asks for a command; returns why the gate refuses it, empty if it does not.
    """

    def __init__(self, keep_in: Literal["memory", "disk"], submit: Callable[[Proposal], str]) -> None:
        self._keep_in, self._submit = keep_in, submit
        self._ids: dict[str, str] = {}
        self._wanted: dict[str, tuple[str, Literal["memory", "disk"]]] = {}

    def has(self, command_id: str) -> bool:
        """Whether the state of before a command is kept, or cannot be; asks for it the first time."""
        if command_id not in self._ids and all(command_id != wanted for wanted, _ in self._wanted.values()):
            self._want(command_id, self._keep_in)
        return command_id in self._ids

    def drop(self) -> list[str]:
        """The run went back: states of before changes that were not made yet are not of before them any more.

        Returns:
            Their checkpoints, which are the caller's from now on.
        """
        dropped = [checkpoint for checkpoint in self._ids.values() if checkpoint]
        self._ids.clear()
        return dropped

    def take(self, command_id: str) -> str:
        """The checkpoint of before a command, empty if there is none; it is the caller's from now on."""
        return self._ids.pop(command_id, "")

    def answers(self, command_id: str) -> bool:
        """Whether a command is one of those asked for here."""
        return command_id in self._wanted

    def kept(self, record: CommandRecord, ack: Ack) -> None:
        """A state was kept, or was not: then on disk, and if that fails too the change goes without."""
        wanted_for, keep_in = self._wanted.pop(record.command_id)
        if ack.outcome == "applied":
            self._ids[wanted_for] = str(ack.result["checkpoint_id"])
        elif keep_in == "memory":
            self._want(wanted_for, "disk")
        else:
            self._ids[wanted_for] = ""

    def _want(self, command_id: str, keep_in: Literal["memory", "disk"]) -> None:
        rationale = f"the state of before {command_id}, should it have to be taken back"
        command = SaveCheckpoint(keep_in=keep_in, tag=f"before-{command_id}"[:64])
        proposal = Proposal(command=command, author=AUTHOR, rationale=rationale)
        self._wanted[proposal.command_id] = command_id, keep_in
        if self._submit(proposal):
            del self._wanted[proposal.command_id]
            self._ids[command_id] = ""
