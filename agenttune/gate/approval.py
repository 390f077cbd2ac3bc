"""Who decides on a proposal that no guardrail refuses: the first rule of `gate.approval` that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agenttune.commands import CommandBase, SetKnob, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.config import ApprovalRule
from agenttune.events import RunInfo
from agenttune.gate.targets import Target, targets_of
from agenttune.proposals import ApprovalRequest, Author, Difference, Proposal, Verdict


@dataclass(frozen=True)
class Moment:
    """The run as it stands when somebody asks.

    Attributes:
        info: The run.
        now_s: Unix time.
        metric_value: The goal metric as last known.
    """

    info: RunInfo
    now_s: float
    metric_value: float | None = None


def rule_on(proposal: Proposal, rules: Sequence[ApprovalRule], moment: Moment) -> Verdict | ApprovalRequest:
    """What the rules say: approved at once, to be asked, or rejected since no rule covers it."""
    if not rules or proposal.author.principal != "agent":
        return Verdict(decision="approved", decided_by="auto")
    for number, rule in enumerate(rules, 1):
        if fits(rule, proposal, moment.info):
            name = rule.name or f"rule {number}"
            if rule.approvers[0] == "auto":
                return Verdict(decision="approved", decided_by=f"rule:{name}")
            return _request(proposal, rule, name, moment)
    return Verdict(
        decision="rejected",
        decided_by="rule:none",
        reason=f"no rule of gate.approval covers {proposal.command.kind}, so nobody could approve it",
    )


def fits(rule: ApprovalRule, proposal: Proposal, info: RunInfo) -> bool:
    """Whether a rule speaks of a proposal."""
    command = proposal.command
    if rule.commands and command.kind not in rule.commands:
        return False
    if rule.risks and command.risk not in rule.risks:
        return False
    if not rule.knobs and rule.max_factor is None:
        return True
    targets, touched = targets_of(command, info), touched_by(command)
    if not touched or touched - {target.knob for target in targets}:
        return False  # something in it is no number that could be compared
    if rule.knobs and touched - set(rule.knobs):
        return False
    return rule.max_factor is None or _is_small(command, targets, rule.max_factor)


def touched_by(command: CommandBase) -> set[str]:
    """Names of all knobs that a command changes, also those that are no numbers."""
    if isinstance(command, UpdateOptimizer):
        own = set(command.arguments()) - {"other"} - command.modifiers
        return own | set(command.other)
    if isinstance(command, UpdateTraining):
        return set(command.arguments())
    if isinstance(command, UpdateSchedule):
        return {"lr"}
    return {command.name} if isinstance(command, SetKnob) else set()


def _is_small(command: CommandBase, targets: Sequence[Target], factor: float) -> bool:
    if isinstance(command, UpdateSchedule) and command.shape != "constant" and command.final_lr == 0:
        return False  # a rate that ends at zero is within no factor
    return all(_within(target.current, target.value, factor) for target in targets)


def _within(current: float | None, value: float, factor: float) -> bool:
    """Whether a change is within a factor; one that cannot be told is not."""
    if current == value:
        return True
    return current is not None and current > 0 and value > 0 and 1 / factor <= value / current <= factor


def _request(proposal: Proposal, rule: ApprovalRule, name: str, moment: Moment) -> ApprovalRequest:
    info = moment.info
    return ApprovalRequest(
        digest=proposal.digest(),
        rule=name,
        approvers=[who for who in rule.approvers if who != "auto"],
        requested_at_s=moment.now_s,
        expires_at_s=moment.now_s + rule.timeout_s,
        on_timeout=rule.on_timeout,
        training=rule.training,
        step=info.step,
        branch=info.branch,
        metric=info.goal_metric,
        metric_value=moment.metric_value,
        differences=[
            Difference(name=t.knob, before=t.current, after=t.value) for t in targets_of(proposal.command, info)
        ],
    )


def stale(request: ApprovalRequest, proposal: Proposal, info: RunInfo) -> Verdict | None:
    """Why a request is about a world that is gone, as a verdict; None if it is not."""
    until = proposal.valid_until_step
    if until is not None and info.step > until:
        reason = f"valid until step {until}, the run is at step {info.step}"
        return Verdict(decision="expired", decided_by="clock", reason=reason)
    if request.branch != info.branch:
        reason = f"asked on branch {request.branch} at step {request.step}; the run is on {info.branch}"
        return Verdict(decision="superseded", decided_by="restore", reason=reason)
    return None


def timed_out(request: ApprovalRequest, now_s: float) -> Verdict | None:
    """The verdict of nobody's answer, once the time is up."""
    if now_s < request.expires_at_s:
        return None
    waited = f"nobody decided within {request.expires_at_s - request.requested_at_s:g} s"
    if request.on_timeout == "approve":
        return Verdict(decision="approved", decided_by="timeout", reason=f"{waited}; the rule says to go on then")
    return Verdict(decision="expired", decided_by="timeout", reason=waited)


def person(author: Author) -> str:
    """How a verdict names who gave it."""
    return f"{author.principal}:{author.name}"
