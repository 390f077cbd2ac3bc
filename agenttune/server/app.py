"""The application: routes, folded in the checks that every request passes."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agenttune import __version__
from agenttune.config.sections import check_origins
from agenttune.control import LocalControl, open_files
from agenttune.control.discovery import LOCAL_PREFIX, TOKEN_ENV
from agenttune.control.tokens import TokenBook
from agenttune.dashboard.build import BUILT
from agenttune.dashboard.static_files import page_routes
from agenttune.protocol.reads import QUERIES, RunQuery
from agenttune.server import error_responses
from agenttune.server.auth.guard import SIGNED_PATHS, Guard
from agenttune.server.auth.identity import Access, LocalRole, anonymous
from agenttune.server.auth.rights import PREFIX, authorise
from agenttune.server.connections import Presence
from agenttune.server.error_responses import CrashGuard, ErrorBody
from agenttune.server.live_hub import Hub
from agenttune.server.pages import api_page, approval_pages
from agenttune.server.request_context import Context, known_parameters_only
from agenttune.server.routes import commands, exports, links, me, reads, streams
from agenttune.server.strict_bodies import StrictBodies
from agenttune.server.v1_compat import api as v1_api
from agenttune.server.v1_compat.clients import V1Clients
from agenttune.server.v1_compat.events import Translator

METHODS = ("GET", "POST", "DELETE")
HEADERS = ("Authorization", "Content-Type", "Access-Control-Allow-Origin")
"""The last one v1's page sends, where it means to receive it."""
FORMS = re.compile(f"{re.escape(SIGNED_PATHS)}[^/]*|{re.escape(LOCAL_PREFIX)}.*")
"""Paths that take forms of HTML."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 413, 415, 422, 500, 503)
}
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
"""Where an answer says nothing of its own. Data is opened as a page only by mistake or in bad faith."""
NOT_MODIFIED = 304
"""Such an answer's headers take the place of those that a browser keeps with the page."""


def create_app(
    runs_dir: Path,
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    local_role: LocalRole = "agent",
    token_env: str = TOKEN_ENV,
    allowed_origins: Collection[str] = (),
    built: Path = BUILT,
) -> FastAPI:
    """Build the server's application.

    Args:
        runs_dir: The folder of runs.
        token: The owner's bearer token; with it, a request without a token gets no further than `/health`.
        allowed_hosts: Names beside the loopback ones that may stand in the Host header; `*` for any.
        local_role: As whom a request without a token acts, if the owner has none.
        token_env: What the log calls the owner's token.
        allowed_origins: Pages of other servers that may use this one; each is named, and sends no cookies.
        built: The folder of the built dashboard.

    Raises:
        UserError: One of these is no origin.
    """
    origins = check_origins(allowed_origins)
    control = LocalControl(runs_dir)
    app = FastAPI(
        title="agenttune control server",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(authorise)],
    )
    app.state.context = Context(control, Hub(control), Translator(control), built)
    app.state.pid = os.getpid()
    app.state.v1_clients = V1Clients(control)
    app.state.presence = Presence(open_files.clients_for(open_files.limit()))
    app.router.routes.extend(_shared_routes(tuple(QUERIES)))
    app.include_router(page_routes(built))
    app.add_api_websocket_route("/{path:path}", _no_such_stream)  # else refused without a word
    error_responses.install(app)
    app.add_middleware(StrictBodies, judged_by_route={v1_api.COMMAND_PATH}, forms=FORMS)
    book = TokenBook(runs_dir)
    access = Access(book, token, anonymous(local_role, token is not None), token_env)
    app.state.access = access
    app.add_middleware(Guard, access=access, allowed_hosts=allowed_hosts, allowed_origins=origins)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=METHODS, allow_headers=HEADERS)
    app.add_middleware(CrashGuard)
    app.add_middleware(SafeHeaders)
    app.add_middleware(app.state.presence.middleware)  # the last one added is the outermost
    return app


@functools.cache
def _shared_routes(queries: tuple[type[RunQuery[Any]], ...]) -> list[BaseRoute]:
    """Those of every application with these reads: looking at them, which takes 0.2 s, is done once a process."""
    shared = APIRouter(dependencies=[Depends(authorise)], redirect_slashes=False)
    first, then = (reads.router, me.router, api_page.router), (exports.router, commands.router, streams.router)
    for part in (*first, reads.of_one_run(queries), *then):
        shared.include_router(part, prefix=PREFIX, dependencies=[Depends(known_parameters_only)], responses=_ERRORS)
    shared.include_router(v1_api.router)
    shared.include_router(approval_pages.router)
    shared.include_router(links.router, dependencies=[Depends(known_parameters_only)], responses=_ERRORS)
    return shared.routes


async def _no_such_stream(socket: WebSocket, path: str) -> None:
    raise HTTPException(404)


class SafeHeaders:
    """ASGI middleware: adds `SAFE` to answers that lack them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if (
                message["type"] in ("http.response.start", "websocket.http.response.start")
                and message["status"] != NOT_MODIFIED
            ):
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sent if scope["type"] in ("http", "websocket") else send)
