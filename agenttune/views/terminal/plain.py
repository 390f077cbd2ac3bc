"""A run as plain lines, for logs and pipes: one line an event, no control codes."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from agenttune.protocol.text import clean, duration, number
from agenttune.views.event_lines import EventLine
from agenttune.views.terminal.run_feed import RunFeed, RunSnapshot

PROGRESS_EVERY_S = 10.0
LOOKING_S = 0.25


class PlainLines:
    """Prints each event once and a progress line every ten seconds.

    Args:
        console: Where to print.
        feed: The run.
        subject: What runs.
        url: Of the control server.
        clock: Unix time in seconds.
    """

    def __init__(
        self, console: Console, feed: RunFeed, subject: str, url: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._console = console
        self._feed = feed
        self._clock = clock
        self._progress_at_s = clock()
        self._print(f"run {feed.now.info.run_id}: {subject}")
        self._print(f"control server {url}")

    @property
    def patience_s(self) -> float:
        """How long to wait before the next refresh."""
        return LOOKING_S

    def refresh(self) -> None:
        for line in self._feed.read():
            self._print(plain_line(line))
        if self._clock() - self._progress_at_s >= PROGRESS_EVERY_S:
            self._progress_at_s = self._clock()
            self._print(progress_words(self._feed.now, self._clock()))

    def notice(self, text: str) -> None:
        self._print(f"agenttune: {text}")

    def close(self) -> None:
        try:
            self.refresh()
            for line in self._feed.rest():
                self._print(plain_line(line))
        finally:
            self._feed.close()

    def _print(self, text: str) -> None:
        self._console.print(Text(clean(text, 1000)), soft_wrap=True, highlight=False)


def plain_line(line: EventLine) -> str:
    """Such as `14:03:11 step 61 applied: lr 0.5 -> 0.05`."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.at_s))
    step = f" step {line.step}" if line.step else ""
    return f"{clock}{step} {line.mark}: {line.text}"


def progress_words(now: RunSnapshot, at_s: float) -> str:
    """Step, speed, time left, loss and rate in one line; before the first step, what is waited for and how long."""
    if not now.info.step:
        return f"waiting for the first step, {duration(max(0.0, at_s - now.info.created_at_s))} since the start"
    of = "" if now.info.max_steps is None else f"/{now.info.max_steps}"
    words = [f"step {now.info.step}{of}"]
    if now.steps_per_s:
        words.append(f"{now.steps_per_s:.3g} steps/s")
    if now.seconds_left is not None:
        words.append(f"{duration(now.seconds_left)} left")
    if now.loss is not None:
        words.append(f"loss {number(now.loss.value)}")
    if now.lr is not None:
        words.append(f"lr {number(now.lr)}")
    return ", ".join(words)
