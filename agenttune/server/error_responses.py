"""One JSON shape for every error: `{"error": {"type", "message", "field", "allowed"}}`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from agenttune import errors
from agenttune.errors import AgenttuneError
from agenttune.protocol.invalid_values import why
from agenttune.server.auth.identity import Identity
from agenttune.server.pages.rendering import message_page

logger = logging.getLogger(__name__)

STATUS: dict[type[AgenttuneError], int] = {
    errors.UnknownRun: 404,
    errors.UnknownCommandId: 404,
    errors.RunEnded: 409,
    errors.AlreadyDecided: 409,
    errors.TooManyProposals: 429,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.CommandIdReused: 409,
    errors.UserError: 422,
    errors.SystemFault: 503,
}
"""HTTP status by error class; the nearest ancestor counts."""
OWNERS_ONLY = "This page is for the person who started the run"
CLOSE_FAULT = 1011
"""WebSocket close code: the server met a fault."""
CLOSE_REASON_BYTES = 120
"""RFC 6455 allows 123 bytes."""


class Problem(BaseModel):
    """What is wrong, where, and what would be right."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    type: str
    message: str
    field: str | None = None
    allowed: Any = None


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: Problem


def problem(
    status: int,
    kind: str,
    message: str,
    field: str | None = None,
    allowed: object = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error answer."""
    body = ErrorBody(error=Problem(type=kind, message=message, field=field, allowed=allowed))
    return Response(body.model_dump_json(), status, dict(headers or {}), "application/json")


def install(app: FastAPI) -> None:
    """Answer every error of an app in the one shape."""
    handlers: dict[type[Exception], Any] = {  # starlette's types know no handler of both HTTP and WebSockets
        AgenttuneError: _on_error,
        HTTPException: _on_http_exception,
        RequestValidationError: _on_invalid,
        WebSocketRequestValidationError: _on_invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _answer(connection: HTTPConnection, response: Response, message: str) -> Response | None:
    """Send the error also where a WebSocket was asked for: as its handshake's answer, or as its close reason.

    Returns:
        What is left to send: starlette sends what a handler returns also to a WebSocket, which has been told by then.
    """
    if isinstance(connection, WebSocket):
        if connection.application_state == WebSocketState.CONNECTING:
            await connection.send_denial_response(response)
        elif connection.application_state == WebSocketState.CONNECTED:
            reason = message.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
            await connection.close(CLOSE_FAULT, reason)
        return None
    return response


def wants_page(scope: Scope) -> bool:
    """Whether a person looks at a page of this server; programs that ask for it get what they get everywhere."""
    is_for_people = not scope["path"].startswith("/api/")
    return scope["type"] == "http" and is_for_people and "text/html" in Headers(scope=scope).get("accept", "")


def problem_of(error: AgenttuneError, as_page: bool = False) -> Response:
    """The answer that an error makes."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if as_page:
        return _page_of(error, status)
    field, allowed = getattr(error, "field", None), getattr(error, "allowed", None)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return problem(status, type(error).__name__, str(error), field, allowed, headers)


def _page_of(error: AgenttuneError, status: int) -> Response:
    if status == 403:  # what to do about roles and tokens is for programs
        words = "Open it with the address that agenttune run has shown; it carries a secret of this run."
        return message_page(status, OWNERS_ONLY, words)
    return message_page(status, OWNERS_ONLY if status == 401 else "This page cannot be shown", str(error))


async def _on_error(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, AgenttuneError):
        raise error
    error = _discreet(error, connection.scope.get("state", {}).get("identity"))
    answer = problem_of(error, wants_page(connection.scope))
    if answer.status_code >= 500:
        logger.error("%s %s: %s", connection.scope.get("method", "WS"), _logged(connection.url.path), error)
    return await _answer(connection, answer, str(error))


def _discreet(error: AgenttuneError, identity: Identity | None) -> AgenttuneError:
    """Errors about runs list others, which a token for some runs is not told of."""
    if identity is None or not identity.runs or not isinstance(error, (errors.UnknownRun, errors.RunEnded)):
        return error
    if isinstance(error, errors.UnknownRun):
        return errors.UnknownRun("no such run among those that this token is for", field=error.field, allowed=[])
    return errors.RunEnded(error.message, field=error.field, allowed=_seen(error.allowed, identity))


def _seen(run_ids: object, identity: Identity) -> list[str]:
    return [name for name in run_ids if identity.sees(name)] if isinstance(run_ids, list) else []


async def _on_http_exception(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, HTTPException):
        raise error
    method, path = connection.scope.get("method", "WS"), connection.url.path
    if error.status_code == 404 and wants_page(connection.scope):
        return message_page(404, "There is no such page", "The runs are at / on this server.")
    if error.status_code == 404:
        return await _answer(
            connection, problem(404, "NotFound", f"no route {path}; see /api/v1/docs"), "no such route"
        )
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        message = f"{method} is not allowed on {path}; allowed: {', '.join(allowed)}"
        return problem(405, "MethodNotAllowed", message, "method", allowed, error.headers)
    return await _answer(
        connection, problem(error.status_code, "UserError", str(error.detail), headers=error.headers), str(error.detail)
    )


async def _on_invalid(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, (RequestValidationError, WebSocketRequestValidationError)):
        raise error
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    where, field = place[0], ".".join(place[1:]) or None
    text = why(first)
    got = "" if first["type"] in ("missing", "value_error") else f" (got {first.get('input')!r:.80})"
    limits: object = {name: value for name, value in first.get("ctx", {}).items() if name != "error"} or None
    if first["type"] == "extra_forbidden" and len(place) == 2:
        limits = _body_fields(connection)
        text = f"unknown field; known here: {', '.join(_body_fields(connection))}"
    message = f"{where} {field or ''}".strip() + f": {text}{got}"
    return await _answer(connection, problem(422, "UserError", message, field, limits), message)


def _body_fields(connection: HTTPConnection) -> list[str]:
    body = getattr(connection.scope.get("route"), "body_field", None)
    return list(getattr(body.field_info.annotation, "model_fields", {})) if body is not None else []


def _logged(path: str) -> str:
    """A path for the server's log. A signed link is a secret: whoever may read that log may not decide."""
    return "/links/..." if path.startswith("/links/") else path


class CrashGuard:
    """ASGI middleware: an unexpected error is logged and answered, and the HTTP connection stays usable."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._stream(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if begun:
                raise
            logger.exception("%s %s failed", scope["method"], _logged(scope["path"]))
            message = "the control server met an unexpected error; its log has the details"
            await problem(500, "InternalError", message)(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket; what goes wrong because its client has left is no news."""
        gone = False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "websocket.disconnect"
            return message

        async def sent(message: Message) -> None:
            nonlocal gone
            try:
                await send(message)
            except OSError:
                gone = True
                raise

        try:
            await self._app(scope, heard, sent)
        except (WebSocketDisconnect, OSError):
            logger.debug("WS %s: its client left", scope["path"])
        except Exception:
            if gone:
                logger.debug("WS %s: its client left", scope["path"], exc_info=True)
                return
            logger.exception("WS %s failed", scope["path"])
            with contextlib.suppress(RuntimeError, OSError):  # it is closed already
                reason = "the control server met an unexpected error"
                await send({"type": "websocket.close", "code": CLOSE_FAULT, "reason": reason})
