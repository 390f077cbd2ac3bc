"""What an agent says at every look is told once, and then counted: in live views, the log keeps it all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from agenttune.views.event_lines import EventLine

SAID = frozenset({"held", "unusable", "model"})
"""Marks of what an agent says of a look that led to nothing, or not to all that it asked for."""
ENDING = SAID | {"decided", "policy"}
"""Marks of lines that end a repetition; what else happens in between does not."""
SECONDS = re.compile(r"\d[\d.,]*(?= ?(s|min|h)\b)")


class RepeatedLines:
    """Leaves out lines that only repeat what the agent said last, but for a number of seconds."""

    def __init__(self) -> None:
        self._said: tuple[str, str] | None = None
        self._newest: EventLine | None = None
        self._count = 0

    def told(self, lines: Iterable[EventLine]) -> list[EventLine]:
        """Those that are to be shown, each after the count of what it ends."""
        return [line for one in lines for line in self._take(one)]

    def rest(self) -> list[EventLine]:
        """The count of what was left out so far, if anything was."""
        newest, count = self._newest, self._count
        self._newest, self._count = None, 0
        return [] if newest is None else [replace(newest, text=f"({count} time{'s' * (count != 1)} more)")]

    def _take(self, line: EventLine) -> list[EventLine]:
        if line.mark not in ENDING:
            return [line]
        said = (line.mark, SECONDS.sub("", line.text)) if line.mark in SAID else None
        if said is not None and said == self._said:
            self._newest, self._count = line, self._count + 1
            return []
        self._said = said
        return [*self.rest(), line]
