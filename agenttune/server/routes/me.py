"""The routes by which a page learns who looks at it and what that one may do, and signs them in and out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.server.auth.cookie_link import end_session, session_cookie, set_session
from agenttune.server.auth.identity import Access, Identity
from agenttune.server.auth.rights import ROLES, Right
from agenttune.server.request_context import json_response
from agenttune.server.schemas import KindRight, Me, SignIn

router = APIRouter()
SIGNED_OUT = "You are no longer signed in: `agenttune open` gives a link that signs you in again."


@router.get("/me", response_model=Me)
def me(request: Request) -> Response:
    """Who asks, and what that one may do; of what is not allowed, why not."""
    told = me_of(request.state.identity)
    if told.via != "cookie" and session_cookie(request.headers["host"]) in request.cookies:
        told = told.model_copy(update={"notice": SIGNED_OUT})
    return json_response(told)


@router.post("/session", response_model=Me)
async def sign_in(request: Request, body: SignIn) -> Response:
    """Sign a browser in with a token, or with the key of a link: from then on it sends a cookie."""
    access: Access = request.app.state.access
    known = access.of(body.token)
    text, identity = (body.token, known) if known else await run_in_threadpool(access.exchange, body.token)
    answer = json_response(me_of(identity.by_cookie()))
    set_session(answer, request.scope, text)
    return answer


@router.delete("/session", response_model=Me)
async def sign_out(request: Request) -> Response:
    """Have the browser forget its cookie. `agenttune token revoke` also makes it worthless."""
    access: Access = request.app.state.access
    answer = json_response(me_of(access.anonymous))
    end_session(answer, request.scope)
    return answer


def me_of(identity: Identity | None) -> Me:
    """An identity as a page is told of it."""
    has = frozenset[Right]({Right.OPEN}) if identity is None else ROLES[identity.principal]
    why_not = {right: _why_not(right, identity) for right in Right if right not in has}
    kind = KindRight(allowed=Right.PROPOSE in has, why_not=why_not.get(Right.PROPOSE, ""))
    return Me(
        role=None if identity is None else identity.principal,
        name="" if identity is None else identity.name,
        via="none" if identity is None else identity.by,
        token="" if identity is None else identity.via,
        runs=[] if identity is None else list(identity.runs),
        rights={right.name.lower(): right in has for right in Right},
        why_not={right.name.lower(): why for right, why in why_not.items()},
        commands=dict.fromkeys(COMMAND_KINDS, kind),
    )


def _why_not(right: Right, identity: Identity | None) -> str:
    able = " or ".join(role for role, rights in ROLES.items() if right in rights)
    if identity is None:
        who = "nobody is signed in here"
    elif identity.by == "local":
        who = f"whoever is not signed in acts as {identity.principal}"
    else:
        who = f"you are signed in as {identity.principal}"
    return f"To {right.value}, the role {able} is wanted; {who}. `agenttune open` signs you in as operator."
