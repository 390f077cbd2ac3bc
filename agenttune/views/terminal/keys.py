"""Keys that a person presses while the live view is on the screen, and the line that they type."""

from __future__ import annotations

import codecs
import os
import re
import select
import sys
import termios
from dataclasses import dataclass, replace
from typing import Any, TextIO

ESCAPE, ENTER, BACKSPACE = "\x1b", "\n", "\x7f"
CLEAR, CLEAR_WORD = "\x15", "\x17"
"""Ctrl-U and Ctrl-W, as in every shell."""
SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.)")
"""What arrow and function keys send (ECMA-48, control sequences, and the SS3 form of the VT100)."""
MOST_BYTES = 4096
MOST_TYPED = 500
"""Characters of a line."""
LOCAL_FLAGS = 3
"""Index of the local flags in what `termios.tcgetattr` gives."""


class Keys:
    """Reads single keys without waiting; gives the terminal back as it was.

    Args:
        terminal: Where the keys come from.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._fd = terminal.fileno()
        self._before = termios.tcgetattr(self._fd)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> str:
        """The keys pressed since the last call, without arrow and function keys; none while in the background."""
        if not self._is_foreground():
            return ""  # touching the terminal would stop the process
        self._single()
        if not select.select([self._fd], [], [], 0)[0]:
            return ""
        try:
            typed = self._decoder.decode(os.read(self._fd, MOST_BYTES))
        except OSError:  # the terminal is gone; the run goes on
            return ""
        return SEQUENCE.sub("", typed).replace("\r", ENTER).replace("\b", BACKSPACE)

    def close(self) -> None:
        """Give the terminal back."""
        if self._is_foreground():
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def _is_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def _single(self) -> None:
        """Keys one by one and unechoed, also after the shell had the terminal for a while; Ctrl-C stays a signal."""
        now: list[Any] = termios.tcgetattr(self._fd)
        wanted = now[LOCAL_FLAGS] & ~(termios.ICANON | termios.ECHO)
        if now[LOCAL_FLAGS] != wanted:
            termios.tcsetattr(self._fd, termios.TCSANOW, [*now[:LOCAL_FLAGS], wanted, *now[LOCAL_FLAGS + 1 :]])


class NoKeys:
    """Input that is no terminal: there are no keys."""

    def read(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing to give back."""


def keys_of(terminal: TextIO | None = None) -> Keys | NoKeys:
    """The keys of standard input, if it is a terminal."""
    terminal = sys.stdin if terminal is None else terminal
    try:
        return Keys(terminal) if terminal is not None and terminal.isatty() else NoKeys()
    except (OSError, ValueError, termios.error):
        return NoKeys()


@dataclass(frozen=True)
class TextField:
    """A line of text with the cursor at its end.

    Attributes:
        text: What stands there.
        is_offered: Whether that is a proposal of ours, which the first key of a person replaces. Backspace takes it up.
    """

    text: str = ""
    is_offered: bool = False

    def press(self, key: str) -> TextField:
        """The line after a key; keys without a meaning here are ignored."""
        if key == BACKSPACE:
            return TextField(self.text[:-1])
        if key == CLEAR:
            return EMPTY
        if key == CLEAR_WORD:
            before, blank, _ = self.text.rstrip().rpartition(" ")
            return TextField(before + blank)
        if not key.isprintable():
            return self
        return replace(self, text=(key if self.is_offered else self.text + key)[:MOST_TYPED], is_offered=False)


EMPTY = TextField()
