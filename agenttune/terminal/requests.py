"""A command that waits for a person, in words: what it would change, on which evidence, and what waiting costs."""

from __future__ import annotations

from typing import NamedTuple

from agenttune.proposals import ApprovalRequest, CommandRecord, Difference
from agenttune.terminal.lines import command_words
from agenttune.terminal.text import clean, duration, number

SHORT_ID = 8
"""Characters of an id that are shown; they nearly always tell it apart."""


class Part(NamedTuple):
    """One line of a request: what it is about, and what is said."""

    label: str
    text: str


def headline(record: CommandRecord, now_s: float) -> str:
    """Id, time left, who and what in one line."""
    left_s = max(0.0, record.request.expires_at_s - now_s) if record.request else 0.0
    who = clean(record.proposal.author.name, 60)
    what = clean(command_words(record.proposal.command.model_dump(mode="json")), 200)
    return f"{record.command_id[:SHORT_ID]}  {duration(left_s)} left  {who}: {what}"


def parts_of(
    record: CommandRecord,
    request: ApprovalRequest,
    now_s: float,
    steps_per_s: float | None = None,
    usd_per_hour: float | None = None,
) -> list[Part]:
    """What a person should know before answering; every text is safe to show.

    Args:
        record: The command.
        request: Its request.
        now_s: Unix time.
        steps_per_s: Speed of the training, for what waiting costs.
        usd_per_hour: Price of the machine, for the same.
    """
    proposal = record.proposal
    metric = f", {clean(request.metric, 40)} {number(request.metric_value)}" if request.metric_value is not None else ""
    return [
        *(Part("change", _difference(d)) for d in request.differences),
        Part("because", clean(proposal.rationale, 1000) or "no reason given"),
        Part("based on", f"step {_step(proposal.based_on_step, request)}, branch {clean(request.branch, 40)}{metric}"),
        *(Part("passed on", f"{clean(p.by, 80)}: {clean(p.reason, 300) or 'no reason given'}") for p in request.passed),
        Part("else", _silence(request, now_s)),
        Part("meanwhile", _meanwhile(request, now_s, steps_per_s, usd_per_hour)),
    ]


def _step(based_on_step: int | None, request: ApprovalRequest) -> int:
    return request.step if based_on_step is None else based_on_step


def _difference(change: Difference) -> str:
    before, after = change.before, change.after
    numbers = isinstance(before, (int, float)) and isinstance(after, (int, float)) and before > 0 and after > 0
    factor = f"  (x{after / before:.3g})" if numbers and after != before else ""
    return f"{clean(change.name, 60)} {number(before)} -> {number(after)}{factor}"


def _silence(request: ApprovalRequest, now_s: float) -> str:
    left = duration(max(0.0, request.expires_at_s - now_s))
    what = "it runs" if request.on_timeout == "approve" and request.asked == "human" else "it does not run"
    left_over = request.approvers[len(request.passed) :]
    return f"nobody's answer in {left}: {what} (rule {clean(request.rule, 60)}, asked: {', then '.join(left_over)})"


def _meanwhile(request: ApprovalRequest, now_s: float, steps_per_s: float | None, usd_per_hour: float | None) -> str:
    waited_s = max(0.0, now_s - request.requested_at_s)
    if request.training == "continue":
        return f"training goes on; asked {duration(waited_s)} ago"
    words = [f"training stands still: {duration(waited_s)}"]
    if steps_per_s:
        words.append(f"about {round(waited_s * steps_per_s):,} steps")
    if usd_per_hour:
        words.append(f"{waited_s / 3600 * usd_per_hour:.2f} USD")
    return ", ".join(words) + " so far"
