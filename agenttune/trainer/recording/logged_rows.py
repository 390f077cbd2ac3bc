"""Rows that a training loop logs: what is in them, which of them are an evaluation's, and whether the goal is in those.

transformers' Trainer logs the metrics of an evaluation, and then reports the evaluation itself. Nothing in a row's
names says which kind it is: a row with `generate_runtime` may be the user's own, `eval_reward` too. So the newest row
is held until what comes next: if that is the evaluation whose metrics these are, the row is its own.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import torch

from agenttune.protocol.findings import Finding
from agenttune.protocol.goal_names import value_of

TEXT_CHARACTERS = 500
"""Longest text kept of a value that is no number."""
DEEPEST = 5
"""Levels of nested rows that are taken apart; what lies deeper is kept as text."""
LASTING = frozenset({float, int, bool, str, type(None)})
"""Types of values that nobody can change later."""
_NOTHING: Mapping[str, Any] = {}


def as_number(value: Any) -> float | None:
    """A value as a number: Python's, numpy's and one-element tensors; None if it is none."""
    if isinstance(value, torch.Tensor) and (value.numel() != 1 or value.is_complex()):
        return None
    is_real = isinstance(value, numbers.Real)  # truth values and numpy's numbers are among these
    if not is_real and (isinstance(value, (str, bytes)) or not hasattr(value, "item")):
        return None
    try:
        return float(value if is_real else value.item())
    except (TypeError, ValueError, RuntimeError, OverflowError):  # arrays of several, numbers beyond any float
        return None


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a row; those of rows within it as `outer/inner`."""
    return split(row)[0]


def split(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> tuple[dict[str, float], dict[str, str]]:
    """A row's numbers, and the rest as text; those of rows within it as `outer/inner`."""
    values: dict[str, float] = {}
    texts: dict[str, str] = {}
    for key, value in row.items():
        if type(value) is float and not prefix and type(key) is str:  # nearly all, at every step that is logged
            values[key] = value
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < DEEPEST:
            inner = split(value, f"{name}/", depth + 1)
            values |= inner[0]
            texts |= inner[1]
        elif (number := as_number(value)) is not None:
            values[name] = number
        elif value is not None:
            texts[name] = str(value)[:TEXT_CHARACTERS]
    return values, texts


def is_lasting(row: Mapping[str, Any]) -> bool:
    """Whether what a row says stays as it is, so that it may be taken apart later, in another thread."""
    return LASTING.issuperset(map(type, row.values()))


class LoggedRows:
    """Tells each row of a loop once: as logged, or as an evaluation's.

    Args:
        logged: Takes a row of the loop's own log, and the step it was logged at.
        evaluated: Takes the metrics of an evaluation, and its step.
    """

    def __init__(
        self, logged: Callable[[Mapping[str, Any], int], None], evaluated: Callable[[Mapping[str, Any], int], None]
    ) -> None:
        self._logged = logged
        self._evaluated = evaluated
        self._row: Mapping[str, Any] | None = None
        self._same: Mapping[str, Any] = _NOTHING
        self._step = 0
        self.is_holding = False
        """Whether a row waits for what comes next; no property, as it is asked several times a step."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """A row was logged."""
        if self.is_holding:
            self.flush()
        self.is_holding = True
        # The row itself tells it apart; a copy holds what it said, which a program may change later.
        self._row, self._same, self._step = dict(row), row, step

    def evaluate(self, metrics: Mapping[str, Any], step: int) -> None:
        """An evaluation is complete; the row just logged is its own, or that of a Trainer that adds to it."""
        row = self._row
        if row is not None and step == self._step and (self._same is metrics or _contains(row, metrics)):
            self._row, self.is_holding = None, False
            self._evaluated({**row, **metrics}, step)
        else:
            self.flush()
            self._evaluated(metrics, step)

    def flush(self) -> None:
        """What comes next is no evaluation: the row is the user's, or the loop's."""
        row, self._row, self._same, self.is_holding = self._row, None, _NOTHING, False
        if row is not None:
            self._logged(row, self._step)


def _contains(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Whether all metrics are in a row, the very values."""
    return bool(metrics) and all(name in row and row[name] is value for name, value in metrics.items())


MOST_NAMES = 12
"""Names of metrics that are told (guess)."""
SPEED_WORDS = ("runtime", "per_second", "epoch", "flos")
"""Parts of the names of figures that say how fast an evaluation was: nobody's goal, told last."""


class GoalCheck:
    """Follows the evaluations until the goal was seen, or was found to be missing.

    Args:
        goal: The goal metric, as asked for; empty: nothing is checked.
    """

    def __init__(self, goal: str) -> None:
        self._goal, self._is_over = goal, not goal
        self._step: int | None = None
        self._names: dict[str, None] = {}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> float | None:
        """The goal metric among those of an evaluation; several data sets are evaluated one after the other."""
        value = value_of(self._goal, metrics)
        if value is not None:
            self._is_over = True
        elif not self._is_over and self._step in (None, step):
            self._step = step
            self._names |= dict.fromkeys(metrics)
        return value

    def finding(self, step: int | None) -> Finding | None:
        """What is to be said once the run has gone on after the first evaluation; None as the step: it has ended."""
        if self._is_over or self._step is None or step == self._step:
            return None
        self._is_over = True
        names = sorted(self._names, key=lambda name: (any(word in name for word in SPEED_WORDS), name))
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return Finding(
            kind="goal_missing",
            severity="warning",
            metric=self._goal,
            step=self._step,
            summary=f"the goal {self._goal} is not among the metrics of the first evaluation; set goal.metric to one "
            f"of those there are: {', '.join(names[:MOST_NAMES])}{more}",
            evidence={"evaluated": len(names)},
        )
