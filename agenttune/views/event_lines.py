"""Events as lines for a person: what was found, decided, refused, done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import singledispatch

from agenttune.protocol import events
from agenttune.protocol.events import BestState, Event, TrialResult
from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.protocol.summary import outcome_line
from agenttune.protocol.text import clean, number, pairs

SEVERITY_STYLE = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
BAD_STATUS = frozenset({"failed", "lost", "interrupted"})
REFUSALS = frozenset({"rejected", "expired", "superseded"})


@dataclass(frozen=True)
class EventLine:
    """One line of the list.

    Attributes:
        mark: One word for what it is, such as `found` or `refused`.
        text: Cleaned; safe to show.
        style: Style of the mark.
    """

    at_s: float
    step: int | None
    mark: str
    text: str
    style: str = ""


CommandLookup = Callable[[str], "CommandRecord | None"]


def lines_of(event: Event, find_command: CommandLookup) -> list[EventLine]:
    """The lines that an event is worth; most events are worth one or none."""
    if _says_nothing_new(event):
        return []
    record = find_command(event.command_id) if event.command_id else None
    return [
        EventLine(event.at_s, _step_of(event), mark, clean(text), style)
        for mark, text, style in _parts(event.body, record)
    ]


def _says_nothing_new(event: Event) -> bool:
    """Whether it only repeats that a run is running, after its trainer has started."""
    body = event.body
    return isinstance(body, events.StatusChanged) and body.status == "running" and not body.reason and not event.step


def _step_of(event: Event) -> int | None:
    if isinstance(event.body, events.Found):
        return event.body.finding.step
    return event.body.ack.step if isinstance(event.body, events.Acked) else event.step


Parts = Iterable[tuple[str, str, str]]


@singledispatch
def _parts(body: Record, record: CommandRecord | None) -> Parts:
    """Mark, text and style of each line that an event is worth; those of no kind below are worth none."""
    return ()


@_parts.register
def _started(body: events.RunStarted, record: CommandRecord | None) -> Parts:
    steps = "" if body.max_steps is None else f", {body.max_steps} steps"
    yield "trainer", f"{body.framework}{steps}", "green"


@_parts.register
def _status(body: events.StatusChanged, record: CommandRecord | None) -> Parts:
    style = "bold red" if body.status in BAD_STATUS else "green"
    yield "status", body.status + (f": {body.reason}" if body.reason else ""), style


@_parts.register
def _attempt_ended(body: events.AttemptEnded, record: CommandRecord | None) -> Parts:
    yield "attempt", f"{body.attempt} failed: {body.reason}; {body.by} starts it again", "bold yellow"


@_parts.register
def _attempt_started(body: events.AttemptStarted, record: CommandRecord | None) -> Parts:
    why = f" (the one before: {body.reason})" if body.reason else ""
    yield "attempt", f"{body.attempt}, started by {body.by}{why}", "bold yellow"


@_parts.register
def _found(body: events.Found, record: CommandRecord | None) -> Parts:
    finding = body.finding
    yield "found", f"{finding.kind}: {finding.summary}", SEVERITY_STYLE[finding.severity]


@_parts.register
def _decided(body: events.Decided, record: CommandRecord | None) -> Parts:
    # What it asked for has lines of its own, with the reason of each command.
    if body.unusable:
        yield "unusable", f"{body.policy}: {body.reason}", "bold yellow"
    elif body.command_ids and body.faults:
        yield "model", f"{body.policy}: {'; '.join(body.faults)}", "yellow"
    elif body.reason and not body.command_ids:
        yield "held", f"{body.policy}: {body.reason}", "dim magenta"


@_parts.register
def _proposed(body: events.Proposed, record: CommandRecord | None) -> Parts:
    proposal = body.proposal
    mark, style = ("decided", "magenta") if proposal.author.principal == "agent" else ("asked", "blue")
    why = f" because {proposal.rationale}" if proposal.rationale else ""
    yield mark, f"{proposal.author.name}: {proposal.command.words}{why}", style


@_parts.register
def _judged(body: events.Judged, record: CommandRecord | None) -> Parts:
    verdict = body.verdict
    if verdict.decision not in REFUSALS:
        if record is not None and (record.request is not None or verdict.decision == "edited"):
            now = f": {record.command.words}" if verdict.decision == "edited" else ""
            why = f", {verdict.reason}" if verdict.reason else ""
            yield verdict.decision, f"{record.proposal.command.kind} by {verdict.decided_by}{now}{why}", "green"
        return
    what = record.proposal.command.words if record else "a command"
    nearest = f"; nearest allowed: {pairs(verdict.nearest_allowed)}" if verdict.nearest_allowed else ""
    word = "refused" if verdict.decision == "rejected" else verdict.decision
    yield word, f"{what} by {verdict.decided_by}: {verdict.reason}{nearest}", "bold yellow"


@_parts.register
def _waits(body: events.ApprovalRequested, record: CommandRecord | None) -> Parts:
    request, kind = body.request, record.proposal.command.kind if record else "a command"
    seconds = request.expires_at_s - request.requested_at_s
    held = ", training is held" if request.training == "pause" else ""
    yield (
        "waits",
        f"{kind} for {request.asked}, {seconds:.0f} s, then {request.on_timeout}{held}: agenttune approve list",
        "bold yellow",
    )


@_parts.register
def _escalated(body: events.Escalated, record: CommandRecord | None) -> Parts:
    kind, passed = record.proposal.command.kind if record else "a command", body.request.passed[-1]
    why = f": {passed.reason}" if passed.reason else ""
    yield "waits", f"{kind} for {body.request.asked}, left open by {passed.by}{why}", "bold yellow"


@_parts.register
def _standing(body: events.StandingChanged, record: CommandRecord | None) -> Parts:
    standing = body.standing
    if body.ended_by is None:
        yield "always", f"{standing.kind} under {standing.rule} is approved from here on, by {standing.by}", "green"
    else:
        yield "asks", f"{standing.kind} under {standing.rule} waits for a person again, by {body.ended_by}", "green"


@_parts.register
def _settled(body: events.Settled, record: CommandRecord | None) -> Parts:
    kind = record.proposal.command.kind if record else "a command"
    yield body.outcome, f"{kind}: {body.reason}", "green" if body.outcome == "kept" else "bold yellow"


@_parts.register
def _acked(body: events.Acked, record: CommandRecord | None) -> Parts:
    kind = record.proposal.command.kind if record else "a command"
    ack = body.ack
    if ack.outcome != "applied":
        yield ack.outcome, f"{kind}: {ack.message}", "bold red"
        return
    what = outcome_line(record) if record is not None and record.ack is not None else ack.message
    if what in ("", ack.outcome):  # nothing to tell but that it was done
        yield "applied", f"{kind} at step {ack.step}", "bold green"
        return
    back = f", read back at {ack.confirmed_step}" if ack.confirmed_step is not None else ""
    head = "" if ack.changes else f"{kind}: "
    yield "applied", f"{head}{what} at step {ack.step}{back}", "bold green"


@_parts.register
def _evaluated(body: events.Evaluated, record: CommandRecord | None) -> Parts:
    yield "evaluated", _metrics(body.metrics), "blue"


@_parts.register
def _checkpoint(body: events.CheckpointSaved, record: CommandRecord | None) -> Parts:
    if body.is_before or body.kept_as:
        return  # a folder may hold hundreds, which were not saved now; what the run keeps by itself goes without saying
    yield "saved", f"{body.checkpoint_id} in {body.path}", "green"


@_parts.register
def _labelled(body: events.CheckpointLabelled, record: CommandRecord | None) -> Parts:
    tag = f"tag {body.tag}" if body.tag else "no tag"
    yield "labelled", f"{body.checkpoint_id}: {tag}, {'pinned' if body.pinned else 'not pinned'}", "blue"


def best_words(body: BestState) -> str:
    """Such as `eval_loss 0.261 at step 240, state best; the end is 0.31`."""
    end = "" if body.end_value is None else f"; the end is {number(body.end_value)}"
    loaded = "; its weights are in the model" if body.is_loaded else ""
    return f"{body.metric} {number(body.value)} at step {body.at_step}, state best{end}{loaded}"


@_parts.register
def _best(body: BestState, record: CommandRecord | None) -> Parts:
    yield "best", best_words(body), "green"


@_parts.register
def _branch(body: events.BranchStarted, record: CommandRecord | None) -> Parts:
    if body.parent is not None:
        yield "branch", f"{body.name} from {body.parent} at step {body.from_step}", "green"


@_parts.register
def _probed(body: events.Probed, record: CommandRecord | None) -> Parts:
    tried = ", ".join(f"{_tried(t)}: {t.problem or number(t.value)}" for t in body.trials)
    yield "probed", f"{tried}; {body.extra_steps} extra steps; {body.reason}", "blue"


def _tried(trial: TrialResult) -> str:
    return "as it is" if trial.command is None else trial.command.words


@_parts.register
def _read_back(body: events.ReadBack, record: CommandRecord | None) -> Parts:
    if not body.held:
        yield "undone", f"expected {pairs(body.expected)}, found {pairs(body.found)}", "bold red"


@_parts.register
def _attached(body: events.PolicyAttached, record: CommandRecord | None) -> Parts:
    yield "policy", f"{body.policy} attached", "magenta"


@_parts.register
def _detached(body: events.PolicyDetached, record: CommandRecord | None) -> Parts:
    yield "policy", f"{body.policy} left" + (f": {body.reason}" if body.reason else ""), "magenta"


@_parts.register
def _requested(body: events.PolicyRequested, record: CommandRecord | None) -> Parts:
    what = "no policy" if body.policy is None else f"policy {body.policy}"
    yield "asked", f"{body.author or 'somebody'}: {what} from here on", "blue"


@_parts.register
def _note(body: events.NoteAdded, record: CommandRecord | None) -> Parts:
    yield "note", f"{body.author}: {body.text}", "blue"


@_parts.register
def _tags(body: events.TagsChanged, record: CommandRecord | None) -> Parts:
    yield "tags", f"{body.author or 'somebody'}: {', '.join(body.tags) or 'none'}", "blue"


@_parts.register
def _finding_judged(body: events.FindingJudged, record: CommandRecord | None) -> Parts:
    said = "right" if body.right else "not right"
    why = f", {body.text}" if body.text else ""
    yield "judged", f"{body.author or 'somebody'}: finding {body.finding_seq} was {said}{why}", "blue"


@_parts.register
def _notified(body: events.Notified, record: CommandRecord | None) -> Parts:
    if body.ok:
        yield "told", f"{body.what}, through {body.channels} channel{'s' * (body.channels != 1)}", "dim"
    else:
        yield "untold", f"{body.what}: {body.error}", "bold yellow"


@_parts.register
def _gap(body: events.LogGap, record: CommandRecord | None) -> Parts:
    yield "log", f"{body.dropped_rows} rows were lost: {body.reason}", "bold red"


SPEED_METRICS = ("runtime", "per_second", "epoch", "flos")
"""Metrics with these in their names tell how fast an evaluation was, not how good."""


def _metrics(metrics: Mapping[str, float]) -> str:
    shown = {k: v for k, v in metrics.items() if not any(part in k for part in SPEED_METRICS)}
    return pairs(shown or metrics)
