"""A line that a person types."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agenttune.views.terminal.keys import BACKSPACE, CLEAR, CLEAR_WORD

MOST_TYPED = 500


@dataclass(frozen=True)
class Field:
    """A line of text with the cursor at its end.

    Attributes:
        text: What stands there.
        is_offered: Whether that is a proposal of ours, which the first key of a person replaces. Backspace takes it up.
    """

    text: str = ""
    is_offered: bool = False

    def press(self, key: str) -> Field:
        """The line after a key; one that means nothing to it changes nothing."""
        if key == BACKSPACE:
            return Field(self.text[:-1])
        if key == CLEAR:
            return EMPTY
        if key == CLEAR_WORD:
            before, blank, _ = self.text.rstrip().rpartition(" ")
            return Field(before + blank)
        if not key.isprintable():
            return self
        return replace(self, text=(key if self.is_offered else self.text + key)[:MOST_TYPED], is_offered=False)


EMPTY = Field()
