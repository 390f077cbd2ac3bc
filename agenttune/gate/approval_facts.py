"""What a request for approval says, as data: the screen, messages and pages draw the same facts in their own words."""

from __future__ import annotations

from dataclasses import dataclass

from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, Difference
from agenttune.protocol.text import clean, number

NAME_CHARACTERS = 120


@dataclass(frozen=True)
class ChangeAsked:
    """One value that a command would change.

    Attributes:
        factor: After divided by before; None where that says nothing.
    """

    name: str
    before: str
    after: str
    factor: float | None

    @classmethod
    def of(cls, change: Difference) -> ChangeAsked:
        before, after = change.before, change.after
        numbers = isinstance(before, (int, float)) and isinstance(after, (int, float)) and before > 0 and after > 0
        factor = after / before if numbers and after != before else None
        return cls(clean(change.name, NAME_CHARACTERS), _value(before), _value(after), factor)


@dataclass(frozen=True)
class RequestFacts:
    """A request as of now. Names are free of what cannot be seen; markup is the reader's own affair.

    Attributes:
        based_on_step: The step that was looked at; None: not told.
        metric: Empty: the run has none.
        metric_value: In figures; empty: not evaluated yet.
        passed: Approvers that left it open, and why.
        asked_next: Who is asked now, and then.
        runs_unanswered: Whether silence lets it run; that of a model never does.
        left_s: Until nobody's answer counts, in seconds.
        holds_training: Whether training waits for the answer.
        waited_s: Since it was asked, in seconds, no longer than it waits.
        waited_steps: Steps that training would have taken meanwhile; None: its speed is not known.
        waited_usd: What the machine cost meanwhile; None: its price is not known.
    """

    changes: list[ChangeAsked]
    step: int
    based_on_step: int | None
    branch: str
    metric: str
    metric_value: str
    rule: str
    passed: list[tuple[str, str]]
    asked_next: list[str]
    runs_unanswered: bool
    left_s: float
    holds_training: bool
    waited_s: float
    waited_steps: int | None
    waited_usd: float | None


def facts_of(
    record: CommandRecord,
    request: ApprovalRequest,
    now_s: float,
    steps_per_s: float | None = None,
    usd_per_hour: float | None = None,
) -> RequestFacts:
    """What a person should know before answering.

    Args:
        record: The command.
        request: Its request.
        now_s: Unix time.
        steps_per_s: Speed of the training, for what waiting costs.
        usd_per_hour: Price of the machine, for the same.
    """
    asked_next = list(request.approvers[len(request.passed) :])
    waited_s = max(0.0, min(now_s, request.expires_at_s) - request.requested_at_s)
    return RequestFacts(
        changes=[ChangeAsked.of(change) for change in request.differences],
        step=request.step,
        based_on_step=record.proposal.based_on_step,
        branch=clean(request.branch, NAME_CHARACTERS),
        metric=clean(request.metric or "", NAME_CHARACTERS),
        metric_value="" if request.metric_value is None else number(request.metric_value),
        rule=clean(request.rule, NAME_CHARACTERS),
        passed=[(clean(p.by, NAME_CHARACTERS), clean(p.reason) or "no reason given") for p in request.passed],
        asked_next=[str(approver) for approver in asked_next],
        runs_unanswered=request.on_timeout == "approve" and asked_next[:1] == ["human"],
        left_s=max(0.0, request.expires_at_s - now_s),
        holds_training=request.training != "continue",
        waited_s=waited_s,
        waited_steps=round(waited_s * steps_per_s) if steps_per_s else None,
        waited_usd=waited_s / 3600 * usd_per_hour if usd_per_hour else None,
    )


def _value(value: object) -> str:
    return "not known" if value is None else number(value)
