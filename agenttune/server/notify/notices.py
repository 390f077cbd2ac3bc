"""Pending notifications of a run, found in its log, and the messages that tell of them.

Foreign text in a message is bounded, on one line, and no link and no mention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from agenttune.config import NotifySettings
from agenttune.control import LocalControl
from agenttune.gate.approval_description import ApprovalDescription, asks_a_person, describe
from agenttune.protocol.commands import AddNote
from agenttune.protocol.deadlines import is_over, now_for
from agenttune.protocol.events import Evaluated, Event, Notified, Settled
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.protocol.reads import HistoryQuery
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import Intervention
from agenttune.protocol.text import clean, duration, number, utc_time
from agenttune.server.pages.signed_links import Link, make_key, sign

What = Literal["approval", "reverted", "noted", "ended"]
STALE_AFTER_S = 86_400.0
"""What happened longer ago is not told: a server that starts a day later stays silent (guess)."""
MOST_REVERTS = 50
"""Newest ones that are looked at each time (guess: more than happen while a server is away)."""
MOST_APPLIED = 200
"""Newest applied commands among which remarks are looked for (guess, as above)."""
MOST_TRIED = 6
"""Newest changes that a remark tells of, with what they did (guess: what a person reads on a telephone)."""
MOST_TOLD = 100_000
"""Records of what was told that are read when a server starts (guess: more than anybody would read)."""
TITLE_CHARACTERS = 120
REASON_CHARACTERS = 600
MOST_CHANGES = 8
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "`": "'", "@": " at ", "|": "/"})
"""What chat services and HTML mail make links, mentions or markup of."""


@dataclass(frozen=True)
class Notice:
    """A message to people."""

    title: str
    body: str


@dataclass(frozen=True)
class PendingNotification:
    """One thing to tell."""

    run_id: str
    what: What
    command_id: str = ""


@dataclass
class Watched:
    """A run that people want to hear of.

    Attributes:
        told: What was told, or is on its way, or is too old to be told.
    """

    run_id: str
    settings: NotifySettings
    told: set[PendingNotification] = field(default_factory=set)


def watch(control: LocalControl, run_id: str, known: RunInfo | None = None) -> Watched | None:
    """What is known of a run so far; None if nobody wants to hear of it (any more).

    Args:
        control: Of the runs.
        run_id: Of the run.
        known: Its card, where it was just read with all others: then only the logs of runs that count are opened.
    """
    info = known or control.info(run_id)
    settings = NotifySettings.model_validate(info.rules.get("notify", {}))
    if not settings.on or (info.ended_at_s is not None and _is_stale(control, info.ended_at_s)):
        return None
    told = {
        PendingNotification(run_id, body.what, event.command_id or "")
        for event in control.events(run_id, limit=MOST_TOLD, kinds=["notified"])
        if isinstance(body := event.body, Notified) and body.what != "setup"
    }
    return Watched(run_id, settings, told)


def _is_stale(control: LocalControl, at_s: float) -> bool:
    return control.now_s() - at_s > STALE_AFTER_S


def pending_notifications(control: LocalControl, watched: Watched) -> list[PendingNotification]:
    """What there is to tell now; each thing again until it stands in `watched.told`."""
    run_id, wanted, found = watched.run_id, watched.settings.on, list[PendingNotification]()
    if "approval" in wanted:
        waiting = (record for record in control.commands(run_id, [State.PROPOSED]) if asks_a_person(record))
        found += [PendingNotification(run_id, "approval", record.command_id) for record in waiting]
    if "reverted" in wanted:
        reverted = control.commands(run_id, [State.REVERTED], MOST_REVERTS)
        found += [PendingNotification(run_id, "reverted", record.command_id) for record in reverted]
    if "noted" in wanted:
        applied = control.commands(run_id, [State.APPLIED], MOST_APPLIED)
        found += [PendingNotification(run_id, "noted", record.command_id) for record in applied if _is_remark(record)]
    if "ended" in wanted and control.info(run_id).ended_at_s is not None:
        found.append(PendingNotification(run_id, "ended"))
    return [item for item in found if item not in watched.told]


def notice_of(control: LocalControl, pending: PendingNotification, settings: NotifySettings, url: str) -> Notice | None:
    """The message to send now; None if there is nothing to say any more.

    Args:
        control: Of the runs.
        pending: What to tell.
        settings: Of the run.
        url: Of this server.
    """
    info = control.info(pending.run_id)
    if pending.what == "ended":
        return ended_notice(info, _last_metric(control, info))
    record = control.command(pending.run_id, pending.command_id)
    if pending.what == "approval":
        return _approval(control, pending, record, settings, url)
    if pending.what == "noted":
        return _remark(control, record, info)
    for event in control.events_of(pending.run_id, pending.command_id, "settled"):
        if isinstance(event.body, Settled) and not _is_stale(control, event.at_s):
            return reverted_notice(record, event.body, event, info)
    return None


def _approval(
    control: LocalControl, pending: PendingNotification, record: CommandRecord, settings: NotifySettings, url: str
) -> Notice | None:
    request, now = record.request, control.now()
    if request is None or not asks_a_person(record) or is_over(request, now):
        return None
    address = ""
    if settings.links:
        left_s = request.expires_at_s - now_for(request, now)
        ends_s = now.unix_s + min(60 * settings.link_minutes, left_s)
        link = Link(run_id=pending.run_id, command_id=record.command_id, digest=request.digest, expires_at_s=ends_s)
        address = f"{settings.public_url or url}/links/{sign(link, make_key(control.runs_dir))}"
    asked = describe(record, request, control.info(pending.run_id), now_for(request, now))
    return approval_notice(asked, pending.run_id, url, address)


def _is_remark(record: CommandRecord) -> bool:
    """Whether an agent wrote it, for people to read: what an operator writes is for the agent."""
    return record.command.kind == AddNote.kind_name() and record.proposal.author.principal == "agent"


def _remark(control: LocalControl, record: CommandRecord, info: RunInfo) -> Notice | None:
    told = next(iter(control.events_of(info.run_id, record.command_id, "acked")), None)
    if told is None or _is_stale(control, told.at_s):
        return None
    history = control.read(info.run_id, HistoryQuery(limit=MOST_APPLIED)).history
    return remark_notice(record, [one for one in history if one.effect is not None], info)


def _last_metric(control: LocalControl, info: RunInfo) -> float | None:
    found = control.newest(info.run_id, "evaluated")
    body = found.body if found is not None else None
    return value_of(info.goal_metric, body.metrics) if isinstance(body, Evaluated) else None


def plain(text: str, limit: int = 200) -> str:
    """Foreign text without anything that chat services or mail readers make markup, links or mentions of."""
    return clean(clean(text, 4 * limit).translate(_HARMLESS).replace("://", " : //"), limit)


def approval_notice(asked: ApprovalDescription, run_id: str, url: str, link: str) -> Notice:
    """A command waits for a person.

    Args:
        asked: The request.
        run_id: Its run.
        url: Of the control server, for a shell on its machine.
        link: To the page; empty for none.
    """
    changes = [f"{plain(c.name)}: {plain(c.before)} -> {plain(c.after)}" for c in asked.changes[:MOST_CHANGES]]
    if len(asked.changes) > MOST_CHANGES:
        changes.append(f"and {len(asked.changes) - MOST_CHANGES} more")
    if not changes:
        changes.append(plain(" ".join(asked.exact.split()), 300))
    shell = f"agenttune approve show {asked.command_id} --run {plain(run_id)} --url {url}"
    lines = [
        f"{plain(asked.who)} ({asked.principal}) asks for {asked.kind} (risk: {asked.risk}) in run {plain(run_id)}",
        *changes,
        f'Reason: "{plain(asked.reason, REASON_CHARACTERS)}"' if asked.reason else "Reason: none given",
        "Rests on: " + ", ".join(plain(f"{label} {value}") for label, value in asked.evidence),
        f"{asked.silence} {asked.cost}",
        *([f"Look at it and decide, once: {link}"] if link else []),
        f"From a shell: {shell}, then yes or no in place of show",
    ]
    return Notice(plain(f"Approve {asked.kind} in {run_id}?", TITLE_CHARACTERS), "\n".join(lines))


def reverted_notice(record: CommandRecord, settled: Settled, event: Event, info: RunInfo) -> Notice:
    """Probation undid a change."""
    proposal = record.proposal
    lines = [
        f"Run {plain(info.run_id)}: {proposal.command.kind} by {plain(proposal.author.name)} was undone at step "
        f"{event.step}",
        f"Why: {plain(settled.reason, REASON_CHARACTERS)}",
    ]
    if settled.forecast is not None and settled.found is not None:
        metric = plain(settled.metric) or "the metric"
        lines.append(f"{metric} was going to {number(settled.forecast)} and went to {number(settled.found)}")
    return Notice(plain(f"Reverted {proposal.command.kind} in {info.run_id}", TITLE_CHARACTERS), "\n".join(lines))


def remark_notice(record: CommandRecord, tried: Sequence[Intervention], info: RunInfo) -> Notice:
    """An agent has something to say, such as that nothing helps.

    Args:
        record: The remark.
        tried: Changes so far, each with its effect, oldest first.
        info: Of the run.
    """
    proposal, text = record.proposal, record.command.arguments().get("text", "")
    lines = [
        f"Run {plain(info.run_id)}, step {info.step}: {plain(proposal.author.name)} notes: "
        f"{plain(str(text), REASON_CHARACTERS)}",
        *([f"Why: {plain(proposal.rationale, REASON_CHARACTERS)}"] if proposal.rationale else []),
        "Tried so far:" if tried else "Nothing was tried so far.",
        *(_tried(one) for one in tried[-MOST_TRIED:]),
        f"More: agenttune report {plain(info.run_id)}",
    ]
    return Notice(plain(f"Note on {info.run_id}: {text}", TITLE_CHARACTERS), "\n".join(lines))


def _tried(one: Intervention) -> str:
    effect = "not known" if one.effect is None else one.effect.words
    return plain(f"- step {one.applied_at_step}: {one.kind} {one.summary}; effect {effect}", REASON_CHARACTERS)


def ended_notice(info: RunInfo, metric_value: float | None) -> Notice:
    """A run ended, well or not."""
    of = f" of {info.max_steps}" if info.max_steps is not None else ""
    lines = [f"Run {plain(info.run_id)} is {info.status} at step {info.step}{of}"]
    if info.status_reason:
        lines.append(plain(info.status_reason, REASON_CHARACTERS))
    if info.ended_at_s is not None:
        lines.append(f"after {duration(info.ended_at_s - info.created_at_s)}, at {utc_time(info.ended_at_s)}")
    if metric_value is not None:
        lines.append(f"{plain(info.goal_metric)}: {number(metric_value)}")
    lines.append(f"More: agenttune report {plain(info.run_id)}")
    return Notice(plain(f"Run {info.run_id} {info.status}", TITLE_CHARACTERS), "\n".join(lines))
