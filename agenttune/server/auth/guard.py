"""Who talks to the server: checks of Host, Origin, bearer token and cookie before any route runs."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from agenttune.control.discovery import HEALTH_PATH, TOKEN_ENV
from agenttune.dashboard.static_files import is_open
from agenttune.errors import AgenttuneError, Unauthorized
from agenttune.server.auth.cookie_link import by_cookie, carries_key, exchange
from agenttune.server.auth.identity import Access, Identity
from agenttune.server.error_responses import problem, problem_of, wants_page

logger = logging.getLogger(__name__)

ANY_HOST = "*"
SIGNED_PATHS = "/links/"
"""Beginning of paths that carry their own proof, which names the one thing that it lets its holder do. Who does not
know it gains nothing by another Host or Origin; and a form on a page that sends no referrer has the Origin `null`."""
SIGN_IN_PATHS = ("/api/v1/me", "/api/v1/session")
"""A page asks first who it is, and must be told that it is nobody, and let sign in."""
POLICY_VIOLATION = 1008
"""WebSocket close code (RFC 6455)."""
SAYING = frozenset({"http.response.body", "websocket.accept", "websocket.send"})
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
    """ASGI middleware: refuses foreign hosts (DNS rebinding) and foreign origins (other pages), and finds out who asks.

    What it found is in `scope["state"]["identity"]`: an `Identity`, or None where only what is for anybody answers.

    Args:
        app: What is guarded.
        access: Whose the tokens are.
        allowed_hosts: Host names that may stand in the Host header beside loopback ones; `*` for any, for a server
            that is bound to all addresses and protected by its tokens.
        allowed_origins: Pages of other servers that may use this one. No cookie counts that comes from them.
    """

    def __init__(
        self, app: ASGIApp, access: Access, allowed_hosts: Collection[str], allowed_origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._origins = frozenset(allowed_origins)
        self._access = access
        self._hosts = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"].startswith(SIGNED_PATHS):
            await self._app(scope, receive, send)
            return
        answer = await self._answer(scope)
        if answer is None:
            await self._app(scope, receive, self._while_it_counts(scope, receive, send))
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response | None:
        """An answer that needs no route: a refusal, or a cookie for a key. Else notes who asks."""
        headers = Headers(scope=scope)
        refusal = self._refuse_place(headers)
        if refusal is not None:
            return refusal
        try:
            if carries_key(scope):  # it may wait for the lock of the folder's tokens
                return await run_in_threadpool(exchange, scope, self._access)
            scope.setdefault("state", {})["identity"] = self._identify(scope, headers)
        except AgenttuneError as error:
            return problem_of(error, wants_page(scope))
        return None

    def _identify(self, scope: Scope, headers: Headers) -> Identity | None:
        """Who asks. A token that does not count is not as good as none: its holder is told.

        Raises:
            Unauthorized: The token does not count, or there is none and one is wanted.
        """
        offers = _offers(headers, scope.get("subprotocols", []))
        if offers:
            identity = next(filter(None, map(self._access.of, offers)), None)
        else:
            is_others = self._is_of_other_page(headers) or _is_sent_by_other_page(scope, headers)
            identity = (None if is_others else by_cookie(scope, self._access)) or self._access.anonymous
        if identity is None and not _is_for_anybody(scope["path"]):
            raise _unauthorized(bool(offers))
        return identity

    def _while_it_counts(self, scope: Scope, receive: Receive, send: Send) -> Send:
        """`send`, which says no more to a follower or a long wait once its token is revoked or has expired."""
        identity: Identity | None = scope["state"]["identity"]
        if identity is None or not identity.token_id or scope.get("method", "GET") != "GET":
            return send
        if is_open(scope["path"]):  # a page that loads its parts while its token ends goes on without it
            return send
        ended = False
        head: Message | None = None

        async def checked(message: Message) -> None:
            # The head waits for the first of the body: between the two the token may end, and a head without the
            # body that it announces is an answer cut off.
            nonlocal ended, head
            if ended:
                return
            if message["type"] == "http.response.start":
                head = message
                return
            if message["type"] not in SAYING or self._holds(identity):
                if head is not None:
                    await send(head)
                    head = None
                await send(message)
                return
            ended = True
            if head is not None:
                await problem_of(_unauthorized(True))(scope, receive, send)
                return
            if message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b""})
            else:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "the token has ended"})

        return checked

    def _holds(self, identity: Identity) -> bool:
        try:
            return self._access.holds(identity)
        except AgenttuneError as error:
            logger.error("%s", error)
            return False

    def _refuse_place(self, headers: Headers) -> Response | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            message = f"the Host header {', '.join(hosts)[:200]!r} is not this server; use its own address"
            return problem(403, "Forbidden", message, "Host", sorted({"localhost", "127.0.0.1", *self._hosts}))
        own = _own_origins(hosts[0])
        if any(origin.lower() not in (*own, *self._origins) for origin in origins):
            message = (
                f"pages of {', '.join(origins)[:200]!r} may not use this server; if they shall, name their origin in "
                "server.allowed_origins"
            )
            return problem(403, "Forbidden", message, "Origin", [*own, *sorted(self._origins)])
        return None

    def _is_of_other_page(self, headers: Headers) -> bool:
        """Whether it comes from a page that is allowed in, but none of ours: ours alone act by cookie."""
        own = _own_origins(headers["host"])
        return any(origin.lower() not in own for origin in headers.getlist("origin"))

    def _is_own(self, host: str) -> bool:
        name = host.lower()
        if name.rpartition(":")[2].isdigit() and not name.endswith("]"):
            name = name.rpartition(":")[0]
        return is_loopback(name) or name.strip("[]") in self._hosts or ANY_HOST in self._hosts


def _is_sent_by_other_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser says that another page has it ask for data, as an image or a script of that page's.

    Pages of other ports of this machine are of the same site, so that the browser sends the cookie along. A page that
    is opened by a link of theirs, in `/local/`, is another matter: whoever follows it sees where they are.
    """
    is_data = scope["path"].startswith("/api/")
    return is_data and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _is_for_anybody(path: str) -> bool:
    """Whether a path tells nothing of any run: that there is a server, who asks, and the page without its content."""
    return path in (HEALTH_PATH, *SIGN_IN_PATHS) or is_open(path)


def _own_origins(host: str) -> tuple[str, str]:
    return f"http://{host}".lower(), f"https://{host}".lower()


def _offers(headers: Headers, subprotocols: Sequence[str]) -> list[str]:
    """The tokens that a request carries."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    offers = [given.strip()] if scheme.lower() == "bearer" else []
    return offers + [p.removeprefix(SUBPROTOCOL_PREFIX) for p in subprotocols if p.startswith(SUBPROTOCOL_PREFIX)]


def chosen_subprotocol(connection: HTTPConnection) -> str | None:
    """A browser wants one of the subprotocols that it offered; better one that is not the token."""
    offered: list[str] = connection.scope.get("subprotocols", [])
    plain = [p for p in offered if not p.startswith(SUBPROTOCOL_PREFIX)]
    return next(iter([*plain, *offered]), None)


def _unauthorized(is_given: bool) -> Unauthorized:
    """Says nothing of why a token does not count: whoever guesses learns nothing."""
    problem = "this token does not count (any longer)" if is_given else "this server wants a token"
    return Unauthorized(
        f"{problem}: send 'Authorization: Bearer <token>', with the server's own ({TOKEN_ENV} where it was started) or "
        "one of: agenttune token create --role ROLE --name NAME",
        field="Authorization",
    )
