"""Draws curves as inline SVG: no script, no font, no link out of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from agenttune.protocol.text import clean, number
from agenttune.views.report.curves import CurveLine, Panel, wants_log_scale
from agenttune.views.report.journal import OUTCOMES, DecisionOutcome

WIDTH, LEFT, RIGHT, TOP, FLOOR = 900, 70, 34, 12, 214
"""Edges of the plot in pixels; below it are the steps, and lanes for the marks of decisions."""
LANE = 14
"""Each outcome that occurs has a lane of its own."""
HIT = "M-10 -7H10V7H-10Z"
"""Around a mark, for a finger; as high as its lane."""
MOST_RULES = 60
"""With more changes than these, upright lines would cover the curve: the marks alone are drawn."""
LARGEST = 1e300
"""Larger values are drawn at this value, so that differences stay finite."""
SHAPES: dict[DecisionOutcome, str] = {
    "applied": "M-4 -4H4V4H-4Z",
    "kept": "M0 -5L5 4H-5Z",
    "reverted": "M0 5L5 -4H-5Z",
    "refused": "M-4 -4L4 4M4 -4L-4 4",
    "expired": "M-4 0H4",
    "failed": "M0 -5L5 0L0 5L-5 0Z",
    "waiting": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
}
"""One shape an outcome, so that colour is not needed to tell them apart."""
DONE: frozenset[DecisionOutcome] = frozenset({"applied", "kept", "reverted"})


class Mark(NamedTuple):
    """A decision on the step axis. `anchor`: where on the page it is told; empty if it is not."""

    step: int
    outcome: DecisionOutcome
    words: str
    anchor: str
    is_abandoned: bool = False


class PixelScale(NamedTuple):
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        if self.is_log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low))
        else:
            low, high = self.low, self.high
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def draw(panel: Panel, marks: Sequence[Mark], last_step: int) -> Markup:
    """One panel as an SVG element."""
    x = PixelScale(min((line.curve.steps[0] for line in panel.lines), default=0), last_step, LEFT, WIDTH - RIGHT)
    x = x._replace(low=min(x.low, 0)) if x.low < last_step * 0.2 else x
    x = x if x.high > x.low else x._replace(low=x.low - 1, high=x.high + 1)
    y = _y_scale(panel)
    parts = [*_axes(x, y), *_nonfinite(panel.lines, x)]
    for line in panel.lines:
        parts += _curve(line, x, y, dashed=line.label == "base")
    lanes = [outcome for outcome in OUTCOMES if any(mark.outcome == outcome for mark in marks)]
    parts += _marks(marks, x, lanes)
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}" preserveAspectRatio="xMidYMid meet">{body}</svg>'
    ).format(w=WIDTH, h=FLOOR + 30 + LANE * len(lanes), title=clean(panel.title, 100), body=Markup("").join(parts))


def is_log(panel: Panel) -> bool:
    return wants_log_scale(_values(panel))


def _values(panel: Panel) -> list[float]:
    found = [v for line in panel.lines for v in (*line.curve.mean, *line.curve.low, *line.curve.high)]
    return [_bounded(v) for v in found if math.isfinite(v)]


def _bounded(value: float) -> float:
    return max(-LARGEST, min(LARGEST, value))


def _y_scale(panel: Panel) -> PixelScale:
    values = _values(panel) or [0.0]
    low, high = min(values), max(values)
    if wants_log_scale(values):
        return PixelScale(low / 1.1, high * 1.1, FLOOR, TOP, is_log=True)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    # What is never below 0, as most losses and all rates, has no axis there.
    return PixelScale(max(0.0, low - room) if low >= 0 else low - room, high + room, FLOOR, TOP)


def _axes(x: PixelScale, y: PixelScale) -> Iterator[Markup]:
    for value in _log_ticks(y) if y.is_log else _ticks(y.low, y.high, 6):
        yield Markup('<path class="grid" d="M{a} {y:.1f}H{b}"/><text x="{t}" y="{z:.1f}" class="yt">{v}</text>').format(
            a=LEFT, b=WIDTH - RIGHT, y=y.at(value), t=LEFT - 6, z=y.at(value) + 4, v=number(float(value))
        )
    for value in (tick for tick in _ticks(x.low, x.high, 8) if tick == int(tick)):
        yield Markup('<text x="{x:.1f}" y="{y}" class="xt">{v}</text>').format(
            x=x.at(value), y=FLOOR + 18, v=f"{int(value):,}"
        )
    yield Markup('<path class="axis" d="M{a} {t}V{y}H{b}"/>').format(a=LEFT, b=WIDTH - RIGHT, t=TOP, y=FLOOR)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    size = next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)
    first = math.ceil(low / size)
    return [float(f"{i * size:.12g}") for i in range(first, first + 2 * about) if i * size <= high]


def _log_ticks(y: PixelScale) -> list[float]:
    first, last = math.ceil(math.log10(y.low)), math.floor(math.log10(y.high))
    every = max(1, math.ceil((last - first + 1) / 6))
    return [10.0**i for i in range(first, last + 1, every)]


def _curve(line: CurveLine, x: PixelScale, y: PixelScale, dashed: bool) -> Iterator[Markup]:
    style = " ".join(["off" if line.is_abandoned else "on", *(["dash"] if dashed else [])])
    curve = line.curve
    for run in _unbroken(curve.mean):
        points = [(x.at(curve.steps[i]), i) for i in run]
        if curve.bucket_points > 1:
            yield _band(points, line, y, style)
        if len(points) == 1:
            yield Markup('<circle class="dot {s}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>').format(
                s=style, x=points[0][0], y=y.at(_bounded(curve.mean[run[0]]))
            )
        else:
            path = "L".join(f"{px:.1f} {y.at(_bounded(curve.mean[i])):.1f}" for px, i in points)
            yield Markup('<path class="line {s}" d="M{d}"/>').format(s=style, d=path)


def _band(points: Sequence[tuple[float, int]], line: CurveLine, y: PixelScale, style: str) -> Markup:
    """The range of values that a downsampled point stands for."""
    up = [f"{px:.1f} {y.at(_bounded(line.curve.high[i])):.1f}" for px, i in points]
    down = [f"{px:.1f} {y.at(_bounded(line.curve.low[i])):.1f}" for px, i in reversed(points)]
    return Markup('<path class="band {s}" d="M{d}Z"/>').format(s=style, d="L".join(up + down))


def _unbroken(values: Sequence[float]) -> Iterator[list[int]]:
    """Runs of indices whose values are finite; the curve is broken between them."""
    run: list[int] = []
    for i, value in enumerate(values):
        if math.isfinite(value):
            run.append(i)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _nonfinite(lines: Sequence[CurveLine], x: PixelScale) -> Iterator[Markup]:
    """Where values were NaN or infinite, a bar at the top says so."""
    for line in lines:
        spans: list[list[int]] = []
        for step, count in zip(line.curve.steps, line.curve.nonfinite, strict=True):
            if not count:
                continue
            if spans and x.at(step) - x.at(spans[-1][1]) < 4:
                spans[-1][1:] = [step, spans[-1][2] + count]
            else:
                spans.append([step, step, count])
        for first, last, count in spans:
            yield Markup(
                '<rect class="nan" x="{x:.1f}" y="{y}" width="{w:.1f}" height="7"><title>{t}</title></rect>'
            ).format(
                x=x.at(first) - 1.5,
                y=TOP - 8,
                w=x.at(last) - x.at(first) + 3,
                t=f"{clean(line.label, 60)}: {count} values NaN or infinite, to step {last}",
            )


def _marks(marks: Sequence[Mark], x: PixelScale, lanes: Sequence[DecisionOutcome]) -> Iterator[Markup]:
    """Marks of one outcome on one pixel are one mark: the page stays bounded however many decisions there are."""
    merged: dict[tuple[int, DecisionOutcome], list[Mark]] = {}
    for mark in marks:
        if x.low <= mark.step <= x.high:
            merged.setdefault((round(x.at(mark.step) / 3), mark.outcome), []).append(mark)
    with_rules = sum(outcome in DONE for _, outcome in merged) <= MOST_RULES
    for (_, outcome), group in merged.items():
        at, lane = x.at(group[0].step), FLOOR + 36 + LANE * lanes.index(outcome)
        yield _mark(outcome, group, at, lane, with_rules and outcome in DONE)


def _mark(outcome: DecisionOutcome, group: Sequence[Mark], at: float, lane: int, with_rule: bool) -> Markup:
    more = f" and {len(group) - 1} more {outcome} nearby" if len(group) > 1 else ""
    words = clean(f"step {group[0].step}, {outcome}: {group[0].words}{more}", 300)
    rule = Markup('<path class="rule" d="M{x:.1f} {t}V{b}"/>').format(x=at, t=TOP, b=FLOOR)
    shape = Markup('<path class="shape" transform="translate({x:.1f} {y})" d="{d}"/>').format(
        x=at, y=lane, d=SHAPES[outcome]
    )
    hit = Markup('<path class="hit" transform="translate({x:.1f} {y})" d="{d}"/>').format(x=at, y=lane, d=HIT)
    inner = Markup("<title>{t}</title>{r}{s}{h}").format(t=words, r=rule if with_rule else Markup(""), s=shape, h=hit)
    gone = " off" if all(mark.is_abandoned for mark in group) else ""
    anchor = next((mark.anchor for mark in group if mark.anchor), "")
    if not anchor:
        return Markup('<g class="mark {o}{g}">{i}</g>').format(o=outcome, g=gone, i=inner)
    return Markup('<a class="mark {o}{g}" href="#{a}" aria-label="{t}">{i}</a>').format(
        o=outcome, g=gone, a=anchor, t=words, i=inner
    )


def sample(outcome: DecisionOutcome) -> Markup:
    """An outcome's shape for the legend."""
    return Markup(
        '<svg class="sample mark {o}" viewBox="-7 -7 14 14" aria-hidden="true"><path class="shape" d="{d}"/></svg>'
    ).format(o=outcome, d=SHAPES[outcome])
