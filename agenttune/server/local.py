"""The page of the local user interface: all requests of a run that wait, for the person who may decide on them.

Who that is, the checks before every route find out: they leave `identity` with the request. Its form comes with the
Origin of this server, which those checks compare; so the page names itself as referrer to itself.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import Decision, LocalControl
from agenttune.errors import AlreadyDecided, UnknownCommandId, UserError
from agenttune.instants import now_for
from agenttune.proposals import Author
from agenttune.server.asking import asked_of, asks_a_person, curves_around
from agenttune.server.context import Ctx, RunId
from agenttune.server.identity import Identity
from agenttune.server.rendering import (
    Form,
    ReferrerPolicy,
    Shown,
    decided_page,
    message_page,
    read_form,
    requests_page,
)

router = APIRouter(include_in_schema=False)
PREFIX = "/local/"
REFERRER: ReferrerPolicy = "same-origin"


@router.api_route(f"{PREFIX}{{run_id}}", methods=["GET", "HEAD"])
async def waiting(run_id: RunId, request: Request, context: Ctx) -> Response:
    """All requests of a run that wait for a person."""
    if _operator(request) is None:
        return _refusal()
    return await run_in_threadpool(_list, context.control, run_id)


@router.post(f"{PREFIX}{{run_id}}/{{command_id}}")
async def decide(run_id: RunId, command_id: str, request: Request, context: Ctx) -> Response:
    """Decide on one of them, as it was shown."""
    author = _operator(request)
    if author is None or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return _refusal()
    back = f"../{quote(run_id)}"
    try:
        form = await read_form(request)
    except UserError as error:
        return message_page(400, "Nothing was decided", str(error), back, REFERRER)
    return await run_in_threadpool(_decide, context.control, run_id, command_id, form, author, back)


def _list(control: LocalControl, run_id: str) -> Response:
    info, now = control.info(run_id), control.now()
    shown = [
        Shown(
            asked_of(record, request, info, now_for(request, now)),
            curves_around(control, info, request),
            f"{quote(run_id)}/{record.command_id}",
        )
        for record in control.pending(run_id)
        if asks_a_person(record) and (request := record.request) is not None
    ]
    note = "" if shown else f"Nothing waits for a decision. The run is {info.status}, at step {info.step}."
    return requests_page(run_id, shown, note, REFERRER)


def _decide(control: LocalControl, run_id: str, command_id: str, form: Form, author: Author, back: str) -> Response:
    decision = Decision(verdict=form.verdict, digest=form.digest or "", author=author, reason=form.reason)
    try:
        record = control.decide(run_id, command_id, decision)
    except AlreadyDecided as error:
        return message_page(409, "This was decided already", str(error), back, REFERRER)
    except UnknownCommandId as error:
        return message_page(404, "There is no such request", str(error), back, REFERRER)
    except UserError as error:
        return message_page(409, "Nothing was decided", str(error), back, REFERRER)
    return decided_page(record, form.verdict, back, REFERRER)


def _operator(request: Request) -> Author | None:
    identity: Identity | None = request.state.identity
    return identity.author() if identity is not None and identity.principal == "operator" else None


def _refusal() -> Response:
    words = "Open it with the address that agenttune run has shown; it carries a secret of this run."
    return message_page(403, "This page is for the person who started the run", words, referrer=REFERRER)
