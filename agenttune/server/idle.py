"""Is anybody there? What a server that ends by itself needs to know."""

from __future__ import annotations

import time
from collections.abc import Callable

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
        """Start counting anew: there is another reason to stay."""
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
