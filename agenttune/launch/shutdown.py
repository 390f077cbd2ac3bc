"""Ctrl-C and SIGTERM: the trainer is asked to stop, then told, then killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

ASK_S = 60.0
"""A checkpoint of a large model on a slow disk takes tens of seconds (a guess)."""
TERM_S = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of dying from them, while it is entered."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        self.count += 1

    @property
    def exit_code(self) -> int:
        """What a shell expects: 128 and the signal's number."""
        return 128 + (self.first or signal.SIGINT)


class Stopping:
    """Ends the training process: asks first, kills at the second interrupt, and loses patience by itself.

    Args:
        send: Sends a signal to the training process.
        ask: Asks the trainer to stop and keep a checkpoint; returns what to tell the user, and whether it was taken.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        send: Callable[[signal.Signals], None],
        ask: Callable[[], tuple[str, bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._ask, self._clock = send, ask, clock
        self._sent: signal.Signals | None = None
        self._asked = False
        self._deadline_s = 0.0
        self.forced = ""
        """Why the process had to be ended, if it had to be."""

    def step(self, interrupts: int) -> str:
        """Do what is due, given how often the user has interrupted; what to tell the user, mostly nothing."""
        if interrupts == 0 or self._sent is signal.SIGKILL:
            return ""
        if interrupts > 1:
            return self._force(signal.SIGKILL, "killed at the second interrupt")
        if not self._asked:
            return self._ask_once()
        if self._clock() < self._deadline_s:
            return ""
        if self._sent is None:
            return self._force(signal.SIGTERM, f"it did not stop within {ASK_S:.0f} s")
        return self._force(signal.SIGKILL, f"it did not end within {TERM_S:.0f} s of SIGTERM")

    def _ask_once(self) -> str:
        self._asked = True
        words, taken = self._ask()
        if not taken:
            return self._force(signal.SIGTERM, words)
        self._deadline_s = self._clock() + ASK_S
        return f"{words} (Ctrl-C again kills it)"

    def _force(self, number: signal.Signals, why: str) -> str:
        self._sent = number
        self._deadline_s = self._clock() + TERM_S
        self.forced = why
        self._send(number)
        return f"{number.name} sent to the training process: {why}"
