"""The HTML of the approval pages: no scripts, and text from a run is escaped everywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.gate.approval_description import ApprovalDescription, describe
from agenttune.protocol.deadlines import now_for
from agenttune.protocol.proposals import ApprovalRequest, CommandRecord, State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean
from agenttune.server.pages.form import VALUE_CHARACTERS, VALUE_PREFIX, Form, FormField, NotDecided, fields_of, in_words
from agenttune.server.pages.sparkline import Drawing, curves_around


class PageFrame(NamedTuple):
    """What pages differ in around what they show.

    Attributes:
        back: The address of what else waits; empty where that is nobody's business.
        back_words: What the link there says.
    """

    back: str = ""
    referrer: Literal["no-referrer", "same-origin"] = "no-referrer"
    back_words: str = "What else waits"


BARE = PageFrame()


@dataclass(frozen=True)
class Shown:
    """One request on the page.

    Attributes:
        fields: To run it with other values.
        action: Where its form goes, from the page's own address; empty for that address itself.
        reason: What somebody typed before, when nothing could be decided.
        error: Why not.
    """

    asked: ApprovalDescription
    drawings: Sequence[Drawing]
    fields: Sequence[FormField] = ()
    action: str = ""
    reason: str = ""
    error: str = ""


def shown(
    control: LocalControl, info: RunInfo, record: CommandRecord, request: ApprovalRequest, action: str = ""
) -> Shown:
    """A request with the form that decides on it."""
    asked = describe(record, request, info, now_for(request, control.now()))
    return Shown(asked, curves_around(control, info, request), fields_of(record.proposal.command), action)


def shown_again(
    control: LocalControl, info: RunInfo, record: CommandRecord, request: ApprovalRequest, form: Form, wrong: NotDecided
) -> Shown:
    """The same request again with what the person typed and why it could not be used."""
    fields = fields_of(record.proposal.command, form.values)
    return replace(shown(control, info, record, request), fields=fields, reason=form.reason, error=str(wrong))


@lru_cache(1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("agenttune.server.pages"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(1)
def _style() -> str:
    return (files("agenttune.server.pages") / "templates" / "page.css").read_text(encoding="utf-8")


@lru_cache(1)
def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def respond(template: str, status: int, frame: PageFrame = BARE, **content: Any) -> Response:
    """A page from its template, with the headers that all of them have."""
    style = Markup(_style())  # our own file
    html = (
        _environment()
        .get_template(template)
        .render(style=style, back=frame.back, back_words=frame.back_words, **content)
    )
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": frame.referrer,
        "Content-Security-Policy": _policy(),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Response(html, status, headers, "text/html")


def requests_page(run_id: str, shown: Sequence[Shown], note: str, frame: PageFrame = BARE) -> Response:
    """Requests, each with its form."""
    status = 422 if any(item.error for item in shown) else 200
    content = {"run_id": clean(run_id), "shown": shown, "note": note, "prefix": VALUE_PREFIX}
    return respond("requests.html.j2", status, frame, **content, value_characters=VALUE_CHARACTERS)


def message_page(status: int, title: str, words: str = "", frame: PageFrame = BARE) -> Response:
    """A plain page that says something."""
    return respond("message.html.j2", status, frame, title=title, words=clean(words, 1000))


def decided_page(record: CommandRecord, asked_for: str, frame: PageFrame) -> Response:
    """What came of a decision."""
    verdict = record.verdict
    why = verdict.reason if verdict is not None else ""
    kind = record.proposal.command.kind
    if record.state is State.QUEUED and asked_for == "approve":
        return message_page(200, f"Approved: {kind}", "It goes to the trainer now.", frame)
    if record.state is State.QUEUED and asked_for == "edit" and verdict is not None and verdict.edited is not None:
        words = f"It goes to the trainer now with {in_words(verdict.edited)}."
        return message_page(200, f"Edited and approved: {kind}", words, frame)
    if record.state is State.REJECTED and asked_for == "reject":
        return message_page(200, f"Rejected: {kind}", "Whoever asked is told so, with your reason.", frame)
    status = 410 if record.state in (State.EXPIRED, State.SUPERSEDED) else 409
    return message_page(status, f"Not done: {kind} is {record.state.value}", why, frame)
