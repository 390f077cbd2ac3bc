"""The clients of now: how many there are, and those that do not go on.

uvicorn limits how long a connection may be idle after an answer; one that never says its request to the end, byte by
byte or not at all, it keeps for ever, and each takes a file descriptor and a place among those served at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from agenttune.server.error_responses import problem

TRY_AGAIN_LATER = 1013
"""WebSocket close code of the IANA registry."""


class Presence:
    """Counts the requests and live clients of now, and remembers when the last one left.

    Args:
        most: Requests and live clients at once; further ones are told to come back later.
        clock: Monotonic time in seconds.
    """

    def __init__(self, most: int = 2**31, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = most
        self._active = 0
        self._quiet_since = clock()

    def quiet_s(self) -> float:
        """Seconds without any client; 0 while one is here."""
        return 0.0 if self._active else self._clock() - self._quiet_since

    def touch(self) -> None:
        """Begin to count the quiet time again."""
        self._quiet_since = self._clock()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app, with its clients counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            if self._active >= self._most:
                await _turn_away(scope, receive, send, self._most)
                return
            self._active += 1
            try:
                await app(scope, receive, send)
            finally:
                self._active -= 1
                self.touch()

        return counted


async def _turn_away(scope: Scope, receive: Receive, send: Send, most: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "too many clients"})
        return
    message = f"the control server has {most} requests and live clients, as many as it can have open; ask again later"
    await problem(503, "SystemFault", message, headers={"Retry-After": "1"})(scope, receive, send)


LOOKS = 4
"""Looks per limit."""
MIN_LOOK_S, MAX_LOOK_S = 0.05, 1.0
Mark = tuple[Any, ...]
"""How a connection stands; while it is the same, its client has not gone on."""


class ClientPatience:
    """Ends connections of clients that do not go on.

    Args:
        limit_s: For a whole request, and for taking in some more of an answer.
        clock_s: Monotonic time in seconds.
    """

    def __init__(self, limit_s: float, clock_s: Callable[[], float]) -> None:
        self._limit_s, self._clock_s = limit_s, clock_s
        self._since: dict[Any, tuple[Mark, float]] = {}

    async def watch(self, connections: Iterable[Any]) -> None:
        """Look after uvicorn's connections, for ever."""
        while True:
            self.look(list(connections))
            await asyncio.sleep(min(max(self._limit_s / LOOKS, MIN_LOOK_S), MAX_LOOK_S))

    def look(self, connections: Iterable[Any]) -> None:
        """End those that stand as they stood `limit_s` ago, and wait for their client."""
        now_s, before, self._since = self._clock_s(), self._since, {}
        for connection in connections:
            mark = _mark(connection)
            if mark is None:
                continue
            known, since_s = before.get(connection, (None, now_s))
            since_s = since_s if known == mark else now_s
            self._since[connection] = mark, since_s
            if now_s - since_s > self._limit_s:
                connection.transport.abort()


def _mark(connection: Any) -> Mark | None:
    """None while it waits for us, and for a WebSocket, whose own pings find out whether its client is there."""
    if not hasattr(connection, "cycle") or connection.transport is None:
        return None
    cycle = connection.cycle  # a new object for each request whose headers are complete
    if cycle is None or cycle.response_complete or cycle.more_body:
        return ("request", id(cycle))
    unsent = connection.transport.get_write_buffer_size()
    return ("answer", id(cycle), unsent) if unsent else None
