"""What of a run people want to be told and were not yet: found by looking at its log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agenttune.config import NotifySettings
from agenttune.control import LocalControl
from agenttune.protocol.deadlines import is_over, now_for
from agenttune.protocol.events import Evaluated, Notified, Settled
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.server.notify.notices import Notice, approval_notice, ended_notice, reverted_notice
from agenttune.server.pages.request_text import asked_of, asks_a_person
from agenttune.server.pages.signed_links import Link, make_key, sign
from agenttune.store.run_log import RunLog

What = Literal["approval", "reverted", "ended"]
STALE_AFTER_S = 86_400.0
"""Older news is none: a server that starts a day later says nothing (guess)."""
MOST_REVERTS = 50
"""Newest ones that are looked at each time (guess: more than happen while a server is away)."""
MOST_TOLD = 100_000
"""Records of what was told that are read when a server starts (guess: more than anybody would read)."""


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


def watch(control: LocalControl, run_id: str) -> Watched | None:
    """What is known of a run so far; None if nobody wants to hear of it (any more)."""
    log = control.log(run_id)
    info = log.info()
    settings = NotifySettings.model_validate(info.rules.get("notify", {}))
    if not settings.on or (info.ended_at_s is not None and _is_stale(control, info.ended_at_s)):
        return None
    told = {
        PendingNotification(run_id, body.what, event.command_id or "")
        for event in log.events(kinds=["notified"], limit=MOST_TOLD)
        if isinstance(body := event.body, Notified) and body.what != "setup"
    }
    return Watched(run_id, settings, told)


def _is_stale(control: LocalControl, at_s: float) -> bool:
    return control.now_s() - at_s > STALE_AFTER_S


def pending_notifications(control: LocalControl, watched: Watched) -> list[PendingNotification]:
    """What there is to tell now; each thing again until it stands in `watched.told`."""
    log, wanted, found = control.log(watched.run_id), watched.settings.on, list[PendingNotification]()
    if "approval" in wanted:
        waiting = (record for record in log.commands(State.PROPOSED) if asks_a_person(record))
        found += [PendingNotification(watched.run_id, "approval", record.command_id) for record in waiting]
    if "reverted" in wanted:
        reverted = log.commands(State.REVERTED, limit=MOST_REVERTS, newest=True)
        found += [PendingNotification(watched.run_id, "reverted", record.command_id) for record in reverted]
    if "ended" in wanted and log.info().ended_at_s is not None:
        found.append(PendingNotification(watched.run_id, "ended"))
    return [news for news in found if news not in watched.told]


def notice_of(control: LocalControl, news: PendingNotification, settings: NotifySettings, url: str) -> Notice | None:
    """The message to send now; None if there is nothing to say any more.

    Args:
        control: Of the runs.
        news: What to tell.
        settings: Of the run.
        url: Of this server.
    """
    log = control.log(news.run_id)
    if news.what == "ended":
        return ended_notice(log.info(), _last_metric(log))
    record = log.command(news.command_id)
    if news.what == "approval":
        return _approval(control, news, record, settings, url)
    for event in log.events(kinds=["settled"], command_id=news.command_id):
        if isinstance(event.body, Settled) and not _is_stale(control, event.at_s):
            return reverted_notice(record, event.body, event, log.info())
    return None


def _approval(
    control: LocalControl, news: PendingNotification, record: CommandRecord, settings: NotifySettings, url: str
) -> Notice | None:
    request, now = record.request, control.now()
    if request is None or not asks_a_person(record) or is_over(request, now):
        return None
    address = ""
    if settings.links:
        left_s = request.expires_at_s - now_for(request, now)
        ends_s = now.unix_s + min(60 * settings.link_minutes, left_s)
        link = Link(run_id=news.run_id, command_id=record.command_id, digest=request.digest, expires_at_s=ends_s)
        address = f"{settings.public_url or url}/links/{sign(link, make_key(control.runs_dir))}"
    asked = asked_of(record, request, control.info(news.run_id), now_for(request, now))
    return approval_notice(asked, news.run_id, url, address)


def _last_metric(log: RunLog) -> float | None:
    found = log.events(kinds=["evaluated"], limit=1, newest=True)
    body = found[0].body if found else None
    return value_of(log.info().goal_metric, body.metrics) if isinstance(body, Evaluated) else None
