"""A study as Markdown, laid out as a run's report is; in the terminal with the scores by round as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import plotext
from rich.console import Console
from rich.text import Text

from agenttune.launch.study.records import Arm, Start
from agenttune.launch.study.state import COMPLETE, RoundRun, Study
from agenttune.protocol.text import clean, cut, dollars, number, plural
from agenttune.views.report.decision_facts import Fact
from agenttune.views.report.markdown import Section, escaped, facts_table, listed, table
from agenttune.views.report.terminal import print_markdown
from agenttune.views.terminal.chart import MIN_WIDTH, begin, drawn, with_margin

HEIGHT, MAX_WIDTH = 14, 100
"""Of the picture, in rows and columns (tried by eye)."""
HEAD = (
    "| round | arm | start | policy | final | best | vs round 0 | commands | tokens | cost |\n"
    "|--:|---|---|---|--:|--:|--:|--:|--:|--:|"
)
"""Of the table of runs."""
ARM_WORDS: dict[Arm, str] = {
    "untouched": "untouched",
    "reference": "reference",
    "act": "plan + act",
    "plan_only": "plan only",
}
SERIES: dict[Arm, tuple[str, str]] = {"plan_only": ("orange+", "○"), "act": ("cyan+", "●")}
"""Colour and mark, in the order of drawing."""
LINES = ("gray", "green+", "magenta+", "blue+", "red+")
"""Colours of round 0 and the references, in their order; then from the beginning again."""
STYLES = {"gray": "bright_black", "orange+": "yellow"} | {
    f"{name}+": f"bright_{name}" for name in ("cyan", "green", "magenta", "blue", "red")
}
"""rich's names for plotext's colours."""
BOUND = 0.5
"""How far the picture reaches to the left and right of the rounds, in rounds."""


def print_study(console: Console, study: Study, reflections: bool = False) -> None:
    """Show a study: table, picture, costs; with `reflections` also what was planned and learned."""
    print_markdown(console, "\n\n".join(section.text for section in results(study)))
    console.print(_picture(study, min(console.width, MAX_WIDTH)))
    told = [listed([*_not_drawn(study), _costs(study), *study.notes], most=100)]
    print_markdown(console, "\n\n".join([*told, *(section.text for section in reasons(study) if reflections)]))


def results(study: Study) -> list[Section]:
    """What became of a study, and the scores of its runs."""
    reason = f": {escaped(study.reason)}" if study.reason else ""
    words = "more" if study.goal_direction == "maximize" else "less"
    title = f"{escaped(study.goal_metric, 40)} by round ({words} is better)"
    rows = table([_row(study, run) for run in study.runs], HEAD)
    return [Section(1, f"{escaped(study.study)} {study.status}{reason}", ""), Section(2, title, rows)]


def reasons(study: Study) -> Iterator[Section]:
    """What was planned for each round, and learned from it."""
    for plan in study.plans:
        learned = study.reflection(plan.round)
        told = [Fact("why", plan.reasoning or "-"), *(Fact("refused", problem) for problem in plan.refused)]
        told += [] if learned is None else [Fact("learned", learned.text)]
        yield Section(3, f"round {plan.round}: {escaped(start_words(plan.start))}", facts_table(told))


def _row(study: Study, run: RoundRun) -> list[str]:
    """The cells of a run as Markdown; the best one's are bold."""
    final, best = _scores(study, run)
    cells = [
        str(run.round),
        ARM_WORDS[run.arm],
        start_words(run.start),
        cut(run.policy, 30),
        final,
        best,
        "-" if run.change_percent is None else f"{run.change_percent:+.1f} %",
        str(run.commands),
        str(run.tokens) if run.calls else "-",
        dollars(run.usd) if run.calls else "-",
    ]
    mark = "**" if (found := study.best()) is not None and run.run_id == found.run_id else ""
    return [f"{mark}{escaped(cell) or '-'}{mark}" for cell in cells]


def start_words(start: Start) -> str:
    """Such as `lr 0.003, warmup 20`; a dash for the file's own start."""
    return ", ".join(f"{cut(name, 30)} {number(value)}" for name, value in start.items()) or "-"


def _scores(study: Study, run: RoundRun) -> tuple[str, str]:
    """Final and best, or in their place what became of a run that is not complete."""
    if run.outcome is None:
        return ("running" if study.status == "running" else "cut off"), "-"
    note = "" if run.outcome in COMPLETE else f" ({run.outcome})"
    if run.score is None:
        return f"none{note}", "-"
    name = "" if study.is_goal(run) else f" {cut(run.score.metric, 20)}"
    return f"{number(run.score.last.value)}{name}{note}", number(run.score.best.value)


def _drawable(study: Study, run: RoundRun) -> bool:
    return run.outcome in COMPLETE and study.is_goal(run) and run.final is not None and math.isfinite(run.final)


def _points(study: Study, arm: Arm) -> list[tuple[int, float]]:
    return [(r.round, r.final) for r in study.runs if r.arm == arm and r.final is not None and _drawable(study, r)]


def _flat_lines(study: Study) -> list[tuple[str, float]]:
    runs = [r for r in study.runs if r.arm in ("untouched", "reference") and _drawable(study, r)]
    return [(r.policy if r.arm == "reference" else "round 0", r.final) for r in runs if r.final is not None]


def _picture(study: Study, width: int) -> Text:
    """Rounds to the right, final scores upward; round 0 and the references as lines across."""
    flat = _flat_lines(study)
    series = {arm: _points(study, arm) for arm in SERIES}
    values = [v for _, v in flat] + [v for points in series.values() for _, v in points]
    if not values or width < MIN_WIDTH:
        return Text("no score to draw yet", style="dim")
    low, high = with_margin(min(values), max(values))
    last = max([1, *(r.round for r in study.runs)])
    begin(width, HEIGHT, low, high)
    plotext.xlim(0, last + BOUND)
    _draw(flat, series, last)
    return drawn(range(last + 1), HEIGHT, low, high, digits=4) + Text("\n") + _legend(flat, series)


def _draw(flat: Sequence[tuple[str, float]], series: dict[Arm, list[tuple[int, float]]], last: int) -> None:
    for index, (_, value) in enumerate(flat):
        plotext.plot([0, last + BOUND], [value, value], marker="braille", color=LINES[index % len(LINES)])
    for arm, points in series.items():
        colour, mark = SERIES[arm]
        for (x1, y1), (x2, y2) in pairwise(points) if arm == "act" else ():
            if x2 == x1 + 1:  # a round without a score is a gap
                plotext.plot([x1, x2], [y1, y2], marker="braille", color=colour)
        if points:
            plotext.scatter([x for x, _ in points], [y for _, y in points], marker=mark, color=colour)


def _legend(flat: Sequence[tuple[str, float]], series: dict[Arm, list[tuple[int, float]]]) -> Text:
    marks = [(*SERIES[arm], ARM_WORDS[arm]) for arm, points in series.items() if points]
    lines = [(LINES[i % len(LINES)], "─", f"{clean(name, 30)} {number(value)}") for i, (name, value) in enumerate(flat)]
    parts = [Text.assemble((mark, STYLES[colour]), f" {words}") for colour, mark, words in (*marks, *lines)]
    return Text("   ").join(parts)


def _not_drawn(study: Study) -> list[str]:
    """Runs that have no point in the picture, and why."""
    ended = [run for run in study.runs if run.outcome is not None and not _drawable(study, run)]
    return [f"not drawn: round {r.round}, {ARM_WORDS[r.arm]} ({cut(r.policy, 30)}): {_why(study, r)}" for r in ended]


def _why(study: Study, run: RoundRun) -> str:
    if run.outcome not in COMPLETE:
        return f"it {'was ' if run.outcome in ('interrupted', 'lost') else ''}{run.outcome}: {cut(run.reason, 200)}"
    if run.score is None:
        return "no loss was logged"
    return f"{cut(run.score.metric, 30)} is {number(run.score.last.value)}"


def _costs(study: Study) -> str:
    if not study.calls:
        return "planning and reflecting: no calls"
    return f"planning and reflecting: {plural(study.calls, 'call')}, {study.tokens} tokens, {dollars(study.usd)}"
