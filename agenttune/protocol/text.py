"""Numbers and foreign text as a person may be shown them, on a screen or in a message."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 400
"""Longer texts are cut: a line of the screen, not a document (a guess at what a person reads)."""
MOST_NESTED, MOST_ITEMS, MOST_DEPTH = 240, 24, 4
"""Characters of a list or of named values, how many of either are told, and how deep (guesses)."""
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories without a visible letter: controls, escape sequences, marks that turn the direction of writing."""


def clean(text: str, limit: int = MAX_CHARACTERS, lines: bool = False) -> str:
    """Foreign text with nothing invisible in it, white space folded, cut at `limit`; on one line unless `lines`.

    Markup is the affair of whoever shows it: a prompt fences it, Markdown and HTML escape it, a screen parses none.
    """
    rows = text.splitlines() if lines else [text]
    shown = "\n".join(" ".join(_visible(row).split()) for row in rows).strip()
    return cut(shown, limit)


def cut(text: str, limit: int) -> str:
    """Text of at most `limit` characters, as part of a longer one that is cleaned as a whole."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _visible(text: str) -> str:
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in INVISIBLE)


def number(value: object, limit: int = 60) -> str:
    """A value in at most four significant digits; NaN and infinity are named, what is no number is cut at `limit`.

    Lists and named values are told in words, never as Python writes them.
    """
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return f"{value:.4g}"
    if isinstance(value, (Mapping, list, tuple)):
        return clean(_in_words(value, MOST_DEPTH), max(limit, MOST_NESTED))
    return clean(str(value), limit)


def _in_words(value: object, depth: int) -> str:
    """Lists and named values, down to a depth: foreign ones may go deeper than Python's stack."""
    if depth == 0 and isinstance(value, (Mapping, list, tuple)):
        return "…"
    if isinstance(value, (list, tuple)):
        more = ", …" if len(value) > MOST_ITEMS else ""
        return f"[{', '.join(_in_words(item, depth - 1) for item in value[:MOST_ITEMS])}{more}]"
    if isinstance(value, Mapping):
        named = value if "kind" not in value else given({name: v for name, v in value.items() if name != "kind"})
        words = ", ".join(f"{name} {_in_words(v, depth - 1)}" for name, v in list(named.items())[:MOST_ITEMS])
        return f"{value['kind']} {words}".strip() if "kind" in value else f"({words})"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"  # a beta of 0.99999 is not 1
    return number(value)


def duration(seconds: float) -> str:
    """Such as `8.2 s`, `1 min 05 s` or `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def dollars(usd: float | None) -> str:
    """Such as `$1.20`, `$0.0021` or `$0`; None is said."""
    if not usd:
        return "price unknown" if usd is None else "$0"
    return f"${usd:.2f}" if usd >= 1 else f"${usd:.2g}"


def tokens(count: float) -> str:
    """Such as `870`, `5.3k` or `1.2M`."""
    if count < 1000:
        return f"{count:.0f}"
    return f"{count / 1000:.3g}k" if count < 1_000_000 else f"{count / 1_000_000:.3g}M"


def plural(count: int, noun: str) -> str:
    """Such as `1 call` or `3 calls`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def some(names: Sequence[object], most: int = 5) -> str:
    """The first few, and how many more there are, such as `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def pairs(values: Mapping[str, Any]) -> str:
    """Such as `lr 0.05, momentum 0.9`."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def command_words(command: Mapping[str, Any]) -> str:
    """Such as `update_optimizer lr 0.05`: the kind and the arguments that were given."""
    arguments = {name: value for name, value in command.items() if name != "kind"}
    return f"{command['kind']} {pairs(given(arguments))}".strip()


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command that say something of what is asked."""
    return {name: value for name, value in arguments.items() if value not in (None, {}, [], "effective")}


def utc_time(at_s: float) -> str:
    """A Unix time for people anywhere, such as `2026-11-22 23:44:43 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))
