"""What is wrong with a value, in our words: the validating library's speak of its own types and of Python's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

MOST_SHOWN = 80
"""Characters of a wrong value that are quoted."""


def why(problem: Mapping[str, Any]) -> str:
    """One sentence without the value, such as `must be greater than or equal to 0`.

    Args:
        problem: As pydantic's `ValidationError.errors()` lists them.
    """
    kind, told = str(problem["type"]), problem.get("ctx", {})
    for beginning, words in _WORDS.items():
        if kind == beginning or kind.startswith(f"{beginning}_"):
            return words(told)
    text = str(problem["msg"])
    return text.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def why_with_value(problem: Mapping[str, Any], is_empty: str = "has no value") -> str:
    """The same with what was given, and the choice that was probably meant.

    Args:
        problem: As for `why`.
        is_empty: What to say where nothing was given.
    """
    kind, given = str(problem["type"]), problem.get("input")
    if kind in ("missing", "value_error", "extra_forbidden"):
        return why(problem)
    if given is None:
        return f"{is_empty}: it {why(problem)}"
    return f"{why(problem)} (got {given!r:.{MOST_SHOWN}}){meant(problem)}"


def failure_words(error: BaseException) -> str:
    """What code of somebody's ended with, on one line: `ValueError: boom`, `UpdateOptimizer: lr must be at least 0`."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    problems = error.errors(include_url=False)
    said = (f"{'.'.join(map(str, p['loc']))} {why_with_value(p)}".strip() for p in problems)
    return f"{error.title}: {'; '.join(said)}"


def shape(pattern: str, words: str) -> str:
    """A pattern, for a field, that errors explain in words: `must be letters and digits`."""
    _SHAPES[pattern] = words
    return pattern


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint at the nearest of some names; empty if none is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def meant(problem: Mapping[str, Any]) -> str:
    """A hint at what a wrong value was probably meant to be; empty if there is none."""
    if not isinstance(problem.get("input"), str):
        return ""
    if problem["type"] == "float_type" and _POWER_OF_TEN.fullmatch(problem["input"]):
        return f"; it was read as text: write {float(problem['input'])!r}, or {_with_point(problem['input'])}"
    if problem["type"] != "literal_error":
        return ""
    return did_you_mean(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))


_POWER_OF_TEN = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)
"""What YAML 1.1 takes for text: a number with an exponent and no point."""


def _with_point(number: str) -> str:
    digits, _, exponent = number.lower().partition("e")
    return f"{digits}.0e{exponent if exponent[0] in '+-' else '+' + exponent}"


_SHAPES: dict[str, str] = {}


def _shape(told: Mapping[str, Any]) -> str:
    return f"must be {_SHAPES.get(told['pattern'], 'text of the pattern ' + told['pattern'])}"


def _literally(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda told: words


def _limit(words: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda told: f"{words} {told[name]:.10g}"


def _length(words: str, name: str, unit: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda told: f"must have {words} {told[name]} {unit}{'' if told[name] == 1 else 's'}"


_MAPPING = _literally("must be a mapping of keys to values")
_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": _literally("is required"),
    "extra_forbidden": _literally("is not known here"),
    "literal_error": lambda told: f"must be {told['expected']}",
    "enum": lambda told: f"must be {told['expected']}",
    "string_pattern_mismatch": _shape,
    "string_too_long": _length("at most", "max_length", "character"),
    "string_too_short": _length("at least", "min_length", "character"),
    "string": _literally("must be text"),
    "finite_number": _literally("must be a finite number"),
    "int": _literally("must be a valid integer"),
    "float": _literally("must be a valid number"),
    "bool": _literally("must be true or false"),
    "greater_than_equal": _limit("must be greater than or equal to", "ge"),
    "greater_than": _limit("must be greater than", "gt"),
    "less_than_equal": _limit("must be less than or equal to", "le"),
    "less_than": _limit("must be less than", "lt"),
    "too_short": _length("at least", "min_length", "item"),
    "too_long": _length("at most", "max_length", "item"),
    "list": _literally("must be a list, such as [a, b]"),
    "tuple": _literally("must be a list, such as [a, b]"),
    "invalid_key": _literally("must be text, as all keys are"),
    "dict": _MAPPING,
    "mapping": _MAPPING,
    "model": _MAPPING,
}
"""By the beginning of the library's name for the problem, up to an underscore; the first that fits counts."""
