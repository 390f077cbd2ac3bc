"""The pages on which a person decides: one request behind a signed link, and for an operator all that wait in a run.

`GET` shows and decides nothing, however often: chat services and mail filters open every link they see. `POST` decides,
once. An operator is known from the checks that precede every route (`auth/guard.py`): they leave `identity` with the
request. Those checks compare the Origin that a form is sent with, so that page allows itself as its own referrer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.control.discovery import LOCAL_PREFIX
from agenttune.errors import AlreadyDecided, Forbidden, SystemFault, UnknownCommandId, UnknownRun, UserError
from agenttune.gate.approval_description import asks_a_person
from agenttune.protocol.deadlines import is_over
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.text import utc_time
from agenttune.server.auth.guard import SIGNED_PATHS
from agenttune.server.auth.identity import Identity
from agenttune.server.context import Ctx, RunId
from agenttune.server.error_responses import problem_of
from agenttune.server.pages.form import Form, NotDecided, decide_by_form, read_form
from agenttune.server.pages.rendering import PageFrame, decided_page, message_page, requests_page, shown, shown_again
from agenttune.server.pages.signed_links import Link, find_key, read

logger = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
UNDECIDED = "Nothing was decided"


@dataclass(frozen=True)
class Page:
    """What differs between the two pages.

    Attributes:
        author: Who decides on it.
        note: Below a request that is shown again.
    """

    author: Author
    frame: PageFrame
    note: str = ""

    def say(self, status: int, title: str, words: str = "") -> Response:
        return message_page(status, title, words, self.frame)

    def answer(self, look: Callable[[], Response]) -> Response:
        """What `look` finds, or why it refuses."""
        try:
            return look()
        except AlreadyDecided as error:
            return self.say(409, "This was decided already", str(error))
        except UserError as error:
            return self.say(409, UNDECIDED, str(error))

    async def decide(self, request: Request, decide: Callable[[Form], Response]) -> Response:
        """What comes of the form that was sent."""
        try:
            form = await read_form(request)
        except UserError as error:
            return self.say(400, UNDECIDED, str(error))
        return await run_in_threadpool(self.answer, lambda: decide(form))

    def outcome(self, control: LocalControl, run_id: str, record: CommandRecord, form: Form, digest: str) -> Response:
        """Decide; a form that decides nothing is shown again with the reason, if the request still waits as shown."""
        try:
            decided = decide_by_form(control, run_id, record, form, digest, self.author)
        except NotDecided as wrong:
            if record.request is None or record.state is not State.PROPOSED or record.request.digest != digest:
                return self.say(409, UNDECIDED, str(wrong))
            item = shown_again(control, control.info(run_id), record, record.request, form, wrong)
            return requests_page(run_id, [item], self.note, self.frame)
        return decided_page(decided, form.verdict, self.frame)


HOLDERS = Page(Author(principal="operator", name="link"), PageFrame())
"""Behind a link decides whoever holds it; nothing is known of them."""


@router.api_route(f"{SIGNED_PATHS}{{token}}", methods=["GET", "HEAD"])
def show(token: str, context: Ctx) -> Response:
    """The request that a link is for."""
    return HOLDERS.answer(lambda: _follow(context.control, token, None))


@router.post(f"{SIGNED_PATHS}{{token}}")
async def decide(token: str, request: Request, context: Ctx) -> Response:
    """Decide on that request, once."""
    return await HOLDERS.decide(request, lambda form: _follow(context.control, token, form))


def _follow(control: LocalControl, token: str, form: Form | None) -> Response:
    try:
        key = find_key(control.runs_dir)
        link = None if key is None else read(token, key)
        if link is None:
            return HOLDERS.say(403, "This link is not valid", "It is incomplete, or was not made by this server.")
        return _for_link(control, link, form)
    except (UnknownRun, UnknownCommandId):
        return HOLDERS.say(410, "This request is no longer there")
    except SystemFault as fault:
        logger.error("a link could not be followed: %s", fault)
        return HOLDERS.say(503, "This server cannot read the run's log now", "Try again later.")


def _for_link(control: LocalControl, link: Link, form: Form | None) -> Response:
    record = control.command(link.run_id, link.command_id)
    if record.state is not State.PROPOSED or record.request is None:
        return _no_longer(record)
    if record.request.digest != link.digest:
        return HOLDERS.say(409, UNDECIDED, "The request is not the one that this link was made for.")
    ends_s = min(link.expires_at_s, record.request.expires_at_s)
    if control.now_s() >= link.expires_at_s or is_over(record.request, control.now()):
        words = f"It worked until {utc_time(ends_s)}. If the request still waits: agenttune approve list."
        return HOLDERS.say(410, "This link has expired", words)
    page = replace(HOLDERS, note=f"This page works once, until {utc_time(ends_s)}.")
    if form is not None:
        return page.outcome(control, link.run_id, record, form, link.digest)
    asked = shown(control, control.info(link.run_id), record, record.request)
    return requests_page(link.run_id, [asked], page.note)


def _no_longer(record: CommandRecord) -> Response:
    kind, state, verdict = record.proposal.command.kind, record.state, record.verdict
    words = f"{kind} was {verdict.decision} by {verdict.decided_by}." if verdict is not None else ""
    if verdict is not None and state.value not in (State.QUEUED, verdict.decision):
        words += f" It is {state.value} now."
    status = 410 if state in (State.EXPIRED, State.SUPERSEDED) else 409
    return HOLDERS.say(status, "This no longer waits for a decision", words)


@router.api_route(f"{LOCAL_PREFIX}{{run_id}}", methods=["GET", "HEAD"])
async def show_waiting(run_id: RunId, request: Request, context: Ctx) -> Response:
    """All requests of a run that wait for a person."""
    if _operator(request) is None:
        return _refusal()
    return await run_in_threadpool(_waiting, context.control, run_id)


@router.post(f"{LOCAL_PREFIX}{{run_id}}/{{command_id}}")
async def decide_one(run_id: RunId, command_id: str, request: Request, context: Ctx) -> Response:
    """Decide on one of them, as it was shown."""
    author = _operator(request)
    if author is None or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return _refusal()
    page = Page(author, PageFrame(f"../{quote(run_id)}", "same-origin"))

    def as_shown(form: Form) -> Response:
        try:
            record = context.control.command(run_id, command_id)
            return page.outcome(context.control, run_id, record, form, form.digest or "")
        except UnknownCommandId as error:
            return page.say(404, "There is no such request", str(error))

    return await page.decide(request, as_shown)


def _waiting(control: LocalControl, run_id: str) -> Response:
    info = control.info(run_id)
    waiting = [
        shown(control, info, record, request, f"{quote(run_id)}/{record.command_id}")
        for record in control.pending(run_id)
        if asks_a_person(record) and (request := record.request) is not None
    ]
    note = "" if waiting else f"Nothing waits for a decision. The run is {info.status}, at step {info.step}."
    return requests_page(run_id, waiting, note, PageFrame(referrer="same-origin"))


def _operator(request: Request) -> Author | None:
    identity: Identity | None = request.state.identity
    return identity.author() if identity is not None and identity.principal == "operator" else None


def _refusal() -> Response:
    return problem_of(Forbidden("only an operator decides here, from this page itself"), as_page=True)
