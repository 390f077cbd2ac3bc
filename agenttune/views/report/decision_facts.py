"""A decision in words, as the log has them: whoever shows them cleans and escapes them for its page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agenttune.protocol.commands import recorded_words
from agenttune.protocol.events import ReadBack, Settled
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Change
from agenttune.protocol.summary import MetricAt, outcome_line
from agenttune.protocol.text import cut, dollars, duration, number, tokens
from agenttune.views.report.journal import DecisionOutcome, Evidence, JournalEntry

LONG = 2000
"""Characters of a reason; a proposal's rationale may have 4000, the log has the whole."""
SHORT = 200
MEANING: Mapping[DecisionOutcome, str] = {
    "applied": "in force, never settled by a probation",
    "kept": "applied, watched and kept",
    "reverted": "applied, watched and taken back",
    "refused": "refused by a guardrail, a rule, a reviewer or a person",
    "expired": "ran out of time or was superseded before it took effect",
    "failed": "the trainer tried and it did not take effect",
    "waiting": "no decision or no answer of the trainer is recorded",
}


BRIEF = frozenset(
    {"edited", "applied", "failed", "expired", "left behind", "effect", "kept", "reverted", "taken back by", "tried"}
)
"""Labels of the facts that tell what came of a decision."""


class Fact(NamedTuple):
    """A line of a report."""

    label: str
    text: str


def when(at_s: float | None) -> str:
    """Local time, such as `2026-11-22 23:44:43`."""
    return "-" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def zone(at_s: float) -> str:
    """The time zone that `when` uses."""
    return time.strftime("%Z (UTC%z)", time.localtime(at_s))


def at_step(step: int | None) -> str:
    return "before the first step" if step is None else f"step {step}"


def title(entry: JournalEntry) -> str:
    """A decision in one line: what was done, or what was asked."""
    record = entry.record
    if record.ack is not None and record.ack.outcome == "applied":
        done = cut(outcome_line(record), SHORT)
        if record.ack.changes:
            return done
        return record.command.kind + ("" if done == "applied" else f": {done}")
    return cut(record.proposal.command.words, SHORT)


def author(entry: JournalEntry) -> str:
    who = entry.record.proposal.author
    via = f" via {cut(who.via, 60)}" if who.via else ""
    return f"{cut(who.name, 60)} ({who.principal}{via})"


def facts(entry: JournalEntry, brief: bool = False) -> list[Fact]:
    """Everything about a decision, in the order in which it happened; `brief`: only why, and what came of it."""
    told = [Fact(label, text) for label, text in _facts(entry) if text]
    return [fact for fact in told if fact.label in _in_brief(entry)] if brief else told


def _in_brief(entry: JournalEntry) -> frozenset[str]:
    verdict = entry.record.verdict
    is_plain = verdict is not None and verdict.decision == "approved" and entry.outcome != "expired"
    because = {"because"} if entry.record.proposal.rationale else set()
    return BRIEF | because if is_plain else BRIEF | because | {"decided"}


def _facts(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    proposal = entry.record.proposal
    asked_at = f"{at_step(entry.record.submitted_step)}, {when(entry.at_s('proposed'))}"
    yield "asked", f"{proposal.command.words}, by {author(entry)} at {asked_at}"
    yield "because", proposal.rationale or "no reason was given"
    yield "command", entry.record.command_id
    yield from _basis(entry)
    yield from _decision(entry)
    yield from _execution(entry)
    yield from _consequence(entry)


def _basis(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    proposal, evidence = entry.record.proposal, entry.evidence
    if proposal.based_on_step is not None:
        yield "based on", f"the observation at step {proposal.based_on_step}"
    if proposal.valid_until_step is not None:
        yield "valid until", f"step {proposal.valid_until_step}"
    if evidence is None:
        return
    reason = f": {evidence.reason}" if evidence.reason and evidence.reason != proposal.rationale else ""
    yield "decided by policy", f"{evidence.policy}, woken by {evidence.woken_by}{reason}"
    yield from _shown_evidence(evidence)


def _shown_evidence(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for finding in evidence.findings:
        yield "found before", f"step {finding.step}, {finding.kind} ({finding.severity}): {finding.summary}"
    for call in evidence.calls:
        yield "model call", call_words(call)


def call_words(call: ModelCalled) -> str:
    """A call of a language model: which, for what, with which prompts, at what price."""
    usage = "tokens not told" if call.usage is None else f"{tokens(call.usage.total_tokens)} tokens"
    prompts = "".join(f", prompt {p.name} sha256 {p.sha256[:16]}" for p in call.prompts)
    error = f", failed: {call.error}" if call.error else ""
    what = f"{call.purpose} by {call.model} ({call.protocol}), {usage}, {dollars(call.usd)}, {duration(call.latency_s)}"
    return f"{what}{prompts}{error}"


def _decision(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    record = entry.record
    yield from _request(entry)
    verdict = record.verdict
    if verdict is None:
        yield "decided", _undecided(entry)
        return
    asked_at_s, judged_at_s, waited = entry.at_s("proposed"), entry.at_s("judged"), ""
    if record.request is not None and asked_at_s is not None and judged_at_s is not None:
        waited = f" after {duration(max(0.0, judged_at_s - asked_at_s))}"
    reason = f": {verdict.reason}" if verdict.reason else ""
    yield "decided", f"{verdict.decision} by {verdict.decided_by}{waited}{reason}"
    if verdict.edited is not None:
        yield "edited", f"{record.proposal.command.words} -> {verdict.edited.words}"
    if verdict.nearest_allowed:
        yield "nearest allowed", _pairs(verdict.nearest_allowed)


def _request(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    request = entry.record.request
    if request is None:
        return
    seconds = duration(max(0.0, request.expires_at_s - request.requested_at_s))
    held = "training was held" if request.training == "pause" else "training went on"
    known = "" if request.metric_value is None else f"; {request.metric} was {number(request.metric_value)}"
    yield (
        "put to",
        f"{', then '.join(request.approvers)} by rule {request.rule} at {at_step(request.step)}, "
        f"{when(request.requested_at_s)}; without one after {seconds}: {request.on_timeout}; {held}{known}",
    )
    for passed in request.passed:
        yield "left open", f"by {passed.by}: {passed.reason or 'no reason given'}"
    for line in request.differences:
        yield "shown as", f"{line.name} {number(line.before)} -> {number(line.after)}"


def _undecided(entry: JournalEntry) -> str:
    ack = entry.record.ack
    if ack is not None:
        return f"never: {ack.message or ack.outcome}"
    return "not yet, or never: the log has no decision"


def _execution(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    record = entry.record
    ack = record.ack
    if ack is None:
        if record.verdict is not None and entry.outcome == "waiting":
            yield "answer", "none of the trainer is recorded: it may have been lost with the process"
        return
    back = "" if ack.confirmed_step is None else f", read back at step {ack.confirmed_step}"
    message = f": {ack.message}" if ack.message else ""
    place = f"at {at_step(ack.step)} on branch {ack.branch}, {when(entry.at_s('acked'))}"
    yield ack.outcome, f"{place}{back}{message}"
    for change in ack.changes:
        yield "change", change_words(change)
    result = {name: value for name, value in ack.result.items() if name != "trials"}
    if result:
        yield "result", _pairs(result)
    for trial in ack.result.get("trials", ()):
        yield "tried", _trial(trial)
    again = entry.events.get("read_back")
    if again is not None and isinstance(again.body, ReadBack):
        read = again.body
        word = "still in force" if read.held else "NOT in force any more"
        found = "" if read.held else f": expected {_pairs(read.expected)}, found {_pairs(read.found)}"
        yield "read again", f"at {at_step(again.step)}: {word}{found}"


def _trial(trial: Mapping[str, Any]) -> str:
    """One candidate of a probe and what came of it."""
    command = trial.get("command")
    what = "changing nothing" if command is None else recorded_words(command)
    value = trial.get("value")
    found = str(trial.get("problem", "no value")) if value is None else number(float(value))
    return f"{what}: {found} after {trial.get('steps')} steps, {duration(float(trial.get('took_s') or 0.0))}"


def change_words(change: Change) -> str:
    """Such as `lr: 0.5 -> requested 0.05 -> effective 0.05 (base 0.5 -> 0.05)`."""
    base = ""
    if change.previous_base is not None and change.base is not None:
        base = f" (base {number(change.previous_base)} -> {number(change.base)})"
    unit = f" {change.unit}" if change.unit else ""
    asked = f"requested {number(change.requested, SHORT)} -> effective {number(change.effective, SHORT)}"
    return f"{change.name}: {number(change.previous, SHORT)} -> {asked}{unit}{base}"


def _consequence(entry: JournalEntry) -> Iterator[tuple[str, str]]:
    if entry.is_abandoned:
        yield "left behind", "the run went back to a checkpoint from before this"
    if entry.intervention.effect is not None:
        yield "effect", entry.intervention.effect.words
    end = entry.events.get("settled")
    if end is None or not isinstance(end.body, Settled):
        return
    settled = end.body
    yield settled.outcome, f"at {at_step(end.step)}: {settled.reason}"
    if settled.forecast is not None and settled.found is not None:
        noise = "" if settled.noise is None else f", standard error {number(settled.noise)}"
        yield (
            "forecast",
            f"{settled.metric} {number(settled.forecast)} without the change, seen {number(settled.found)}{noise}",
        )
    if settled.reverted_by:
        yield "taken back by", f"command {settled.reverted_by}"


def point_words(point: MetricAt | None) -> str:
    return "not measured" if point is None else f"{number(point.value)} at step {point.step}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value, SHORT)}" for name, value in values.items())
