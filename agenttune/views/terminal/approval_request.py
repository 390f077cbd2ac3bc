"""A command that waits for a person, in words: what it would change, on which evidence, and what waiting costs."""

from __future__ import annotations

from typing import NamedTuple

from agenttune.gate.approval_facts import ChangeAsked, RequestFacts, facts_of
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord
from agenttune.protocol.text import clean, duration
from agenttune.views.event_lines import command_words

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
    facts = facts_of(record, request, now_s, steps_per_s, usd_per_hour)
    metric = f", {clean(facts.metric, 40)} {facts.metric_value}" if facts.metric_value else ""
    seen = facts.step if facts.based_on_step is None else facts.based_on_step
    return [
        *(Part("change", _change(change)) for change in facts.changes),
        Part("because", clean(record.proposal.rationale, 1000) or "no reason given"),
        Part("based on", f"step {seen}, branch {clean(facts.branch, 40)}{metric}"),
        *(Part("passed on", f"{clean(by, 80)}: {clean(why, 300)}") for by, why in facts.passed),
        Part("else", _silence(facts)),
        Part("meanwhile", _meanwhile(facts)),
    ]


def _change(change: ChangeAsked) -> str:
    factor = "" if change.factor is None else f"  (x{change.factor:.3g})"
    return f"{clean(change.name, 60)} {change.before} -> {change.after}{factor}"


def _silence(facts: RequestFacts) -> str:
    what = "it runs" if facts.runs_unanswered else "it does not run"
    asked = ", then ".join(facts.asked_next)
    return f"nobody's answer in {duration(facts.left_s)}: {what} (rule {clean(facts.rule, 60)}, asked: {asked})"


def _meanwhile(facts: RequestFacts) -> str:
    if not facts.holds_training:
        return f"training goes on; asked {duration(facts.waited_s)} ago"
    words = [f"training stands still: {duration(facts.waited_s)}"]
    if facts.waited_steps is not None:
        words.append(f"about {facts.waited_steps:,} steps")
    if facts.waited_usd is not None:
        words.append(f"{facts.waited_usd:.2f} USD")
    return ", ".join(words) + " so far"
