"""The application: routes, folded in the checks that every request passes."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from agenttune import __version__
from agenttune.config.sections import check_origins
from agenttune.control import LocalControl, open_files
from agenttune.control.discovery import LOCAL_PREFIX, TOKEN_ENV
from agenttune.control.tokens import TokenBook
from agenttune.server import error_responses
from agenttune.server.auth.guard import SIGNED_PATHS, Guard
from agenttune.server.auth.identity import Access, LocalRole, anonymous
from agenttune.server.auth.rights import PREFIX, authorise
from agenttune.server.connections import Presence
from agenttune.server.context import Context, known_parameters_only
from agenttune.server.error_responses import CrashGuard, ErrorBody
from agenttune.server.live_hub import Hub
from agenttune.server.pages import approval_pages
from agenttune.server.routes import commands, reads, streams
from agenttune.server.strict_bodies import StrictBodies
from agenttune.server.v1_compat import api as v1_api
from agenttune.server.v1_compat.clients import V1Clients
from agenttune.server.v1_compat.events import Translator

METHODS = ("GET", "POST", "DELETE")
HEADERS = ("Authorization", "Content-Type", "Access-Control-Allow-Origin")
"""The last one v1's page sends, where it means to receive it."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 413, 415, 422, 500, 503)
}


def create_app(
    runs_dir: Path,
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    local_role: LocalRole = "agent",
    token_env: str = TOKEN_ENV,
    allowed_origins: Collection[str] = (),
) -> FastAPI:
    """Build the server's application.

    Args:
        runs_dir: The folder of runs.
        token: The owner's bearer token; with it, a request without a token gets no further than `/health`.
        allowed_hosts: Names beside the loopback ones that may stand in the Host header; `*` for any.
        local_role: As whom a request without a token acts, if the owner has none.
        token_env: What the log calls the owner's token.
        allowed_origins: Pages of other servers that may use this one; each is named, and sends no cookies.

    Raises:
        UserError: One of these is no origin.
    """
    origins = check_origins(allowed_origins)
    control = LocalControl(runs_dir)
    app = FastAPI(
        title="agenttune control server",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(authorise)],
    )
    app.state.context = Context(control, Hub(control), Translator(control))
    app.state.pid = os.getpid()
    app.state.v1_clients = V1Clients(control)
    app.state.presence = Presence(open_files.clients_for(open_files.limit()))
    api = APIRouter(prefix=PREFIX, dependencies=[Depends(known_parameters_only)], responses=_ERRORS)
    for part in (reads.router, reads.of_one_run(), commands.router, streams.router):
        api.include_router(part)
    app.include_router(api)
    app.include_router(v1_api.router)
    app.include_router(approval_pages.router)
    app.add_api_websocket_route("/{path:path}", _no_such_stream)  # else refused without a word
    error_responses.install(app)
    app.add_middleware(StrictBodies, judged_by_route={v1_api.COMMAND_PATH}, forms=(SIGNED_PATHS, LOCAL_PREFIX))
    book = TokenBook(runs_dir)
    access = Access(book, token, anonymous(local_role, token is not None), token_env)
    app.add_middleware(Guard, access=access, allowed_hosts=allowed_hosts, allowed_origins=origins)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=METHODS, allow_headers=HEADERS)
    app.add_middleware(CrashGuard)
    app.add_middleware(app.state.presence.middleware)  # the last one added is the outermost
    return app


async def _no_such_stream(socket: WebSocket, path: str) -> None:
    raise HTTPException(404)
