"""The approval page of a run: all requests that wait for a person, with a form each.

The person is known from the checks that precede every route (`auth/guard.py`): they leave `identity` with the request.
Those checks compare the Origin that a form is sent with, so the page allows itself as its own referrer.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.errors import AlreadyDecided, Forbidden, UnknownCommandId, UserError
from agenttune.gate.approval_description import asks_a_person
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.server.auth.identity import Identity
from agenttune.server.context import Ctx, RunId
from agenttune.server.error_responses import problem_of
from agenttune.server.pages.form import Form, NotDecided, decide_by_form, read_form
from agenttune.server.pages.rendering import (
    ReferrerPolicy,
    decided_page,
    message_page,
    requests_page,
    shown,
    shown_again,
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
    info = control.info(run_id)
    waiting = [
        shown(control, info, record, request, f"{quote(run_id)}/{record.command_id}")
        for record in control.pending(run_id)
        if asks_a_person(record) and (request := record.request) is not None
    ]
    note = "" if waiting else f"Nothing waits for a decision. The run is {info.status}, at step {info.step}."
    return requests_page(run_id, waiting, note, referrer=REFERRER)


def _decide(control: LocalControl, run_id: str, command_id: str, form: Form, author: Author, back: str) -> Response:
    try:
        record = control.command(run_id, command_id)
        decided = decide_by_form(control, run_id, record, form, form.digest or "", author)
    except NotDecided as wrong:
        return _again(control, run_id, record, form, wrong, back)
    except AlreadyDecided as error:
        return message_page(409, "This was decided already", str(error), back, REFERRER)
    except UnknownCommandId as error:
        return message_page(404, "There is no such request", str(error), back, REFERRER)
    except UserError as error:
        return message_page(409, "Nothing was decided", str(error), back, REFERRER)
    return decided_page(decided, form.verdict, back, REFERRER)


def _again(
    control: LocalControl, run_id: str, record: CommandRecord, form: Form, wrong: NotDecided, back: str
) -> Response:
    """The same request with the reason why nothing was decided; only the reason if it was decided meanwhile."""
    if record.request is None or record.state is not State.PROPOSED or record.request.digest != form.digest:
        return message_page(409, "Nothing was decided", str(wrong), back, REFERRER)
    item = shown_again(control, control.info(run_id), record, record.request, form, wrong)
    return requests_page(run_id, [item], "", back, REFERRER)


def _operator(request: Request) -> Author | None:
    identity: Identity | None = request.state.identity
    return identity.author() if identity is not None and identity.principal == "operator" else None


def _refusal() -> Response:
    return problem_of(Forbidden("only an operator decides here, from this page itself"), as_page=True)
