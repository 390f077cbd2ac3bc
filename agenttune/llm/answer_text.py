"""Finds the answer in a model's text: cuts its thinking away, and takes the one whole JSON object of the rest.

All that models write is read here: verdicts, actions, JSON answers, tool calls that a server left in the text, plans
and reflections. Nothing is guessed: an answer that is not whole, or two that differ, are no answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.strict_json import no_constant, once

MOST_BROKEN = 50
"""After so many braces that begin no JSON a text is given up (guess: an answer has none); keeps parsing linear."""

_NAMES = "think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|inner_monologue|seed:think"
_PARTS = (
    # How a thinking part begins, and how that kind of part ends. `\g` stands for the tag's own name.
    (rf"<(?:{_NAMES})(?:\s[^<>]*)?>", r"</\g\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi-VL
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    (r"<unused94>", r"<unused95>"),  # MedGemma
    # Harmony (gpt-oss). A channel with `to=` is a tool call, and the final one is the answer.
    (
        r"<\|channel\|>\s*(?:analysis|commentary)(?![^<]*\bto=)[^<]*<\|message\|>",
        r"<\|end\|>|<\|channel\|>\s*final[^<]*<\|message\|>|<\|channel\|>(?=\s*commentary\s+to=)",
    ),
)
_CLOSES = (
    rf"</(?:{_NAMES})\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<unused95>"
    r"|<\|channel\|>\s*final[^<]*<\|message\|>"
)
_TOKEN = re.compile(
    "|".join(
        [r"(?P<brace>\{)", *(f"(?P<part{n}>{begin})" for n, (begin, _) in enumerate(_PARTS)), f"(?P<close>{_CLOSES})"]
    ),
    re.IGNORECASE,
)
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[^a-z]).*?assistantfinal", re.DOTALL)
"""Harmony as servers leave it that drop special tokens."""
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|//[^\n]*|/\*.*?(?:\*/|\Z)|[{}\[\]]', re.DOTALL)
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_MARKUP = r"(?:\s|```\w*|<[^<>\n]*>)*"
_ALONE_BEFORE, _ALONE_AFTER = re.compile(rf"\A{_MARKUP}\Z"), re.compile(rf"\A{_MARKUP}\Z")


class Unreadable(UserError):
    """A text holds no answer, or several; the message says why, so that the model can correct it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"your answer could not be read: {problem}", field="answer")
        self.problem = problem


@dataclass(frozen=True)
class FoundObject:
    """A whole JSON object and where in the text it stands."""

    value: dict[str, Any]
    start: int
    end: int


@dataclass
class ParsedText:
    """What a text consists of.

    Attributes:
        text: The whole of it.
        objects: Whole JSON objects outside of thinking, the outermost ones, in order.
        inconclusive: Whole objects that may be thinking: before a lone closing tag, or in thinking after an answer.
        broken: Brace groups outside of thinking that are no JSON: start and end; an end of -1 is never closed.
        kept: Parts of the text outside of thinking: start and end.
        is_cut: The text ends inside a thinking part.
    """

    text: str
    objects: list[FoundObject] = field(default_factory=list)
    inconclusive: list[FoundObject] = field(default_factory=list)
    broken: list[tuple[int, int]] = field(default_factory=list)
    kept: list[tuple[int, int]] = field(default_factory=list)
    is_cut: bool = False

    @property
    def without_thinking(self) -> str:
        """The text without thinking."""
        return "".join(self.text[start:end] for start, end in self.kept).strip()


def parse_text(text: str) -> ParsedText:
    """Parse a text; tags inside the strings of whole objects are not tags."""
    reading, at, since = ParsedText(text), 0, 0
    bare = _BARE_CHANNELS.match(text)
    if bare:
        at = since = bare.end()
    while (token := _TOKEN.search(text, at)) is not None:
        kind = token.lastgroup or ""
        if kind == "brace":
            at = _take_object(reading, token.start())
            continue
        reading.kept.append((since, token.start()))
        if kind == "close":
            # Where the prompt holds the opening tag, servers return only the closing one: all before is thinking.
            # It may also be quoted, so an answer before it still counts if a later one differs.
            reading.inconclusive += reading.objects
            reading.objects, reading.broken, reading.kept = [], [], []
            at = token.end()
        else:
            at = _leave_thinking(reading, token)
        since = at
    reading.kept.append((since, len(text)))
    return reading


def _take_object(reading: ParsedText, start: int) -> int:
    """Add the object that begins here; returns where to go on."""
    if len(reading.broken) >= MOST_BROKEN:
        return len(reading.text)
    value, end = _object_at(reading.text, start)
    if value is not None:
        reading.objects.append(FoundObject(value, start, end))
        return end
    reading.broken.append((start, end))
    return start + 1 if end < 0 else end


def _leave_thinking(reading: ParsedText, token: re.Match[str]) -> int:
    """Where a thinking part ends. Objects in it count only if they differ from an answer before it."""
    text, (_, ends) = reading.text, _PARTS[int((token.lastgroup or "").removeprefix("part"))]
    name = re.match(r"<([\w:]+)", token[0])
    close = re.compile(ends.replace(r"\g", name[1] if name else ""), re.IGNORECASE).search(text, token.end())
    reading.is_cut = close is None
    inside = text[token.end() : len(text) if close is None else close.start()]
    if reading.objects:
        reading.inconclusive += parse_text(inside).objects
    return len(text) if close is None else close.end()


def _object_at(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins at a brace, and its end; if it is no JSON, None and the end of its braces (-1: never)."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return value, end
    except (ValueError, RecursionError):
        end = _group_end(text, start)
    if end < 0:
        return None, end
    try:
        return _DECODER.decode(_tidied(text[start:end])), end
    except (ValueError, RecursionError):
        return None, end


def _group_end(text: str, start: int) -> int:
    depth = 0
    for token in _STRUCTURE.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return -1


def _tidied(text: str) -> str:
    """JSON without comments and trailing commas, which models add and which change no meaning."""
    return _LAST_COMMA.sub(lambda m: m[1] or "", _COMMENT.sub(lambda m: m[1] or " ", text))


def _finite(token: str) -> float:
    value = float(token)
    return value if math.isfinite(value) else no_constant(token)


_DECODER = json.JSONDecoder(object_pairs_hook=once, parse_constant=no_constant, parse_float=_finite, strict=False)
"""Takes line breaks inside strings, which small models write; refuses names given twice, NaN and infinities."""


def without_thinking(text: str | None) -> str:
    """A text without the model's thinking; a thinking part that is never closed reaches to the end."""
    return parse_text(text or "").without_thinking


def answer_in(
    text: str | None,
    *decisive: str,
    choices: Collection[str] = (),
    alone: bool = False,
) -> dict[str, Any]:
    """The JSON object that is a model's answer.

    Args:
        text: What the model wrote.
        decisive: Keys by whose values two answers are compared. An object without the first one is no answer, but
            something else, such as a quoted command.
        choices: Values that the first key may have; if the words after the answer name another one, there is none.
        alone: The object must stand on its own lines, so that an object quoted in a sentence is no answer.

    Raises:
        Unreadable: There is none, it is not whole, or several differ.
    """
    reading, key = parse_text(text or ""), decisive[0]
    _check_whole(reading, key)
    shaped = [found for found in reading.objects if _has(found.value, key)]
    able = [found for found in shaped if not alone or _stands_alone(reading, found)]
    if not able:
        raise Unreadable(f"it holds no JSON object with {key!r}{' on lines of its own' if shaped else ''}")
    final = able[-1]
    said = _said(final.value, decisive)
    others = [answer for other in (*reading.objects, *reading.inconclusive) for answer in _answers_in(other.value, key)]
    if any(_said(answer, decisive) != said for answer in others):
        raise Unreadable("it holds several answers that differ; give one, and nothing else")
    other = _named_after(reading, final, choices, str(_folded(final.value).get(key, "")))
    if other:
        raise Unreadable(f"after the answer it says {other!r}; give one answer, and nothing after it")
    return final.value


def _check_whole(reading: ParsedText, key: str) -> None:
    if reading.is_cut:
        raise Unreadable("it ends inside a thinking part")
    for start, end in reading.broken:
        # A group that never closes may hold anything; one that speaks of the answer may be the answer.
        if end < 0 or key.casefold() in reading.text[start:end].casefold():
            raise Unreadable("its JSON is broken: not closed, not valid, or a name is given twice")
    if len(reading.broken) >= MOST_BROKEN:
        raise Unreadable("it is full of braces that are no JSON")


def _has(value: dict[str, Any], key: str) -> bool:
    return key in _folded(value)


def _folded(value: dict[str, Any]) -> dict[str, Any]:
    return {name.strip().casefold(): part for name, part in value.items()}


def _said(value: dict[str, Any], decisive: Collection[str]) -> str:
    """An answer's decisive values as JSON, for comparison: in Python True equals 1, in JSON it does not."""
    folded = _folded(value)
    return json.dumps([_plain(folded.get(name)) for name in decisive], sort_keys=True)


def _plain(value: Any) -> Any:
    return value.strip().casefold() if isinstance(value, str) else value


def _answers_in(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """The outermost answers inside a value, so that one that is wrapped in another object is compared too."""
    if isinstance(value, dict) and _has(value, key):
        yield value
        return
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _answers_in(part, key)


def _stands_alone(reading: ParsedText, found: FoundObject) -> bool:
    """Whether only markup stands beside an object on its lines; after `> ` it is a quotation."""
    begins = max(start for start, _ in reading.kept if start <= found.start)
    ends = min(end for _, end in reading.kept if end >= found.end)
    before = reading.text[begins : found.start].rpartition("\n")[2]
    after = reading.text[found.end : ends].partition("\n")[0]
    return bool(_ALONE_BEFORE.match(before) and _ALONE_AFTER.match(after))


def _named_after(reading: ParsedText, found: FoundObject, choices: Collection[str], chosen: str) -> str:
    """The first of the other choices that the words after an answer name; empty if none."""
    others = [re.escape(choice) for choice in choices if choice.casefold() != chosen.strip().casefold()]
    if not others:
        return ""
    after = "".join(reading.text[max(start, found.end) : end] for start, end in reading.kept if end > found.end)
    named = re.search(rf"\b(?:{'|'.join(others)})\w*", after, re.IGNORECASE)
    return named[0] if named else ""
