"""A request for approval as data with its words: the screen, the page, messages and the shell only lay it out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, Difference, State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean, dollars, duration, number, utc_time

NAME_CHARACTERS = 120
SHORT_ID = 8
"""Characters of an id that are shown; they nearly always tell it apart."""


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

    @property
    def words(self) -> str:
        factor = "" if self.factor is None else f"  (x{self.factor:.3g})"
        return f"{self.name} {self.before} -> {self.after}{factor}"


@dataclass(frozen=True)
class ApprovalDescription:
    """A request as of now. All foreign text is free of what cannot be seen; markup is the affair of whoever shows it.

    Attributes:
        who: The author's name.
        principal: What kind of principal that is.
        exact: The command as JSON in ASCII: nothing in it can look like something else.
        reason: May have several lines.
        evidence: What it rests on, as label and value.
        silence: What happens if nobody answers, and when.
        cost: What waiting costs.
    """

    command_id: str
    digest: str
    who: str
    principal: str
    kind: str
    risk: str
    changes: list[ChangeAsked]
    exact: str
    reason: str
    evidence: list[tuple[str, str]]
    silence: str
    cost: str

    def lines(self) -> list[tuple[str, str]]:
        """What a person should know before answering, what matters first, each as a label and one line of text."""
        return [
            *(("change", change.words) for change in self.changes),
            ("because", clean(self.reason, 1000) or "no reason given"),
            ("else", self.silence),
            ("meanwhile", self.cost),
            ("based on", ", ".join(f"{label} {value}" for label, value in self.evidence)),
        ]


def asks_a_person(record: CommandRecord) -> bool:
    """Whether it is a person's turn to decide."""
    request = record.request
    return request is not None and record.state is State.PROPOSED and request.asked == "human"


def headline(record: CommandRecord, now_s: float) -> str:
    """Id, time left, who and what in one line."""
    left_s = max(0.0, record.request.expires_at_s - now_s) if record.request else 0.0
    who, what = clean(record.proposal.author.name, 60), clean(record.proposal.command.words, 200)
    return f"{record.command_id[:SHORT_ID]}  {duration(left_s)} left  {who}: {what}"


def describe(
    record: CommandRecord, request: ApprovalRequest, info: RunInfo, now_s: float, steps_per_s: float | None = None
) -> ApprovalDescription:
    """A request in words.

    Args:
        record: The command.
        request: Its request.
        info: The run, as it is now.
        now_s: Unix time by the request's own clock (`deadlines.now_for`).
        steps_per_s: Speed of the training, for what waiting costs.
    """
    proposal = record.proposal
    command = {k: v for k, v in proposal.command.model_dump(mode="json").items() if v is not None}
    return ApprovalDescription(
        command_id=record.command_id,
        digest=request.digest,
        who=clean(proposal.author.name, NAME_CHARACTERS),
        principal=proposal.author.principal,
        kind=proposal.command.kind,
        risk=proposal.command.risk.value,
        changes=[ChangeAsked.of(change) for change in request.differences],
        exact=json.dumps(command, indent=2),
        reason=clean(proposal.rationale, sys.maxsize, lines=True),
        evidence=list(_evidence(record, request, info)),
        silence=_silence(request, now_s, proposal.valid_until_step),
        cost=_cost(request, info, now_s, steps_per_s),
    )


def _evidence(record: CommandRecord, request: ApprovalRequest, info: RunInfo) -> Iterator[tuple[str, str]]:
    seen = record.proposal.based_on_step
    yield "asked at step", str(request.step) + (f", on what was seen at step {seen}" if seen is not None else "")
    of = f" of {info.max_steps}" if info.max_steps is not None else ""
    yield "the run is now", f"{info.status}, at step {info.step}{of}"
    yield "branch", clean(request.branch, NAME_CHARACTERS)
    if request.metric:
        value = "not evaluated yet" if request.metric_value is None else number(request.metric_value)
        yield clean(request.metric, NAME_CHARACTERS), value
    yield "rule", f"{clean(request.rule, NAME_CHARACTERS)}, asked: {', then '.join(_asked_next(request))}"
    for passed in request.passed:
        yield "left open by", f"{clean(passed.by, NAME_CHARACTERS)}: {clean(passed.reason) or 'no reason given'}"


def _asked_next(request: ApprovalRequest) -> list[str]:
    """Who is asked now, and then."""
    return [str(approver) for approver in request.approvers[len(request.passed) :]]


def _silence(request: ApprovalRequest, now_s: float, until: int | None) -> str:
    # The silence of a model never lets a command run.
    is_approved = request.on_timeout == "approve" and _asked_next(request)[:1] == ["human"]
    then = "it is approved" if is_approved else "it is not done, and recorded as expired"
    left_s = request.expires_at_s - now_s
    left = f"in {duration(left_s)}" if left_s > 0 else "now"
    words = f"If nobody answers by {utc_time(request.expires_at_s)} ({left}), {then}."
    return words if until is None else f"{words} It also expires after step {until}."


def _cost(request: ApprovalRequest, info: RunInfo, now_s: float, steps_per_s: float | None) -> str:
    waited_s = max(0.0, min(now_s, request.expires_at_s) - request.requested_at_s)
    if request.training == "continue":
        return f"Training goes on meanwhile; asked {duration(waited_s)} ago."
    price = usd_per_hour(info)
    spent = [f"about {waited_s * steps_per_s:,.0f} steps"] if steps_per_s else []
    spent += [dollars(waited_s / 3600 * price)] if price else []
    return f"Training is held meanwhile: {duration(waited_s)} so far" + (f" ({', '.join(spent)})." if spent else ".")


def usd_per_hour(info: RunInfo) -> float | None:
    """What the run's machine costs, if its settings say so."""
    gate = info.rules.get("gate")
    price = gate.get("usd_per_hour") if isinstance(gate, dict) else None
    return float(price) if isinstance(price, (int, float)) else None


def _value(value: object) -> str:
    return "not known" if value is None else number(value)
