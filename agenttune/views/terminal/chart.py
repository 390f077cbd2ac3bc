"""The loss curve of the live screen."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import plotext
from rich.text import Text

from agenttune.protocol.metrics import Curve
from agenttune.protocol.summary import MetricAt

LOW_QUANTILE, HIGH_QUANTILE = 0.02, 0.95
"""The y-axis covers this part of the values, so that one spike does not flatten the rest (a guess, tried by eye)."""
MARGIN_FRAC = 0.08
SMOOTHING = 0.2
"""Weight of the newest value in the running mean drawn over the raw values."""
RAW, SMOOTH, EVALUATION = "gray", "cyan+", "orange+"
MIN_WIDTH, MIN_HEIGHT = 16, 4


class Marks(NamedTuple):
    """Places on the curve to point at, with one character each."""

    steps: Sequence[int]
    character: str
    colour: str


def loss_chart(
    curve: Curve | None, evaluations: Sequence[MetricAt], width: int, height: int, marks: Sequence[Marks] = ()
) -> Text:
    """The loss over steps as text of at most `width` x `height` characters.

    Values outside the range shown lie on its edge; non-finite values are gaps.
    """
    values = [] if curve is None else curve.mean
    finite = [v for v in values if math.isfinite(v)]
    if curve is None or not finite or width < MIN_WIDTH or height < MIN_HEIGHT:
        return Text(_instead(curve), style="dim")
    shown = [*finite, *(e.value for e in evaluations if math.isfinite(e.value))]
    low, high = value_range(shown, finite[-1])
    begin(width, height, low, high)
    _draw(curve.steps, [_clip(v, low, high) for v in values], RAW)
    _draw(curve.steps, [_clip(v, low, high) for v in smoothed(values)], SMOOTH)
    _draw_dots(evaluations, low, high)
    for mark in marks:
        _draw_marks(mark, curve, low, high)
    return drawn({curve.steps[0], (curve.steps[0] + curve.steps[-1]) // 2, curve.steps[-1]}, height, low, high)


def begin(width: int, height: int, low: float, high: float) -> None:
    """Begin a picture of so many columns and rows, with values from `low` to `high`."""
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    plotext.ylim(low, high)


def drawn(ticks: Iterable[int], height: int, low: float, high: float, digits: int = 3) -> Text:
    """The picture, with these ticks to the right and a few upward."""
    count = 3 if height < 9 else 4
    places = [low + (high - low) * i / (count - 1) for i in range(count)]
    plotext.yticks(places, [f"{place:.{digits}g}" for place in places])
    plotext.xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    return Text.from_ansi(plotext.build().rstrip("\n"))


def _instead(curve: Curve | None) -> str:
    if curve is None or not curve.steps:
        return "waiting for the first loss"
    return "the loss is not finite" if not any(map(math.isfinite, curve.mean)) else ""


def value_range(values: Sequence[float], newest: float) -> tuple[float, float]:
    """The y-axis: most of the values and always the newest, never empty."""
    ordered = sorted(values)
    last = len(ordered) - 1
    low = min(ordered[math.floor(LOW_QUANTILE * last)], newest)
    high = max(ordered[math.ceil(HIGH_QUANTILE * last)], newest)
    low, high = with_margin(low, high)
    # What is never below 0, as most losses, has no axis there.
    return (max(0.0, low) if ordered[0] >= 0 else low), high


def with_margin(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * MARGIN_FRAC or abs(high) * MARGIN_FRAC or 1.0
    return low - margin, high + margin


def smoothed(values: Sequence[float]) -> list[float]:
    """Running mean; a non-finite value is a gap after which the mean starts anew."""
    mean, out = math.nan, []
    for value in values:
        if not math.isfinite(value):
            mean = math.nan
        else:
            mean = value if math.isnan(mean) else mean + SMOOTHING * (value - mean)
        out.append(mean)
    return out


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high) if math.isfinite(value) else math.nan


def _draw(steps: Sequence[int], values: Sequence[float], colour: str) -> None:
    for part in _finite_parts(steps, values):
        plotext.plot([s for s, _ in part], [v for _, v in part], marker="braille", color=colour)


def _finite_parts(steps: Sequence[int], values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    part: list[tuple[int, float]] = []
    for step, value in zip(steps, values, strict=True):
        if math.isfinite(value):
            part.append((step, value))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _draw_dots(evaluations: Sequence[MetricAt], low: float, high: float) -> None:
    dots = [(e.step, _clip(e.value, low, high)) for e in evaluations if math.isfinite(e.value)]
    if dots:
        plotext.scatter([s for s, _ in dots], [v for _, v in dots], marker="dot", color=EVALUATION)


def _draw_marks(mark: Marks, curve: Curve, low: float, high: float) -> None:
    """Marks on the curve at their steps; on the upper edge where the loss is not finite."""
    levels = [_clip(value, low, high) for value in smoothed(curve.mean)]
    places = [min(bisect.bisect_left(curve.steps, step), len(levels) - 1) for step in mark.steps]
    if places:
        heights = [levels[i] if math.isfinite(levels[i]) else high for i in places]
        plotext.scatter([curve.steps[i] for i in places], heights, marker=mark.character, color=mark.colour)
