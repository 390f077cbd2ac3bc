"""Tool calls that a server left in the text, for want of a parser for the model: in the markup of the usual models."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from agenttune.llm.answer_text import FoundObject, ParsedText, parse_text, without_thinking
from agenttune.protocol.model_calls import ToolUse

MOST_OBJECTS = 64
"""JSON objects in an answer that is looked through for calls (guess: four times the calls that are taken)."""
_NAME = r"(?:functions\.)?(?P<name>[\w-]+)"
_HEADERS = [
    re.compile(pattern + r"\s*(?:```(?:json)?\s*)?\Z", re.IGNORECASE)
    for pattern in (
        rf"<function={_NAME}\s*>",  # Llama, Functionary
        rf"\[TOOL_CALLS\]\s*{_NAME}\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]",  # Mistral
        rf"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?{_NAME}(?:<｜tool▁sep｜>)?",  # DeepSeek
        rf"<\|tool_call_begin\|>\s*{_NAME}(?::\d+)?\s*<\|tool_call_argument_begin\|>",  # Kimi
        # Harmony (gpt-oss), with the channel before or after the receiver
        rf"(?:<\|start\|>assistant)?(?:<\|channel\|>\s*\w+)?(?:\A|\s+)to={_NAME}[^{{}}]*?<\|message\|>",
    )
]
"""A call's name in front of its arguments; the object stands right behind it."""
_OPENER = r"<(?:tool_calls?|function_?calls?)>|\[TOOL_CALLS\]|<\|(?:python_tag|tool_calls?(?:_start)?)\|>"
_SECTION = r"<｜tool▁calls▁begin｜>|<\|tool_calls_section_begin\|>"
_CLOSER = (
    r"</(?:tool_calls?|function_?calls?|function)>|\[/TOOL_CALLS\]|<｜tool▁calls?▁end｜>|<\|(?:/tool_call|call|eom_id|eot_id"
    r"|im_end|end|tool_call_end|tool_calls_section_end)\|>|<\|/?tool_calls?(?:_end)?\|>|</s>"
)
_BETWEEN = r"\s|,|;|```(?:json|tool_calls?)?"
_BEFORE = re.compile(rf"(?:{_BETWEEN}|\[(?![A-Z/])|{_OPENER}|{_SECTION})*\Z", re.IGNORECASE)
_AFTER = re.compile(rf"\A(?:{_BETWEEN}|\]|{_CLOSER})*", re.IGNORECASE)
_OPENED = re.compile(_OPENER, re.IGNORECASE)
_QUOTING = re.compile(r"\A\s*>|['\"“„«`]\s*\Z")
"""The beginning of a line that quotes what comes next."""
_TRIED = re.compile(
    rf"{_OPENER}|{_SECTION}|<function=|<invoke\b|<parameter[= ]|<\|tool_call_begin\|>|<｜tool▁call▁begin｜>"
    r"|\bto=functions|```tool_c(?:all|ode)|\[ARGS\]",
    re.IGNORECASE,
)
"""Markup that a model writes only to call a tool."""
_XML_CALL = re.compile(r"<function=([\w-]+)>\s*((?:<parameter=[\w-]+>.*?</parameter>\s*)+)</function>", re.DOTALL)
_XML_FIELD = re.compile(r"<parameter=([\w-]+)>(.*?)</parameter>", re.DOTALL)
_NAME_KEYS, _ARGUMENT_KEYS = ("name", "tool", "tool_name"), ("arguments", "parameters", "args")


@dataclass
class Written:
    """The tool calls of a text.

    Attributes:
        words: The text beside the calls.
        uses: The calls, all of offered tools; none if there is a problem.
        problem: Why the text is an attempt at a call that cannot be carried out.
    """

    words: str
    uses: list[ToolUse] = field(default_factory=list)
    problem: str = ""


def written_calls(text: str, offered: Collection[str]) -> Written:
    """The tool calls of a text, each whole JSON outside of thinking and of an offered tool; or the problem with them.

    Args:
        text: What the model wrote.
        offered: Names of the tools that it has.
    """
    reading = parse_text(_XML_CALL.sub(_as_json, text))
    if len(reading.objects) > MOST_OBJECTS:
        return Written(text, problem=f"it holds {len(reading.objects)} JSON objects")
    found = _Finder(reading, offered)
    for entry in reading.objects:
        found.take(entry)
    found.end()
    if found.problem:
        return Written(text, problem=found.problem)
    if not found.uses:
        return Written(text)
    return Written(" ".join(filter(None, found.words)), found.uses)


def has_markup(text: str) -> bool:
    """Whether a text has the markup of tool calls in it, outside of thinking and of strings in JSON."""
    reading = parse_text(text)
    at, words = 0, []
    for found in reading.objects:
        words.append(text[at : found.start])
        at = found.end
    beside = " ".join([*words, text[at:]])
    return _TRIED.search(without_thinking(beside)) is not None


def _as_json(call: re.Match[str]) -> str:
    """Qwen3-Coder's calls, whose values are bare: numbers and the like as JSON, all else as text."""
    fields = _XML_FIELD.findall(call[2])
    given = {name: _value(value.strip()) for name, value in fields}
    if len(given) < len(fields):
        return call[0]  # a field that stands there twice is no whole call
    return f"<function={call[1]}>{json.dumps(given)}</function>"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Finder:
    """Walks through the objects of a text and the words between them."""

    def __init__(self, reading: ParsedText, offered: Collection[str]) -> None:
        self._reading, self._offered = reading, offered
        self._at, self._was_marked = 0, False
        self.uses: list[ToolUse] = []
        self.words: list[str] = []
        self.problem = ""
        self._others = 0
        if reading.is_cut:
            self.problem = "it ends inside a thinking part"

    def take(self, found: FoundObject) -> None:
        words, line, named, marked = self._before(found)
        self.words.append(words)
        calls = _calls_in(found.value) if named is None else [(named, found.value)]
        if calls is None or not (marked or any(name in self._offered or given is not None for name, given in calls)):
            self._others += 1
            if marked or _looks_like_calls(found.value):
                self._fail("it holds JSON that is no whole tool call")
            return
        unknown = [name for name, _ in calls if name not in self._offered]
        if unknown:
            self._fail(f"there is no tool {unknown[0]!r:.80}; tools: {', '.join(self._offered)}")
        if self._is_quoted(found, line, marked):
            self._fail("a tool call stands in the middle of a sentence")
        for name, given in calls:
            self._add(name, given, words)
        self._at, self._was_marked = found.end, marked

    def end(self) -> None:
        """Read the rest, after the last object."""
        reading = self._reading
        rest = self._kept(self._at, len(reading.text))
        after = _AFTER.match(rest) if self.uses else None
        self.words.append(rest[after.end() if after else 0 :].strip())
        words = " ".join(self.words)
        if _TRIED.search(words) or self._called_like_python(words) or self._is_broken_call():
            self._fail("it holds a tool call that is not whole JSON")
        if self.uses and (reading.broken or reading.inconclusive or self._others):
            self._fail("beside a tool call it holds JSON that is none, or is broken")

    def _before(self, found: FoundObject) -> tuple[str, str, str | None, bool]:
        """What stands before an object.

        Returns:
            The words; the beginning of the line on which its markup starts; the tool that the markup names; whether
            the markup makes it a call.
        """
        text, closed = self._kept(self._at, found.start), ""
        after = _AFTER.match(text) if self.uses else None
        if after:
            closed, text = after[0], text[after.end() :]
        header = next((match for pattern in _HEADERS if (match := pattern.search(text))), None)
        words = text[: header.start()] if header else text
        opened = _BEFORE.search(words)
        tail = opened[0] if opened else ""
        words, lead = words[: len(words) - len(tail)], tail[: len(tail) - len(tail.lstrip())]
        goes_on = self._was_marked and not words.strip() and not re.search(_CLOSER, closed, re.IGNORECASE)
        marked = bool(header or _OPENED.search(tail) or goes_on)
        return words.strip(), (words + lead).rpartition("\n")[2], header["name"] if header else None, marked

    def _add(self, name: str, given: Any, before: str) -> None:
        text = given if isinstance(given, str) else json.dumps({} if given is None else given)
        if before and any(use.name == name and use.arguments != text for use in self.uses):
            self._fail(f"it holds two calls of {name} that differ, with words between them")
        self.uses.append(ToolUse(id=f"written_{len(self.uses)}", name=name, arguments=text))

    def _is_quoted(self, found: FoundObject, line: str, marked: bool) -> bool:
        """Whether a call may be quoted: words follow it on its line, or stand before it and it has no markup."""
        rest = self._kept(found.end, len(self._reading.text))
        after = _AFTER.match(rest)
        closed = after[0] if after else ""
        follows = rest[len(closed) :] if "\n" not in closed[len(closed.rstrip()) :] else ""
        if follows and not follows.startswith("{") and not _TRIED.match(follows):
            return True
        return bool(_QUOTING.search(line)) or (not marked and bool(line.strip()))

    def _called_like_python(self, words: str) -> bool:
        names = "|".join(map(re.escape, self._offered))
        return bool(names) and re.search(rf"(?m)^[\s\[`]*(?:{names})\(", words) is not None

    def _is_broken_call(self) -> bool:
        """Whether braces that hold no JSON name an offered tool: cut off, or with a name given twice."""
        names = "|".join(map(re.escape, self._offered))
        call = re.compile(rf"\"(?:{'|'.join(_NAME_KEYS)}|function)\"\s*:\s*\"(?:functions\.)?(?:{names})\"")
        text = self._reading.text
        groups = (text[start : len(text) if end < 0 else end] for start, end in self._reading.broken)
        return bool(names) and any(call.search(group) for group in groups)

    def _kept(self, start: int, end: int) -> str:
        """A part of the text, without thinking."""
        parts = [(max(start, begin), min(end, until)) for begin, until in self._reading.kept]
        return "".join(self._reading.text[begin:until] for begin, until in parts if begin < until)

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem


def _calls_in(value: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """The calls that an object is: itself, or a list under `tool_calls`; None if it is something else."""
    entries = value.get("tool_calls")
    if not isinstance(entries, list):
        call = _call(value)
        return None if call is None else [call]
    calls = [_call(entry) for entry in entries]
    return None if None in calls or not calls else [call for call in calls if call is not None]


def _call(entry: Any) -> tuple[str, Any] | None:
    if not isinstance(entry, dict):
        return None
    inner = entry.get("function")
    call: dict[str, Any] = inner if isinstance(inner, dict) else entry
    keys = _NAME_KEYS if isinstance(inner, dict) or not isinstance(inner, str) else ("function", *_NAME_KEYS)
    name = next((call[key] for key in keys if isinstance(call.get(key), str)), None)
    given = next((call[key] for key in _ARGUMENT_KEYS if key in call), None)
    extra = set(call) - {*_NAME_KEYS, *_ARGUMENT_KEYS, "function", "id", "type"}
    return None if name is None or extra else (name.removeprefix("functions."), given)


def _looks_like_calls(value: Any) -> bool:
    """Whether an object has calls somewhere inside."""
    if isinstance(value, dict):
        if any(key in value for key in _NAME_KEYS) and any(key in value for key in _ARGUMENT_KEYS):
            return True
        return any(map(_looks_like_calls, value.values()))
    return isinstance(value, list) and any(map(_looks_like_calls, value))
