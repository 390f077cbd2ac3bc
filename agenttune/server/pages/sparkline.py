"""The curves around a request, as the points of an SVG, drawn here so that the page needs no script."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from agenttune.control import LocalControl
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.errors import UserError
from agenttune.protocol.goal_names import resolve
from agenttune.protocol.metrics import Curve
from agenttune.protocol.proposals import ApprovalRequest
from agenttune.protocol.reads import CurveQuery, SeriesQuery
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean, number

WIDTH, HEIGHT = 600, 140
PAD = 6
"""Room around the curve, so that its stroke is not cut, in the drawing's own units."""
CURVE_STEPS = 500
"""Steps before a request that its curves show (a guess at what tells a trend from noise)."""
CURVE_POINTS = 240
MOST_CURVES = 2


@dataclass(frozen=True)
class Drawing:
    """One metric over steps.

    Attributes:
        lines: Points of polylines; a value that is not finite breaks the line.
        mark_x: Where the request was made; None if that is outside.
        nonfinite: How many values were no numbers.
    """

    name: str
    lines: list[str]
    mark_x: float | None
    low: str
    high: str
    first_step: int
    last_step: int
    nonfinite: int
    width: int = WIDTH
    height: int = HEIGHT


def curves_around(control: LocalControl, info: RunInfo, request: ApprovalRequest) -> list[Drawing]:
    """The goal metric and the loss around the step of a request, of those that its branch has."""
    first = max(0, request.step - CURVE_STEPS)
    drawings: list[Drawing] = []
    known = [series.name for series in control.read(info.run_id, SeriesQuery(branch=request.branch)).series]
    for metric in dict.fromkeys((resolve(info.goal_metric, known) or info.goal_metric, *LOSS_NAMES)):
        with contextlib.suppress(UserError):  # there is none of that name
            query = CurveQuery(name=metric, branch=request.branch, first_step=first, max_points=CURVE_POINTS)
            drawing = draw(control.read(info.run_id, query), request.step)
            if drawing is not None and len(drawings) < MOST_CURVES:
                drawings.append(drawing)
    return drawings


def draw(curve: Curve, marked_step: int) -> Drawing | None:
    """The curve's means; None if there is no line to draw."""
    finite = [value for value in curve.mean if math.isfinite(value)]
    if len(finite) < 2:
        return None
    low, high = min(finite), max(finite)
    first, last = curve.steps[0], curve.steps[-1]

    def x(step: int) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (step - first) / max(1, last - first), 1)

    def y(value: float) -> float:
        share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5  # halves: no overflow
        return round(HEIGHT - PAD - (HEIGHT - 2 * PAD) * share, 1)

    lines: list[list[str]] = [[]]
    for step, value in zip(curve.steps, curve.mean, strict=True):
        if math.isfinite(value):
            lines[-1].append(f"{x(step)},{y(value)}")
        elif lines[-1]:
            lines.append([])
    return Drawing(
        name=clean(curve.name, 80),
        lines=[" ".join(line if len(line) > 1 else line * 2) for line in lines if line],
        mark_x=x(marked_step) if first <= marked_step <= last else None,
        low=number(low),
        high=number(high),
        first_step=first,
        last_step=last,
        nonfinite=sum(curve.nonfinite),
    )
