"""A server's log that does not grow without end: what is said over and over is said a few times a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PER_MINUTE = 10
"""Records from one line of code (guess: enough to see what is wrong)."""
WINDOW_S = 60.0
MOST_LINES = 1000
"""Lines of code that are remembered."""


class Repeats(logging.Filter):
    """Lets the first few records a minute from each line of code pass, and tells how many it kept back.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line = (record.pathname, record.lineno)
        began_s, count = self._seen.get(line, (self._clock(), 0))
        if self._clock() - began_s >= WINDOW_S:
            if count > PER_MINUTE:
                record.msg, record.args = f"{record.getMessage()} ({count - PER_MINUTE} more like it left out)", ()
            began_s, count = self._clock(), 0
        if line not in self._seen and len(self._seen) >= MOST_LINES:
            self._seen.clear()
        self._seen[line] = (began_s, count + 1)
        return count < PER_MINUTE


CLIENTS_FAULTS = ("Invalid UTF-8 sequence received", "ASGI callable returned without completing handshake")
"""What uvicorn reports as errors, with a traceback, where a WebSocket's client asks wrongly or is refused."""


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of uvicorn's is about us; our own failures are told where they are met."""
    return not record.getMessage().startswith(CLIENTS_FAULTS)
