"""A request for approval as people are shown it: in a message, and on the page."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agenttune.control import LocalControl
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.errors import UserError
from agenttune.gate import usd_per_hour
from agenttune.gate.approval_facts import NAME_CHARACTERS, RequestFacts, facts_of
from agenttune.protocol.events import RunInfo
from agenttune.protocol.goal_names import resolve
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, Proposal, State
from agenttune.protocol.reads import CurveQuery, SeriesQuery
from agenttune.protocol.text import clean, duration
from agenttune.server.pages.sparkline import Drawing, draw

CURVE_STEPS = 500
"""Steps before a request that its curves show (a guess at what tells a trend from noise)."""
CURVE_POINTS = 240
MOST_CURVES = 2


@dataclass(frozen=True)
class Asked:
    """A request in words. All foreign text is free of what cannot be seen; markup is the reader's own affair.

    Attributes:
        who: Author, and what kind of principal it is.
        changes: Name, value before, value after.
        exact: The command as JSON in ASCII: nothing in it can look like something else.
        reason: May have several lines.
        evidence: What it rests on, as label and value.
        silence: What happens if nobody answers, and when.
        cost: What waiting costs.
    """

    command_id: str
    digest: str
    who: str
    kind: str
    risk: str
    changes: list[tuple[str, str, str]]
    exact: str
    reason: str
    evidence: list[tuple[str, str]]
    silence: str
    cost: str


def asks_a_person(record: CommandRecord) -> bool:
    """Whether it is a person's turn to decide."""
    request = record.request
    return request is not None and record.state is State.PROPOSED and request.asked == "human"


def asked_of(record: CommandRecord, request: ApprovalRequest, info: RunInfo, now_s: float) -> Asked:
    """A request in words, as of now by its own clock (`instants.now_for`)."""
    proposal = record.proposal
    facts = facts_of(record, request, now_s, usd_per_hour=usd_per_hour(info))
    return Asked(
        command_id=record.command_id,
        digest=request.digest,
        who=f"{clean(proposal.author.name, NAME_CHARACTERS)} ({proposal.author.principal})",
        kind=proposal.command.kind,
        risk=proposal.command.risk.value,
        changes=[(change.name, change.before, change.after) for change in facts.changes],
        exact=_exact(proposal),
        reason=clean(proposal.rationale, len(proposal.rationale), lines=True),
        evidence=list(_evidence(facts, info)),
        silence=_silence(facts, request.expires_at_s, proposal.valid_until_step),
        cost=_cost(facts),
    )


def _exact(proposal: Proposal) -> str:
    command = {k: v for k, v in proposal.command.model_dump(mode="json").items() if v is not None}
    return json.dumps(command, indent=2)


def _evidence(facts: RequestFacts, info: RunInfo) -> Iterator[tuple[str, str]]:
    seen = facts.based_on_step
    yield "asked at step", str(facts.step) + (f", on what was seen at step {seen}" if seen is not None else "")
    of = f" of {info.max_steps}" if info.max_steps is not None else ""
    yield "the run is now", f"{info.status}, at step {info.step}{of}"
    yield "branch", facts.branch
    if facts.metric:
        yield facts.metric, facts.metric_value or "not evaluated yet"
    yield "rule", facts.rule
    for by, why in facts.passed:
        yield "left open by", f"{by}: {why}"


def _silence(facts: RequestFacts, expires_at_s: float, until: int | None) -> str:
    then = "it is approved" if facts.runs_unanswered else "it is not done, and recorded as expired"
    left = f"in {duration(facts.left_s)}" if facts.left_s > 0 else "now"
    words = f"If nobody answers by {moment(expires_at_s)} ({left}), {then}."
    return words if until is None else f"{words} It also expires after step {until}."


def _cost(facts: RequestFacts) -> str:
    if not facts.holds_training:
        return "Training goes on meanwhile."
    usd = "" if facts.waited_usd is None else f" ({facts.waited_usd:.2f} USD)"
    so_far, more = duration(facts.waited_s), duration(facts.left_s)
    return f"Training is held meanwhile: {so_far} so far{usd}, at most {more} more."


def moment(at_s: float) -> str:
    """A Unix time for people anywhere."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))


def curves_around(control: LocalControl, info: RunInfo, request: ApprovalRequest) -> list[Drawing]:
    """The goal metric and the loss around the step of a request, of those that its branch has."""
    first = max(0, request.step - CURVE_STEPS)
    drawings: list[Drawing] = []
    known = [series.name for series in control.read(info.run_id, SeriesQuery(branch=request.branch)).series]
    for metric in dict.fromkeys((resolve(info.goal_metric, known) or info.goal_metric, *LOSS_NAMES)):
        with contextlib.suppress(UserError):  # there is none of that name
            query = CurveQuery(name=metric, branch=request.branch, first_step=first, max_points=CURVE_POINTS)
            drawing = draw(control.read(info.run_id, query), request.step)
            if drawing is not None and len(drawings) < MOST_CURVES:
                drawings.append(drawing)
    return drawings
