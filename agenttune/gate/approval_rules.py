"""Who decides on a proposal that no guardrail refuses: the first rule of `gate.approval` that fits it.

The rule's approvers are asked in turn. Conditions decide at once; for a model or a person the request waits in the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agenttune.config import ApprovalRule, rule_name
from agenttune.config.expressions import evaluate, is_true
from agenttune.errors import UserError
from agenttune.gate.change_factors import differences_of, factor_of, value_after, value_before
from agenttune.gate.context import CommandHistory, Moment, step_of
from agenttune.gate.knob_targets import targets_of
from agenttune.gate.pauses import PERSON, pause_against
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.deadlines import Instant, is_over, was_timed
from agenttune.protocol.proposals import ApprovalRequest, Author, Passed, Proposal, Verdict
from agenttune.protocol.run_info import RunInfo

ASKS_ALWAYS = "asks always"
"""The rule of requests that no rule of `gate.approval` demands: whoever proposed it wants a person to decide."""

NOBODY = "nobody"
"""Who has decided where all approvers of a rule left it open."""
OPINIONS = ("model:", "approver:")
"""How a verdict begins to name a model or an approver of one's own."""


def rule_on(
    proposal: Proposal, rules: Sequence[ApprovalRule], moment: Moment, history: CommandHistory
) -> Verdict | ApprovalRequest:
    """What the rules say: approved at once, a request to somebody, or rejected because no rule covers it.

    What asks always waits for a person, unless the rules refuse it: their yes, a model's and silence are none.
    """
    ruling = _by_rules(proposal, rules, moment, history)
    if not proposal.ask_always or proposal.author.principal != "agent":
        return ruling
    if isinstance(ruling, Verdict):
        asked = ApprovalRule(approvers=["human"])
        return _request(proposal, asked, ASKS_ALWAYS, moment) if ruling.decision == "approved" else ruling
    return ruling.model_copy(update={"approvers": ["human"], "passed": [], "on_timeout": "reject"})


def _by_rules(
    proposal: Proposal, rules: Sequence[ApprovalRule], moment: Moment, history: CommandHistory
) -> Verdict | ApprovalRequest:
    if not rules or proposal.author.principal != "agent":
        return Verdict(decision="approved", decided_by="auto")
    for number, fitting in enumerate(rules, 1):
        if fits(fitting, proposal, moment.info):
            name, rule = rule_name(fitting, number), fitting
            if pause_against(proposal, moment.info, history.queued) is not None:  # a person decides on it, or nobody
                rule = fitting.model_copy(update={"approvers": ["human"], "on_timeout": "reject"})
            if rule.approvers[0] == "auto":
                return automatic(name)
            return along(_request(proposal, rule, name, moment), rule, proposal, moment, history)
    return Verdict(
        decision="rejected",
        decided_by="rule:none",
        reason=f"no rule of gate.approval covers {proposal.command.kind}, so nobody could approve it",
    )


def asks_person(proposal: Proposal, rules: Sequence[ApprovalRule], info: RunInfo) -> bool:
    """Whether a person is among those who are to be asked about a proposal."""
    rule = next((rule for rule in rules if fits(rule, proposal, info)), None)
    return proposal.ask_always or (rule is not None and "human" in rule.approvers)


def fits(rule: ApprovalRule, proposal: Proposal, info: RunInfo) -> bool:
    """Whether a rule covers a proposal."""
    command = proposal.command
    if rule.commands and command.kind not in rule.commands:
        return False
    if rule.risks and command.risk not in rule.risks:
        return False
    if not rule.knobs and rule.max_factor is None:
        return True
    touched = command.touched()
    if not touched or touched - {target.knob for target in targets_of(command, info)} - _of_schedules(command):
        return False  # something in it is no number that could be compared
    if rule.knobs and touched - set(rule.knobs):
        return False
    return rule.max_factor is None or factor_of(command, info) <= rule.max_factor


def _of_schedules(command: CommandBase) -> set[str]:
    """`lr`, if a plan of it is asked for: the command names no single rate, but `factor_of` can compare the courses."""
    return {"lr"} if any(one.lr_plan() is not None for one in command.alternatives()) else set()


def _request(proposal: Proposal, rule: ApprovalRule, name: str, moment: Moment) -> ApprovalRequest:
    info = moment.info
    return ApprovalRequest(
        digest=proposal.digest(),
        rule=name,
        approvers=rule.approvers,
        requested_at_s=moment.now.unix_s,
        expires_at_s=moment.now.unix_s + rule.timeout_s,
        boot_id=moment.now.boot.boot_id,
        requested_boot_s=moment.now.boot.at_s,
        on_timeout=rule.on_timeout,
        training=rule.training,
        step=info.step,
        branch=info.branch,
        metric=info.goal_metric,
        metric_value=moment.metric_value,
        differences=differences_of(proposal.command, info),
    )


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
    return Verdict(decision="rejected", decided_by=NOBODY, reason=f"nobody decided ({words})")


def automatic(rule: str) -> Verdict:
    """The approval of a rule whose approver is `auto`."""
    return Verdict(decision="approved", decided_by=f"rule:{rule}")


def allowed_before(request: ApprovalRequest, proposal: Proposal, info: RunInfo) -> Verdict | None:
    """The approval of a person who has allowed all further commands of this kind; None if nobody has."""
    if proposal.ask_always:
        return None
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


def stale(request: ApprovalRequest, proposal: Proposal, info: RunInfo) -> Verdict | None:
    """The verdict on a request that is too late, as the run passed its step or left its branch; None if it is not."""
    until = proposal.valid_until_step
    if until is not None and info.step > until:
        reason = f"valid until step {until}, the run is at step {info.step}"
        return Verdict(decision="expired", decided_by="clock", reason=reason)
    if request.branch != info.branch:
        reason = f"asked on branch {request.branch} at step {request.step}; the run is on {info.branch}"
        return Verdict(decision="superseded", decided_by="restore", reason=reason)
    return None


def timed_out(request: ApprovalRequest, now: Instant) -> Verdict | None:
    """The verdict where nobody answered in time; None while there is time left."""
    if not is_over(request, now):
        return None
    waited = f"nobody decided within {request.expires_at_s - request.requested_at_s:g} s"
    if request.on_timeout == "approve" and request.asked == "human":
        if was_timed(request, now):
            return Verdict(decision="approved", decided_by="timeout", reason=f"{waited}; the rule says to go on then")
        waited += " by the wall clock alone (the machine was started anew), which is not enough for a silent yes"
    return Verdict(decision="expired", decided_by="timeout", reason=waited)


def is_by_approvers(verdict: Verdict, request: ApprovalRequest | None) -> bool:
    """Whether the approvers that were asked have decided, or left it open: no guardrail or condition of a rule.

    Args:
        verdict: On a command.
        request: To its approvers, if any were asked.
    """
    return request is not None and verdict.decided_by.startswith((f"{PERSON}:", *OPINIONS, NOBODY))


def person(author: Author) -> str:
    """A person or program as verdicts name it, such as `operator:anna via laptop`."""
    via = f" via {author.via}" if author.via else ""
    return f"{author.principal}:{author.name}{via}"


def escalated(
    request: ApprovalRequest,
    by: Passed,
    proposal: Proposal,
    rules: Sequence[ApprovalRule],
    moment: Moment,
    history: CommandHistory,
) -> Verdict | ApprovalRequest:
    """The next verdict, or the request to the next approver, after one has left the decision open."""
    passed = request.model_copy(update={"passed": [*request.passed, by]})
    rule = next((r for number, r in enumerate(rules, 1) if rule_name(r, number) == request.rule), None)
    return along(passed, rule, proposal, moment, history)
