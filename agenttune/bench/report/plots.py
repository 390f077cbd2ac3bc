"""Drawings by matplotlib, as SVG without colours of their own: a page chooses them by day and by night."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from agenttune.bench.statistics import Interval
from agenttune.protocol.text import clean

INK, DIM, GRID = "#010101", "#020202", "#030303"
"""Stand for the colour of text, of axes and of the grid until a page or a file gives its own."""
SERIES = tuple(f"#0404{i:02d}" for i in range(10))
"""The same for lines."""
MARKERS = "osD^vP*X<>"
STYLES = ("-", "--", "-.", ":")
LIGHT = {
    INK: "#1b1f24",
    DIM: "#5d6570",
    GRID: "#d5d9df",
    **dict(
        zip(
            SERIES,
            [
                "#1f5fbf",
                "#b35900",
                "#14713d",
                "#b42318",
                "#6b3fa0",
                "#00707a",
                "#a02a72",
                "#6b5b00",
                "#5d6570",
                "#1b1f24",
            ],
            strict=True,
        )
    ),
}
"""For a file on white ground."""
GOOD_TO_BAD = LinearSegmentedColormap.from_list("good_to_bad", ["#8fb8ea", "#ffffff", "#f2a48c"])
"""Light throughout: the figures on it are dark by day and by night."""
TILE_TEXT, NO_TILE = "#1b1f24", "#e3e6ea"
BASELINE = "none"
"""Drawn dashed, on top."""
LETTERS = 28
"""Of a name in a drawing."""
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agenttune",
    "text.parse_math": False,
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": DIM,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "text.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """A contender's course.

    Attributes:
        marks: Where it acted: (total steps, whether it took effect).
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: Sequence[tuple[float, bool]] = ()


def series_of(names: Sequence[str]) -> dict[str, int]:
    """One place a contender, so that it looks the same in all drawings."""
    return {name: i for i, name in enumerate(names)}


def coloured(svg: str, colours: Mapping[str, str]) -> str:
    """A drawing with real colours instead of those that stand for them."""
    return re.sub("#0[1-4]0[1-4][0-9]{2}", lambda match: colours.get(match.group(), match.group()), svg)


def themed(svg: str, prefix: str) -> str:
    """A drawing for the inside of a page: its colours are the page's, its names its own.

    Args:
        prefix: Of its identifiers, which are the same in every drawing of matplotlib's.
    """
    drawn = re.sub(r' width="[^"]*pt" height="[^"]*pt"', "", svg, count=1)
    named = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", drawn)
    variables = {INK: "var(--text)", DIM: "var(--dim)", GRID: "var(--line)"}
    return coloured(named, variables | {colour: f"var(--s{i})" for i, colour in enumerate(SERIES)})


def intervals(names: Sequence[str], found: Sequence[Interval], label: str, lines_at: Sequence[float] = ()) -> str:
    """Estimates with their intervals, one contender a row, the first on top."""
    with _canvas(6.4, 0.7 + 0.28 * len(names)) as (canvas, axes):
        for i, interval in enumerate(found):
            if math.isfinite(interval.low):
                axes.plot([interval.low, interval.high], [i, i], color=SERIES[0], linewidth=2.2, solid_capstyle="round")
            axes.plot([interval.estimate], [i], "o", color=SERIES[0], markersize=5)
        for at in lines_at:
            axes.axvline(at, color=DIM, linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(names)), [_name(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
    return _svg(canvas)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    span: tuple[float, float, float],
) -> str:
    """Tiles from good to bad.

    Args:
        span: Values that are all good, neither, and all bad.
    """
    low, middle, high = span
    letters = max([len(_name(row)) for row in rows], default=1)
    width, height = 0.9 + 0.075 * letters + 0.56 * len(columns), 1.1 + 0.28 * len(rows)
    with _canvas(width, height) as (canvas, axes):
        for y, (of_row, words) in enumerate(zip(values, texts, strict=True)):
            for x, (value, word) in enumerate(zip(of_row, words, strict=True)):
                scaled = (value - middle) / (high - middle if value > middle else middle - low) / 2 + 0.5
                colour = NO_TILE if math.isnan(value) else GOOD_TO_BAD(min(1.0, max(0.0, scaled)))
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="none"))
                axes.text(x, y, word, ha="center", va="center", fontsize=8, color=TILE_TEXT)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(
            range(len(columns)), [_name(c) for c in columns], rotation=40, ha="left", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return _svg(canvas)


def curves(lines: Sequence[Line], label: str, styles: Mapping[str, int], is_log: bool) -> str:
    """Courses over total steps, with a triangle where a contender acted and a cross where it was not allowed to."""
    with _canvas(4.8, 3.3) as (canvas, axes):
        for line in lines:
            # Whatever changed nothing lies on the dashed one, which stays visible above it.
            look = _look(styles[line.name]) | ({"linestyle": "--", "zorder": 5} if line.name == BASELINE else {})
            axes.plot(line.steps, line.values, label=_name(line.name), linewidth=1.5, **look)
            for is_taken, shape in ((True, "^"), (False, "x")):
                at = [step for step, taken in line.marks if taken == is_taken]
                height = [float(np.interp(step, line.steps, line.values)) for step in at]
                axes.plot(at, height, shape, color=look["color"], markersize=5, linestyle="none")
        if is_log:
            axes.set_yscale("log")
        axes.set_xlabel("total steps, those of trials and undone ones included")
        axes.set_ylabel(_name(label))
        _legend(axes, len(lines), 3)
    return _svg(canvas)


def profiles(lines: Sequence[Line], styles: Mapping[str, int]) -> str:
    """Share of cells at or below each regret."""
    with _canvas(6.4, 3.8) as (canvas, axes):
        for line in lines:
            look = _look(styles[line.name])
            if line.low and all(map(math.isfinite, line.low)):
                axes.fill_between(line.steps, line.low, line.high, color=look["color"], alpha=0.12, linewidth=0)
            axes.plot(line.steps, line.values, label=_name(line.name), linewidth=1.6, **look)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("regret of at most (0: the best constant rate, 1: doing nothing)")
        axes.set_ylabel("share of cells")
        _legend(axes, len(lines), 4)
    return _svg(canvas)


def costs(points: Mapping[str, tuple[float, Interval]], label: str, styles: Mapping[str, int]) -> str:
    """What a contender takes against what it reaches: the lower left is best."""
    with _canvas(6.4, 3.8) as (canvas, axes):
        for name, (cost, regret) in points.items():
            i = styles[name]
            colour = SERIES[i % len(SERIES)]
            if math.isfinite(regret.low):
                axes.plot([cost, cost], [regret.low, regret.high], color=colour, linewidth=1)
            axes.plot([cost], [regret.estimate], MARKERS[i % len(MARKERS)], color=colour, label=_name(name))
        axes.set_xlabel(label)
        axes.set_ylabel("regret (interquartile mean)")
        _legend(axes, len(points), 4)
    return _svg(canvas)


def _look(i: int) -> dict[str, Any]:
    return {"color": SERIES[i % len(SERIES)], "linestyle": STYLES[i // len(SERIES) % len(STYLES)]}


def _legend(axes: Any, entries: int, columns: int) -> None:
    if entries:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncol=columns, fontsize=8, handlelength=1.8)


def _name(text: str) -> str:
    return clean(text, LETTERS)


@contextmanager
def _canvas(width: float, height: float) -> Any:
    with mpl.rc_context(_SETTINGS):
        canvas = Canvas(figsize=(width, height))
        yield canvas, canvas.add_subplot()


def _svg(canvas: Any) -> str:
    """Without what is no drawing: declarations, metadata, and a style that would be the whole page's."""
    stream = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        canvas.savefig(
            stream, format="svg", bbox_inches="tight", pad_inches=0.05, transparent=True, metadata={"Date": None}
        )
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<style .*?</style>", "", drawn, flags=re.DOTALL)
    return drawn.strip()
