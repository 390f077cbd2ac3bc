"""Is anybody there? What a server that ends by itself needs to know."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class Presence:
    """Counts the requests and live clients of now, and remembers when the last one left.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
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
            self._active += 1
            try:
                await app(scope, receive, send)
            finally:
                self._active -= 1
                self.touch()

        return counted
