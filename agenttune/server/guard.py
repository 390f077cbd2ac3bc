"""Who may talk to the server: checks of Host, Origin and bearer token before any route runs."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from agenttune.server.problems import problem
from agenttune.serving import HEALTH_PATH, TOKEN_ENV

ANY_HOST = "*"
SIGNED_PATHS = "/links/"
"""Beginning of paths that carry their own proof, which names the one thing that it lets its holder do. Who does not
know it gains nothing by another Host or Origin; and a form on a page that sends no referrer has the Origin `null`."""
SUBPROTOCOL_PREFIX = "bearer."
"""A browser cannot set headers on a WebSocket; it names the token as a subprotocol, `bearer.<token>`."""


def is_loopback(host: str) -> bool:
    """Whether a name or address (without port) always means this machine."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses foreign hosts (DNS rebinding), foreign origins (other pages) and missing tokens.

    Args:
        app: What is guarded.
        token: The bearer token; None lets every local program in.
        allowed_hosts: Host names that may stand in the Host header beside loopback ones; `*` for any, for a server
            that is bound to all addresses and protected by its token.
    """

    def __init__(self, app: ASGIApp, token: str | None, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"].startswith(SIGNED_PATHS):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = self._token is None or self._has_token(headers, scope.get("subprotocols", []))
        refusal = self._refuse_place(headers)
        if refusal is None and not known and scope["path"] != HEALTH_PATH:
            refusal = _unauthorized()
        if refusal is None:
            scope.setdefault("state", {})["authorized"] = known
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await refusal(scope, receive, send)

    def _refuse_place(self, headers: Headers) -> Response | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            message = f"the Host header {', '.join(hosts)[:200]!r} is not this server; use its own address"
            return problem(403, "Forbidden", message, "Host", sorted({"localhost", "127.0.0.1", *self._hosts}))
        own = (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
        if any(origin.lower() not in own for origin in origins):
            message = f"pages of {', '.join(origins)[:200]!r} may not use this server"
            return problem(403, "Forbidden", message, "Origin", list(own))
        return None

    def _is_own(self, host: str) -> bool:
        name = host.lower()
        if name.rpartition(":")[2].isdigit() and not name.endswith("]"):
            name = name.rpartition(":")[0]
        return is_loopback(name) or name.strip("[]") in self._hosts or ANY_HOST in self._hosts

    def _has_token(self, headers: Headers, subprotocols: Sequence[str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offers = [given.strip()] if scheme.lower() == "bearer" else []
        offers += [p.removeprefix(SUBPROTOCOL_PREFIX) for p in subprotocols if p.startswith(SUBPROTOCOL_PREFIX)]
        token = (self._token or "").encode()
        return any(hmac.compare_digest(offer.encode("utf-8", "replace"), token) for offer in offers)


def chosen_subprotocol(connection: HTTPConnection) -> str | None:
    """A browser wants one of the subprotocols that it offered; better one that is not the token."""
    offered: list[str] = connection.scope.get("subprotocols", [])
    plain = [p for p in offered if not p.startswith(SUBPROTOCOL_PREFIX)]
    return next(iter([*plain, *offered]), None)


def _unauthorized() -> Response:
    message = f"this server wants its token: send 'Authorization: Bearer <token>' (the server's {TOKEN_ENV})"
    return problem(401, "Unauthorized", message, "Authorization", headers={"WWW-Authenticate": "Bearer"})
