"""Approvers that decide by themselves, when it is their turn: a second language model, and those of the user's own.

All of them fail closed. They run beside the run, with an operator's rights, in a process that no agent can reach.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agenttune.config import Settings
from agenttune.config.plugins import PluginUse, find_class
from agenttune.control import ApprovalDecision, Control
from agenttune.errors import AlreadyDecided, UserError
from agenttune.gate import ApprovalCase, Approver, Opinion, with_arguments
from agenttune.llm.prompts import fenced
from agenttune.policy.base import Draft
from agenttune.policy.llm.reviewer import WHY_LETTERS, Reviewer
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.invalid_values import failure_words
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord
from agenttune.protocol.text import clean

logger = logging.getLogger(__name__)
VERDICTS = ("approve", "edit", "reject", "escalate")
POLL_S = 0.5
"""Time between two polls for requests (guess: short beside the seconds that a model takes)."""


class Ruling(Settings):
    """A model's answer. The reason comes first, so that the verdict follows from it."""

    why: str
    """One or two sentences, with figures."""
    verdict: Literal["approve", "edit", "reject", "escalate"]
    """What becomes of the command."""
    arguments: dict[str, Any] | None = Field(None)
    """edit: the arguments to replace."""


class ModelApprover(Approver):
    """The approver `model`: a second language model. One that gives no usable answer has not decided.

    Args:
        reviewer: The model.
    """

    def __init__(self, reviewer: Reviewer) -> None:
        self._reviewer = reviewer

    @property
    def model(self) -> str:
        return self._reviewer.model or "no model"

    def decide(self, case: ApprovalCase) -> Opinion:
        proposal, request = case.proposal, case.request
        draft = Draft(proposal.command, proposal.rationale)
        ruling, calls = self._reviewer.ask(draft, case.observation, Ruling, _no_answer, request_lines(request))
        # A model gives null for what it does not want to change.
        given = {name: value for name, value in (ruling.arguments or {}).items() if value is not None}
        return Opinion(ruling.verdict, ruling.why, given, calls)


def _no_answer(why: str) -> Ruling:
    return Ruling(verdict="escalate", why=f"no answer of the model: {why}")


class ReviewLoop:
    """Has one approver decide on the requests of one run that wait for it.

    One that has no opinion has not decided: the next approver is asked, and if there is none the command is rejected.
    Two of these beside one run do no harm, for the first decision is final.

    Args:
        control: The door to the run, with an operator's rights.
        run_id: The run.
        approver: Decides.
        name: Under which rules ask it.
    """

    def __init__(self, control: Control, run_id: str, approver: Approver, name: str = "model") -> None:
        self._control, self._run_id, self._approver, self._name = control, run_id, approver, name

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Decide until the run has ended or `stop` is set."""
        while not stop.is_set() and self._control.info(self._run_id).is_live:
            self.tick()
            stop.wait(poll_s)

    def tick(self) -> None:
        """Decide on everything that waits for it now."""
        for record in self._control.pending(self._run_id):
            if record.request is not None and record.request.asked == self._name:
                self._rule(record, record.request)

    def _rule(self, record: CommandRecord, request: ApprovalRequest) -> None:
        observation = self._control.observe(self._run_id)
        opinion = _opinion(self._approver, ApprovalCase(record.proposal, request, observation))
        for call in opinion.calls:
            self._control.record(self._run_id, call, observation.step)
        try:
            self._send(record, request, opinion)
        except AlreadyDecided as error:
            logger.info("%s: %s", record.command_id, error)

    def _send(self, record: CommandRecord, request: ApprovalRequest, opinion: Opinion) -> None:
        try:
            edited = _edited(record.proposal.command, opinion)
            self._decide(record, request, opinion.verdict, opinion.why, edited)
        except AlreadyDecided:
            raise
        except UserError as error:  # an edit that is no valid command, or that the guardrails refuse
            self._decide(record, request, "escalate", f"its edit cannot be used: {error}", None)

    def _decide(
        self, record: CommandRecord, request: ApprovalRequest, verdict: str, why: str, edited: CommandBase | None
    ) -> None:
        name = self._approver.model if isinstance(self._approver, ModelApprover) else self._name
        decision = ApprovalDecision.model_validate(
            {
                "verdict": verdict,
                "digest": request.digest,
                "author": Author(principal="operator", name=name),
                "reason": clean(why, WHY_LETTERS),
                "command": edited,
                "approver": self._name,
            }
        )
        self._control.decide(self._run_id, record.command_id, decision)


def _opinion(approver: Approver, case: ApprovalCase) -> Opinion:
    """What an approver says; an error, or what is no opinion, leaves the decision to the next."""
    try:
        opinion: object = approver.decide(case)
    except (Exception, SystemExit) as error:
        logger.exception("an approver failed")
        return Opinion("escalate", f"the approver failed: {failure_words(error)}")
    if not isinstance(opinion, Opinion) or opinion.verdict not in VERDICTS or not isinstance(opinion.why, str):
        return Opinion("escalate", f"the approver gave {opinion!r:.80}, not an Opinion of agenttune.gate")
    return opinion


def _edited(command: CommandBase, opinion: Opinion) -> CommandBase | None:
    if opinion.verdict != "edit":
        return None
    if not opinion.arguments:
        raise UserError("an edit needs arguments", field="arguments")
    return with_arguments(command, opinion.arguments)


class AbsentApprover(Approver):
    """Stands for one of the user's own that cannot be used."""

    def __init__(self, why: str) -> None:
        self._why = why

    def decide(self, case: ApprovalCase) -> Opinion:
        return self.escalate(self._why)


def open_approvers(entries: Mapping[str, object], config: Path) -> dict[str, Approver]:
    """The user's own approvers, by name; one that cannot be used leaves every decision to the next."""
    opened: dict[str, Approver] = {}
    for name, entry in entries.items():
        try:
            use = PluginUse.of_entry("approver", entry, config, ("gate", "approvers", name))
            opened[name] = find_class(use, Approver).make()
        except UserError as error:
            logger.warning("%s", error)
            opened[name] = AbsentApprover(error.message)
    return opened


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
