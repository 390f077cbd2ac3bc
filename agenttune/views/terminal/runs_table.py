"""The list of runs: no fact is cut at any width; where a row does not fit, it is printed on several lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from agenttune.protocol.overview import GoalOverview
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean, number
from agenttune.views.event_lines import BAD_STATUS

GAP = 2
HEADINGS = ("run", "status", "step", "goal", "started")
RIGHT = frozenset({"step"})
REASON_CHARACTERS = 400
GOAL_CHARACTERS = 40


@dataclass(frozen=True)
class RunRow:
    """One run, ready to be shown.

    Attributes:
        cells: Its facts, as `HEADINGS`.
        is_bad: Whether it ended badly.
        reason: Why it ended, if that was said.
    """

    cells: tuple[str, ...]
    is_bad: bool
    reason: str


def print_runs(console: Console, runs: Sequence[tuple[RunInfo, GoalOverview | None]]) -> None:
    """A list of runs with the goal metric as it stands: a line each where they fit, else a few; reasons are folded."""
    rows = [_row(info, goal) for info, goal in runs]
    shown = HEADINGS if _width(rows, HEADINGS) <= console.width else HEADINGS[:-1]
    if _width(rows, shown) > console.width:
        for row in rows:
            _print_block(console, row)
        return
    widths = _widths(rows, shown)
    _print_line(console, Text(_line(shown, shown, widths), style="bold"))
    for row in rows:
        line = Text(_line(row.cells, shown, widths))
        line.stylize("red" if row.is_bad else "green", widths[0] + GAP, widths[0] + GAP + widths[1])
        _print_line(console, line)
        _print_reason(console, row)


def _row(info: RunInfo, goal: GoalOverview | None) -> RunRow:
    steps = str(info.step) if info.max_steps is None else f"{info.step}/{info.max_steps}"
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created_at_s))
    cells = (clean(info.run_id), info.status, steps, goal_words(goal), started)
    return RunRow(cells, info.status in BAD_STATUS, clean(info.status_reason, REASON_CHARACTERS))


def goal_words(goal: GoalOverview | None) -> str:
    """Such as `eval_loss 3.605`, and the best where that is known and was another."""
    if goal is None or goal.newest is None:
        return "-"
    best = "" if goal.best is None or goal.best == goal.newest else f" (best {number(goal.best)})"
    return f"{clean(goal.metric, GOAL_CHARACTERS)} {number(goal.newest)}{best}"


def _widths(rows: Sequence[RunRow], shown: Sequence[str]) -> list[int]:
    return [max(len(heading), *(len(row.cells[i]) for row in rows)) for i, heading in enumerate(shown)]


def _width(rows: Sequence[RunRow], shown: Sequence[str]) -> int:
    return sum(_widths(rows, shown)) + GAP * (len(shown) - 1)


def _line(cells: Sequence[str], shown: Sequence[str], widths: Sequence[int]) -> str:
    named = zip(shown, cells, widths, strict=False)
    return (" " * GAP).join(f"{cell:>{w}}" if name in RIGHT else f"{cell:<{w}}" for name, cell, w in named).rstrip()


def _print_line(console: Console, line: Text) -> None:
    console.print(line, soft_wrap=True)


def _print_block(console: Console, row: RunRow) -> None:
    """A run on lines of its own, for a narrow terminal or a long name."""
    run_id, status, *rest = row.cells
    _print_line(console, Text(run_id, style="bold"))
    facts = Text.assemble((status, "red" if row.is_bad else "green"), *(f"  {cell}" for cell in rest))
    console.print(Padding(facts, (0, 0, 0, GAP)))
    _print_reason(console, row)


def _print_reason(console: Console, row: RunRow) -> None:
    if row.reason:
        console.print(Padding(Text(row.reason, style="dim"), (0, 0, 0, GAP)))
