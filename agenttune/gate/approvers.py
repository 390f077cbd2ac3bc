"""Asks the approvers of a rule in turn: each decides or leaves it to the next; for a model or a person, one waits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agenttune.config import ApprovalRule
from agenttune.config.expressions import evaluate, is_true
from agenttune.errors import UserError
from agenttune.gate.change_factors import factor_of, value_after, value_before
from agenttune.gate.context import CommandHistory, Moment, step_of
from agenttune.protocol.events import RunInfo
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import ApprovalRequest, Passed, Proposal, Verdict


@dataclass(frozen=True)
class ApprovalCase:
    """What an approver is asked about.

    Attributes:
        proposal: The command, who asks for it and why.
        request: The rule, the values it would change, and how long it waits.
        observation: The run as it stands.
    """

    proposal: Proposal
    request: ApprovalRequest
    observation: Observation


@dataclass(frozen=True)
class Opinion:
    """What an approver says.

    Attributes:
        verdict: `escalate` leaves it to the next approver of the rule; if there is none, it is rejected.
        why: Goes back to who asked.
        arguments: With `edit`: those of the command that are replaced.
        calls: Calls of language models that led here, for the log.
    """

    verdict: Literal["approve", "edit", "reject", "escalate"]
    why: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    calls: Sequence[ModelCalled] = ()


class Approver(ABC):
    """Decides on commands of agents when a rule of `gate.approval` asks it, after the guardrails."""

    @abstractmethod
    def decide(self, case: ApprovalCase) -> Opinion:
        """Its opinion; it may take until the request's time is up. An error is no yes: the next one is asked."""

    def approve(self, why: str = "") -> Opinion:
        return Opinion("approve", why)

    def reject(self, why: str) -> Opinion:
        return Opinion("reject", why)

    def escalate(self, why: str) -> Opinion:
        return Opinion("escalate", why)

    def edit(self, why: str, **arguments: Any) -> Opinion:
        """Approve the command with other values; the guardrails look at them once more."""
        return Opinion("edit", why, arguments)


def along(
    request: ApprovalRequest, rule: ApprovalRule | None, proposal: Proposal, moment: Moment, history: CommandHistory
) -> Verdict | ApprovalRequest:
    """The first verdict that an approver gives, or the request that waits for a model or a person.

    Args:
        request: With those who left it to the next.
        rule: Its rule; None if the run has none of that name any more, which then decides nothing.
        proposal: What is asked.
        moment: The run as it stands.
        history: What agents did so far, for the rule's conditions.
    """
    while len(request.passed) < len(request.approvers):
        asked = request.asked
        if asked == "auto":
            return automatic(request.rule)
        if asked == "rule":
            answer = _by_conditions(request.rule, rule, proposal, moment, history)
            if isinstance(answer, Verdict):
                return answer
            passed = [*request.passed, answer]
            request = request.model_copy(update={"passed": passed})
            continue
        if asked == "human" and (allowed := allowed_before(request, proposal, moment.info)):
            return allowed
        return request
    words = "; ".join(f"{by.by}: {by.reason or 'no reason given'}" for by in request.passed)
    return Verdict(decision="rejected", decided_by="nobody", reason=f"nobody decided ({words})")


def automatic(rule: str) -> Verdict:
    """The approval of a rule whose approver is `auto`."""
    return Verdict(decision="approved", decided_by=f"rule:{rule}")


def allowed_before(request: ApprovalRequest, proposal: Proposal, info: RunInfo) -> Verdict | None:
    """The approval of a person who has allowed all further commands of this kind; None if nobody has."""
    for standing in info.standing:
        if (standing.kind, standing.rule) == (proposal.command.kind, request.rule):
            reason = f"always allowed since step {standing.since_step}"
            return Verdict(decision="approved", decided_by=standing.by, reason=reason)
    return None


def _by_conditions(
    name: str, rule: ApprovalRule | None, proposal: Proposal, moment: Moment, history: CommandHistory
) -> Verdict | Passed:
    """What a rule's `reject_if` and `approve_if` decide, or why they decide nothing."""
    by = f"rule:{name}"
    if rule is None:
        return Passed(by=by, reason="the run has no such rule any more")
    names, functions = names_of(proposal, moment, history), _functions(proposal, moment.info)
    try:
        if rule.reject_if and is_true(evaluate(rule.reject_if, names, functions)):
            return Verdict(decision="rejected", decided_by=by, reason=f"reject_if holds: {rule.reject_if}")
        if rule.approve_if and is_true(evaluate(rule.approve_if, names, functions)):
            return Verdict(decision="approved", decided_by=by, reason=f"approve_if holds: {rule.approve_if}")
    except UserError as error:
        return Passed(by=by, reason=f"its condition cannot be computed: {error.message}")
    return Passed(by=by, reason="none of its conditions holds")


def names_of(proposal: Proposal, moment: Moment, history: CommandHistory) -> Mapping[str, Any]:
    """The names that conditions can use, with their values (`config/known_names.py`)."""
    info, total = moment.info, moment.info.max_steps
    steps = [step_of(record) for record in history.commands]
    return {
        "step": info.step,
        "max_steps": math.nan if total is None else total,
        "steps_left": math.nan if total is None else total - info.step,
        "progress": info.step / total if total else math.nan,
        "metric": math.nan if moment.metric_value is None else moment.metric_value,
        "factor": factor_of(proposal.command, info),
        "commands": history.count_taken(),
        "steps_since_command": info.step - max(steps) if steps else math.inf,
    }


def _functions(proposal: Proposal, info: RunInfo) -> dict[str, Callable[..., Any]]:
    command = proposal.command

    def now(name: str) -> float:
        return value_before(name, command, info)

    def to(name: str) -> float:
        return value_after(name, command, info)

    return {"now": now, "to": to, "is_finite": math.isfinite, "abs": abs, "min": min, "max": max}
