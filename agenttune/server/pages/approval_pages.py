"""The pages on which a person decides: one request behind a signed link, and for an operator all that wait in a run.

Behind a link stands the dashboard's own card where it is built (`routes/links.py` has its data); the page of here is
for browsers without scripts, and for where it is not. `GET` shows and decides nothing, however often: chat services and
mail filters open every link they see. `POST` decides, once. An operator is known from the checks that precede every
route (`auth/guard.py`): they leave `identity` with the request. Those checks compare the Origin that a form is sent
with, so that page allows itself as its own referrer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.control import LocalControl
from agenttune.control.discovery import LOCAL_PREFIX
from agenttune.dashboard.static_files import link_document
from agenttune.errors import AlreadyDecided, Forbidden, UnknownCommandId, UserError
from agenttune.gate.approval_description import asks_a_person
from agenttune.protocol.proposals import Author, CommandRecord, State
from agenttune.protocol.text import utc_time
from agenttune.server.auth.guard import SIGNED_PATHS
from agenttune.server.auth.identity import Identity
from agenttune.server.error_responses import problem_of
from agenttune.server.pages.form import Form, NotDecided, decide_by_form, read_form
from agenttune.server.pages.rendering import PageFrame, decided_page, message_page, requests_page, shown, shown_again
from agenttune.server.pages.signed_links import HOLDER, UNDECIDED, FollowedLink, LinkRefused, follow
from agenttune.server.request_context import Ctx, RunId

router = APIRouter(include_in_schema=False)
PLAIN = "plain"
"""In the query of a link: the page without scripts."""


@dataclass(frozen=True)
class PageKind:
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
        except LinkRefused as refused:
            return self.say(refused.status, refused.title, refused.words)
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


HOLDERS = PageKind(HOLDER, PageFrame())


@router.api_route(f"{SIGNED_PATHS}{{token}}", methods=["GET", "HEAD"])
def show(token: str, request: Request, context: Ctx) -> Response:
    """The request that a link is for: the dashboard's card, or the form without scripts."""
    control = context.control

    def look(link: FollowedLink) -> Response:
        document = None if PLAIN in request.query_params else link_document(context.built)
        if document is not None:
            return document
        asked = shown(control, control.info(link.run_id), link.record, link.request)
        return requests_page(link.run_id, [asked], _note(link))

    return HOLDERS.answer(lambda: follow(control, token, look))


@router.post(f"{SIGNED_PATHS}{{token}}")
async def decide(token: str, request: Request, context: Ctx) -> Response:
    """Decide on that request by the form, once."""
    control = context.control

    def as_told(form: Form) -> Response:
        return follow(control, token, lambda link: _decide(control, link, form))

    return await HOLDERS.decide(request, as_told)


def _decide(control: LocalControl, link: FollowedLink, form: Form) -> Response:
    page = replace(HOLDERS, note=_note(link))
    return page.outcome(control, link.run_id, link.record, form, link.digest)


def _note(link: FollowedLink) -> str:
    return f"This page works once, until {utc_time(link.ends_s)}."


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
    page = PageKind(author, PageFrame(f"../{quote(run_id)}", "same-origin"))

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
