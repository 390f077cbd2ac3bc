"""The approval prompt of the live view: shows what waits for a person, and takes their keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from agenttune.control import ApprovalDecision, Control
from agenttune.errors import AgenttuneError, UserError
from agenttune.gate import with_arguments
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord
from agenttune.protocol.text import clean
from agenttune.views.terminal.edit_arguments import Editable
from agenttune.views.terminal.keys import EMPTY, ENTER, ESCAPE, TextField

POLL_S = 0.5
"""Seconds between two looks for new requests (guess: no slower than a person)."""
ARM_S = 1.0
"""Keys pressed within this time after a request appears are ignored: they were meant for the one before (guess)."""
SHOWN_S = 8.0
"""How long the answer to a key stays on the screen (guess: long enough to read)."""

Mode = Literal["choose", "reason", "edit"]


@dataclass(frozen=True)
class Asked:
    """The request on the screen.

    Attributes:
        record: The command.
        request: As it was shown: a decision is bound to its digest.
        others: How many more wait.
        mode: Whether a key chooses, or a line is typed.
        field: That line so far.
    """

    record: CommandRecord
    request: ApprovalRequest
    others: int = 0
    mode: Mode = "choose"
    field: TextField = EMPTY

    @property
    def typed(self) -> str:
        """What stands in the line."""
        return self.field.text

    @property
    def editable(self) -> Editable:
        """The command's arguments, for an edit."""
        return Editable(self.record.proposal.command)


class ApprovalPrompt:
    """Shows the oldest request and takes keys: y yes, n no with a reason, e edit, a always.

    Args:
        control: The door to the run, with an operator's rights.
        run_id: The run.
        who: The person, for the log.
        clock: Monotonic time in seconds.
    """

    def __init__(self, control: Control, run_id: str, who: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._control, self._run_id, self._clock = control, run_id, clock
        self._author = Author(principal="operator", name=who)
        self._polled_s = self._armed_s = self._said_s = -POLL_S
        self._said = ""
        self.asked: Asked | None = None

    @property
    def said(self) -> str:
        """What came of the last keys; empty after a while."""
        return self._said if self._clock() - self._said_s < SHOWN_S else ""

    @property
    def is_typing(self) -> bool:
        """Whether a line is being typed."""
        return self.asked is not None and self.asked.mode != "choose"

    def refresh(self, keys: Iterable[str]) -> None:
        """Look for new requests, and carry out the keys that were pressed."""
        if self._clock() - self._polled_s >= POLL_S:
            self._poll()
        for key in keys:
            self._press(key)

    def _poll(self) -> None:
        self._polled_s = self._clock()
        waiting = [r for r in self._control.pending(self._run_id) if r.request is not None]
        ours = [r for r in waiting if r.request is not None and "human" in r.request.approvers]
        same = [r for r in ours if self.asked is not None and r.command_id == self.asked.record.command_id]
        if same and self.asked is not None and same[0].request == self.asked.request:
            self.asked = replace(self.asked, others=len(ours) - 1)
            return
        if self.is_typing:
            self._say("what you typed was for a request that is gone")
        # Whose turn it is first: those that a model still looks at can wait.
        ours.sort(key=lambda r: (r.request is None or r.request.asked != "human", r.submitted_seq))
        first = next(iter(ours), None)
        if first is None or first.request is None:
            self.asked = None
            return
        self.asked, self._armed_s = Asked(first, first.request, len(ours) - 1), self._clock() + ARM_S

    def _show(self, asked: Asked, mode: Mode, field: TextField | None = None) -> None:
        self.asked = replace(asked, mode=mode, field=field or EMPTY)

    def _say(self, words: str) -> None:
        self._said, self._said_s = clean(words, 300), self._clock()

    def _press(self, key: str) -> None:
        asked = self.asked
        if asked is None or self._clock() < self._armed_s:
            return
        if asked.mode != "choose":
            self._type(asked, key)
        elif key in ("y", "Y"):
            self._decide(asked, verdict="approve")
        elif key in ("a", "A"):
            self._decide(asked, verdict="approve", always=True)
        elif key in ("n", "N"):
            self._show(asked, "reason")
        elif key in ("e", "E"):
            self._show(asked, "edit", TextField(asked.editable.offered, is_offered=True))

    def _type(self, asked: Asked, key: str) -> None:
        if key == ESCAPE:
            self._show(asked, "choose")
        elif key == ENTER:
            self._enter(asked)
        else:
            self.asked = replace(asked, field=asked.field.press(key))

    def _enter(self, asked: Asked) -> None:
        if asked.mode == "reason":
            self._decide(asked, verdict="reject", reason=asked.typed)
            return
        try:
            command = with_arguments(asked.record.proposal.command, asked.editable.read(asked.typed))
        except UserError as error:
            self._say(str(error))
            return
        if command == asked.record.proposal.command:
            self._decide(asked, verdict="approve")
        else:
            self._decide(asked, verdict="edit", command=command)

    def _decide(self, asked: Asked, **fields: object) -> None:
        body = {"digest": asked.request.digest, "author": self._author, **fields}
        try:
            record = self._control.decide(self._run_id, asked.record.command_id, ApprovalDecision.model_validate(body))
        except AgenttuneError as error:  # what was typed stays, to be mended
            self._say(str(error))
            return
        why = record.verdict.reason if record.verdict is not None else ""
        self._say(f"{record.proposal.command.kind}: {record.state.value}" + (f", {why}" if why else ""))
        self.asked, self._polled_s = None, -POLL_S
