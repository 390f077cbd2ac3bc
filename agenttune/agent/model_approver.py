"""The approver `model`: a second language model decides on requests when it is its turn, and fails closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from agenttune.config import Settings
from agenttune.control import Control, Decision
from agenttune.errors import AlreadyDecided, UserError
from agenttune.gate import with_arguments
from agenttune.llm.prompts import fenced
from agenttune.policy.base import Draft
from agenttune.policy.llm.reviewer import WHY_LETTERS, Reviewer
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord
from agenttune.protocol.text import clean

logger = logging.getLogger(__name__)
POLL_S = 0.5
"""How often it looks for requests (guess: short beside the seconds that a model takes)."""


class Ruling(Settings):
    """A model's answer. The reason comes first, so that the verdict follows from it."""

    why: str
    """One or two sentences, with figures."""
    verdict: Literal["approve", "edit", "reject", "escalate"]
    """What becomes of the command."""
    arguments: dict[str, Any] | None = Field(None)
    """edit: the arguments to replace."""


class ReviewLoop:
    """Decides on the requests of one run that wait for a model.

    A model that gives no usable answer has not decided: the next approver is asked, and if there is none the command is
    rejected. Two of these beside one run do no harm, for the first decision is final.

    Args:
        control: The door to the run, with an operator's rights.
        run_id: The run.
        reviewer: The model.
    """

    def __init__(self, control: Control, run_id: str, reviewer: Reviewer) -> None:
        self._control, self._run_id, self._reviewer = control, run_id, reviewer

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Decide until the run has ended or `stop` is set."""
        while not stop.is_set() and self._control.info(self._run_id).is_live:
            self.tick()
            stop.wait(poll_s)

    def tick(self) -> None:
        """Decide on everything that waits for a model now."""
        for record in self._control.pending(self._run_id):
            if record.request is not None and record.request.asked == "model":
                self._rule(record, record.request)

    def _rule(self, record: CommandRecord, request: ApprovalRequest) -> None:
        proposal, observation = record.proposal, self._control.observe(self._run_id)
        draft = Draft(proposal.command, proposal.rationale)
        ruling, calls = self._reviewer.ask(draft, observation, Ruling, _no_answer, request_lines(request))
        for call in calls:
            self._control.record(self._run_id, call, observation.step)
        try:
            self._send(record, request, ruling)
        except AlreadyDecided as error:
            logger.info("%s: %s", record.command_id, error)

    def _send(self, record: CommandRecord, request: ApprovalRequest, ruling: Ruling) -> None:
        try:
            edited = _edited(record.proposal.command, ruling)
            self._decide(record, request, ruling.verdict, ruling.why, edited)
        except AlreadyDecided:
            raise
        except UserError as error:  # an edit that is no valid command, or that the guardrails refuse
            self._decide(record, request, "escalate", f"its edit cannot be used: {error}", None)

    def _decide(
        self, record: CommandRecord, request: ApprovalRequest, verdict: str, why: str, edited: CommandBase | None
    ) -> None:
        decision = Decision.model_validate(
            {
                "verdict": verdict,
                "digest": request.digest,
                "author": Author(principal="operator", name=self._reviewer.model or "no model"),
                "reason": clean(why, WHY_LETTERS),
                "command": edited,
                "approver": "model",
            }
        )
        self._control.decide(self._run_id, record.command_id, decision)


def _no_answer(why: str) -> Ruling:
    return Ruling(verdict="escalate", why=f"no answer of the model: {why}")


def _edited(command: CommandBase, ruling: Ruling) -> CommandBase | None:
    if ruling.verdict != "edit":
        return None
    # A model fills what it does not want to change with null: that stays.
    given = {name: value for name, value in (ruling.arguments or {}).items() if value is not None}
    if not given:
        raise UserError("an edit needs arguments", field="arguments")
    return with_arguments(command, given)


def request_lines(request: ApprovalRequest) -> Sequence[str]:
    """What waits, for a prompt; names and values are fenced."""
    left = request.approvers[len(request.passed) + 1 :]
    changes = [fenced(f"{d.name}: {d.before} -> {d.after}") for d in request.differences]
    return [
        *changes,
        f"asked at step {request.step}, {fenced(request.metric)} {request.metric_value}",
        f"asked after you, if you escalate: {', then '.join(left) if left else 'nobody, it is rejected then'}",
        f"training {'waits for the decision' if request.training == 'pause' else 'goes on meanwhile'}",
    ]
