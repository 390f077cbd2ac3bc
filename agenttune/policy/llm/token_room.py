"""How long a text is in tokens, and which lines of several sections stand where only so many may.

Tokens are counted without a tokenizer, by what the kinds of characters cost at most: figures cost far more than
English, and hostile text more than both, so that letters alone would tell nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_PIECES = re.compile(
    r"(?P<word>[A-Za-z]+)|(?P<digits>\d+)|(?P<space>\s+)|(?P<plain>[\x21-\x7e])|(?P<other>.)", re.DOTALL
)
_HALF_TAG = re.compile(r"<[^>]*(?= \[\d+ more characters\]$)")
_OPENED = re.compile(r"<(?P<tag>data|note)>[^<]*$")
WORD_LETTERS, DIGITS, OTHER_TOKENS, RARE_TOKENS = 6, 3, 2, 3
"""Letters of a word, and digits, that make one token; tokens of a character beyond ASCII, and beyond 16 bits (measured
on o200k_base: observations cost 4 to 13 % less)."""


def tokens_at_most(text: str) -> int:
    """Tokens of a text, rather too many than too few."""
    return sum(_cost(found) for found in _PIECES.finditer(text))


def _cost(found: re.Match[str]) -> int:
    kind, length = found.lastgroup, len(found.group())
    if kind == "word":
        return -(-length // WORD_LETTERS)
    if kind == "digits":
        return -(-length // DIGITS)
    if kind == "space":  # one goes with the word that follows
        return 0 if found.group() == " " else 1
    if kind == "plain":
        return 1
    return OTHER_TOKENS if ord(found.group()) < 0x10000 else RARE_TOKENS


def within(text: str, tokens: int) -> str:
    """The beginning of a text that costs at most so many tokens; how much was cut is said."""
    spent = 0
    for found in _PIECES.finditer(text):
        spent += _cost(found)
        if spent > tokens:
            kept = text[: found.start()]
            return f"{kept} [{len(text) - len(kept)} more characters]"
    return text


@dataclass(frozen=True)
class PromptSection:
    """Lines under one heading.

    Attributes:
        lines: All there are.
        least: Tokens that it has in any case; more only where others leave some.
        keeps: Which lines stay where not all do; a heading stands above the lines in any case.
        head: Number of lines at its beginning that always stay.
    """

    lines: Sequence[str]
    least: int
    keeps: Literal["first", "last"] = "first"
    head: int = 0

    @property
    def wanted(self) -> int:
        return sum(map(_line, self.lines))

    def cut(self, tokens: int) -> list[str]:
        """Its lines within so many tokens, and how many were left out."""
        if self.wanted <= tokens:
            return list(self.lines)
        head, rest = list(self.lines[: self.head]), list(self.lines[self.head :])
        left = tokens - sum(map(_line, head)) - LEFT_OUT_TOKENS
        kept: list[str] = []
        for line in rest if self.keeps == "first" else reversed(rest):
            left -= _line(line)
            if left < 0:
                room = left + _line(line)
                kept += [_shortened(line, room)] if not kept and room > LEAST_OF_A_LINE else []
                break
            kept.append(line)
        words = f"({len(rest) - len(kept)} left out)"
        return [*head, *kept, words] if self.keeps == "first" else [*head, words, *reversed(kept)]


def _shortened(line: str, tokens: int) -> str:
    """The beginning of a line, with the fence that it cuts through closed again."""
    kept = _HALF_TAG.sub("", within(line, max(1, tokens - 2 * LEFT_OUT_TOKENS)))
    opened = _OPENED.search(kept)
    return kept if opened is None else f"{kept}</{opened['tag']}>"


LEFT_OUT_TOKENS, LEAST_OF_A_LINE = 8, 32
"""Of the words that say how many lines were left out; room in which the beginning of a line still says something."""


def _line(text: str) -> int:
    return tokens_at_most(text) + 1


def shared_out(sections: Mapping[str, PromptSection], tokens: int) -> dict[str, list[str]]:
    """All sections within so many tokens; what one does not need goes to the others, in their order.

    Args:
        sections: By name, those first that get what is left first.
        tokens: For all of them; at least the sum of what each has in any case.
    """
    room = {name: min(section.wanted, section.least) for name, section in sections.items()}
    left, cut = tokens - sum(room.values()), {}
    for name, section in sections.items():
        cut[name] = section.cut(room[name] + left)
        left += room[name] - sum(map(_line, cut[name]))
    return cut
