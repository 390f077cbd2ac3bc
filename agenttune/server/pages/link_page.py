"""The page behind a signed link: `GET` shows one request and decides nothing, `POST` decides on it.

Chat services and mail filters open every link they see. So opening one changes nothing, however often.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.errors import AlreadyDecided, SystemFault, UnknownCommandId, UnknownRun, UserError
from agenttune.protocol.deadlines import is_over
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.text import utc_time
from agenttune.server.context import Ctx
from agenttune.server.pages.form import Form, NotDecided, decide_by_form, read_form
from agenttune.server.pages.rendering import decided_page, message_page, requests_page, shown, shown_again
from agenttune.server.pages.signed_links import Link, find_key, read

logger = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
PREFIX = "/links/"
HOLDER = Author(principal="operator", name="link")
"""Who decides through a link: whoever holds it; nothing is known of them."""


@router.api_route(f"{PREFIX}{{token}}", methods=["GET", "HEAD"])
def show(token: str, context: Ctx) -> Response:
    """The request that a link is for."""
    return _answer(context.control, token, None)


@router.post(f"{PREFIX}{{token}}")
async def decide(token: str, request: Request, context: Ctx) -> Response:
    """Decide on that request, once."""
    try:
        form = await read_form(request)
    except UserError as error:
        return message_page(400, "Nothing was decided", str(error))
    return await run_in_threadpool(_answer, context.control, token, form)


def _answer(control: LocalControl, token: str, form: Form | None) -> Response:
    try:
        key = find_key(control.runs_dir)
        link = None if key is None else read(token, key)
        if link is None:
            return message_page(403, "This link is not valid", "It is incomplete, or was not made by this server.")
        return _for_link(control, link, form)
    except AlreadyDecided as error:
        return message_page(409, "This was decided already", str(error))
    except (UnknownRun, UnknownCommandId):
        return message_page(410, "This request is no longer there")
    except UserError as error:
        return message_page(409, "Nothing was decided", str(error))
    except SystemFault as fault:
        logger.error("a link could not be followed: %s", fault)
        return message_page(503, "This server cannot read the run's log now", "Try again later.")


def _for_link(control: LocalControl, link: Link, form: Form | None) -> Response:
    record = control.command(link.run_id, link.command_id)
    if record.state is not State.PROPOSED or record.request is None:
        return _no_longer(record)
    if record.request.digest != link.digest:
        return message_page(409, "Nothing was decided", "The request is not the one that this link was made for.")
    ends_s = min(link.expires_at_s, record.request.expires_at_s)
    if control.now_s() >= link.expires_at_s or is_over(record.request, control.now()):
        words = f"It worked until {utc_time(ends_s)}. If the request still waits: agenttune approve list."
        return message_page(410, "This link has expired", words)
    info, note = control.info(link.run_id), f"This page works once, until {utc_time(ends_s)}."
    if form is None:
        return requests_page(link.run_id, [shown(control, info, record, record.request)], note)
    try:
        decided = decide_by_form(control, link.run_id, record, form, link.digest, HOLDER)
    except NotDecided as wrong:
        return requests_page(link.run_id, [shown_again(control, info, record, record.request, form, wrong)], note)
    return decided_page(decided, form.verdict)


def _no_longer(record: CommandRecord) -> Response:
    kind, state, verdict = record.proposal.command.kind, record.state, record.verdict
    words = f"{kind} was {verdict.decision} by {verdict.decided_by}." if verdict is not None else ""
    if verdict is not None and state.value not in (State.QUEUED, verdict.decision):
        words += f" It is {state.value} now."
    status = 410 if state in (State.EXPIRED, State.SUPERSEDED) else 409
    return message_page(status, "This no longer waits for a decision", words)
