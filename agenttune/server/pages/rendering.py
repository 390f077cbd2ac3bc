"""The small page: HTML without scripts, in which whatever comes from a run is text and nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, cast
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from agenttune.errors import UserError
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.protocol.text import clean
from agenttune.server.pages.form_fields import Field, in_words
from agenttune.server.pages.request_text import Asked
from agenttune.server.pages.sparkline import Drawing

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 40
"""The decision's own, and one for each argument: no command has half as many."""
VALUE_CHARACTERS = 2000
VALUE_PREFIX = "set."
"""Begins the names of fields that edit an argument."""
REASON_CHARACTERS = 2000
"""As for every decision."""
ReferrerPolicy = Literal["no-referrer", "same-origin"]


@dataclass(frozen=True)
class Shown:
    """One request on the page.

    Attributes:
        fields: To run it with other values.
        action: Where its form goes, from the page's own address; empty for that address itself.
        reason: What somebody typed before, when nothing could be decided.
        error: Why not.
    """

    asked: Asked
    drawings: Sequence[Drawing]
    fields: Sequence[Field] = ()
    action: str = ""
    reason: str = ""
    error: str = ""


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


def _respond(template: str, status: int, referrer: ReferrerPolicy, **content: Any) -> Response:
    html = _environment().get_template(template).render(style=Markup(_style()), **content)  # our own file
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": referrer,
        "Content-Security-Policy": _policy(),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Response(html, status, headers, "text/html")


def requests_page(
    run_id: str, shown: Sequence[Shown], note: str, back: str = "", referrer: ReferrerPolicy = "no-referrer"
) -> Response:
    """Requests, each with its form."""
    status = 422 if any(item.error for item in shown) else 200
    content = {"run_id": clean(run_id), "shown": shown, "note": note, "back": back, "prefix": VALUE_PREFIX}
    return _respond("requests.html.j2", status, referrer, **content, value_characters=VALUE_CHARACTERS)


def message_page(
    status: int, title: str, words: str = "", back: str = "", referrer: ReferrerPolicy = "no-referrer"
) -> Response:
    """A plain page that says something."""
    return _respond("message.html.j2", status, referrer, title=title, words=clean(words, 1000), back=back)


def decided_page(
    record: CommandRecord, asked_for: str, back: str = "", referrer: ReferrerPolicy = "no-referrer"
) -> Response:
    """What came of a decision."""
    verdict = record.verdict
    why = verdict.reason if verdict is not None else ""
    kind = record.proposal.command.kind
    if record.state is State.QUEUED and asked_for == "approve":
        return message_page(200, f"Approved: {kind}", "It goes to the trainer now.", back, referrer)
    if record.state is State.QUEUED and asked_for == "edit" and verdict is not None and verdict.edited is not None:
        words = f"It goes to the trainer now with {in_words(verdict.edited)}."
        return message_page(200, f"Edited and approved: {kind}", words, back, referrer)
    if record.state is State.REJECTED and asked_for == "reject":
        return message_page(200, f"Rejected: {kind}", "Whoever asked is told so, with your reason.", back, referrer)
    status = 410 if record.state in (State.EXPIRED, State.SUPERSEDED) else 409
    return message_page(status, f"Not done: {kind} is {record.state.value}", why, back, referrer)


@dataclass(frozen=True)
class Form:
    """What somebody sent from the page.

    Attributes:
        values: What stood in the fields of the arguments, by name.
    """

    verdict: Literal["approve", "edit", "reject"]
    reason: str
    digest: str | None
    values: dict[str, str]


async def read_form(request: Request) -> Form:
    """The decision in a form.

    Raises:
        UserError: It is none; nothing was decided.
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        fields = parse_qs(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        fields = {}
    values = {name: fields.pop(name) for name in list(fields) if name.startswith(VALUE_PREFIX)}
    verdict, reason, digest = (fields.pop(name, [""]) for name in ("verdict", "reason", "digest"))
    if media != FORM or fields or any(len(given) != 1 for given in (verdict, reason, digest, *values.values())):
        raise UserError("this is not what the page's form sends; nothing was decided")
    # A form sends two characters for an end of line; the page's field counts one.
    reason_text = reason[0].replace("\r\n", "\n")
    if len(reason_text) > REASON_CHARACTERS:
        raise UserError(f"the reason is longer than {REASON_CHARACTERS} characters; nothing was decided")
    if any(len(given[0]) > VALUE_CHARACTERS for given in values.values()):
        raise UserError(f"a value is longer than {VALUE_CHARACTERS} characters; nothing was decided")
    named = {name.removeprefix(VALUE_PREFIX): given[0] for name, given in values.items()}
    return Form(_verdict(verdict[0]), reason_text, digest[0] or None, named)


def _verdict(word: str) -> Literal["approve", "edit", "reject"]:
    if word not in ("approve", "edit", "reject"):
        raise UserError("a decision is approve, edit or reject; nothing was decided")
    return cast(Literal["approve", "edit", "reject"], word)
