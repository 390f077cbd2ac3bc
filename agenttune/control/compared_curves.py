"""Several curves for one picture: each branch a line of its own, over steps, epochs, time or tokens."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from agenttune.protocol.events import BranchStarted
from agenttune.protocol.metrics import AxisCurve, Curve, Curves, SeriesInfo, StoredPoint
from agenttune.protocol.reads import MAX_ROWS, CurvesQuery, Series
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog

MOST_UNSEEN = 20_000
"""Rows that a reader takes into the curves before it answers: up to a second (measured, of thirty metrics)."""
COUNTED = ("num_input_tokens_seen", "tokens_seen", "tokens")
"""Metrics that count tokens from the run's start, as loops call them."""
SAMPLED_ROWS = 100
"""Of each source, evenly over the steps, to tell which metrics there are (guess)."""
AXIS_POINTS = 2000
"""Of a metric that serves as an axis."""
ROOT_STEPS = 64
"""Steps before a branch began in which its parent's last value is looked for."""
SOURCES = ("step", "log", "eval")

Place = Callable[[Sequence[int]], list[float]]
"""Places on an axis, of steps in order."""


def series_of(log: RunLog, branch: str) -> Series:
    """Every metric of a branch with its extent; of a long log that is not prepared yet, what some of its rows tell."""
    if log.index_lag() <= MOST_UNSEEN:
        return Series(series=log.series(branch))
    found: dict[str, SeriesInfo] = {}
    for row in log.sampled_points(SAMPLED_ROWS, SOURCES, branch):
        for name in row.values:
            known = found.get(name)
            first = row.step if known is None else min(known.first_step, row.step)
            last = row.step if known is None else max(known.last_step, row.step)
            # About one a step: how often it was measured is only known once all rows were read.
            found[name] = SeriesInfo(name=name, branch=branch, count=last - first + 1, first_step=first, last_step=last)
    return Series(series=[found[name] for name in sorted(found)], is_sample=True)


def curves_of(log: RunLog, info: RunInfo, query: CurvesQuery) -> Curves:
    """The curves that a read asks for."""
    is_sample = log.index_lag() > MOST_UNSEEN
    names = list(dict.fromkeys(query.name))
    started = {
        event.body.name: event.body
        for event in log.events(kinds=["branch_started"], limit=MAX_ROWS)
        if isinstance(event.body, BranchStarted)
    }
    found: list[AxisCurve] = []
    for branch in dict.fromkeys(query.branch or [info.branch]):
        curves = (_sampled if is_sample else _whole)(log, names, branch, query)
        place = _axis(log, query, branch, started, is_sample)
        begun = started.get(branch)
        parent = begun if begun is not None and begun.parent is not None and not is_sample else None
        roots = {} if parent is None else _roots(log, names, parent, query, started)
        found += [_on_axis(curve, place, parent, roots.get(curve.name)) for curve in curves]
    there = {curve.name for curve in found}
    missing = [name for name in names if name not in there]
    return Curves(axis=query.axis, curves=found, missing=missing, is_sample=is_sample)


def _whole(log: RunLog, names: Sequence[str], branch: str, query: CurvesQuery) -> list[Curve]:
    return log.curves(names, branch, query.first_step, query.last_step, query.max_points)


def _sampled(log: RunLog, names: Sequence[str], branch: str, query: CurvesQuery) -> list[Curve]:
    """Rows here and there, for a picture at once of a long run whose curves nobody has asked for yet."""
    rows = log.sampled_points(query.max_points, SOURCES, branch, query.last_step, query.first_step)
    return [curve for name in names if (curve := _of_rows(name, branch, rows)) is not None]


def _of_rows(name: str, branch: str, rows: Sequence[StoredPoint]) -> Curve | None:
    values = sorted((row.step, row.values[name]) for row in rows if name in row.values)
    if not values:
        return None
    steps, heights = [step for step, _ in values], [value for _, value in values]
    clean = [value if math.isfinite(value) else math.nan for value in heights]
    return Curve(
        name=name,
        branch=branch,
        bucket_points=1,
        steps=steps,
        mean=clean,
        low=clean,
        high=clean,
        nonfinite=[int(not math.isfinite(value)) for value in heights],
    )


def _on_axis(
    curve: Curve, place: Place, parent: BranchStarted | None, root: tuple[int, float, float] | None
) -> AxisCurve:
    name = None if parent is None else parent.parent
    return AxisCurve(**dict(curve), x=place(curve.steps), parent=name, root=root)


def _roots(
    log: RunLog, names: Sequence[str], begun: BranchStarted, query: CurvesQuery, started: dict[str, BranchStarted]
) -> dict[str, tuple[int, float, float]]:
    """For each metric the last value of the parent where a branch began."""
    parent, step = begun.parent or "", begun.from_step
    curves = log.curves(names, parent, max(0, step - ROOT_STEPS), step, ROOT_STEPS)
    place = _axis(log, query, parent, started, False)
    ends = [(curve.name, curve.steps[-1], curve.mean[-1]) for curve in curves if curve.steps]
    return {name: (at, place([at])[0], value) for name, at, value in ends}


# -- axes ------------------------------------------------------------------------------------------------------------


def _axis(log: RunLog, query: CurvesQuery, branch: str, started: dict[str, BranchStarted], is_sample: bool) -> Place:
    if query.axis == "step":
        return lambda steps: [float(step) for step in steps]
    if query.axis == "time":
        return lambda steps: log.times(branch, steps)
    if is_sample:
        return lambda steps: [math.nan for _ in steps]
    names = ("epoch",) if query.axis == "epoch" else COUNTED
    for name in names:
        curves = log.curves([name], branch, max_points=AXIS_POINTS)
        if curves:
            return _between(curves[0].steps, curves[0].high)
    if query.axis == "tokens":
        return _by_speed(log, branch, started)
    return lambda steps: [math.nan for _ in steps]


def _by_speed(log: RunLog, branch: str, started: dict[str, BranchStarted]) -> Place:
    """Tokens since the run's start, by how many were trained on in a second and how long each step took."""
    begun = started.get(branch)
    before = 0.0
    if begun is not None and begun.parent is not None:
        before = _by_speed(log, begun.parent, started)([begun.from_step])[0]
        before = before if math.isfinite(before) else 0.0
    curves = {c.name: c for c in log.curves(["tokens_per_s", "step_time_s"], branch, max_points=AXIS_POINTS)}
    if len(curves) < 2:
        return lambda steps: [math.nan for _ in steps]
    speed, took = curves["tokens_per_s"], _between(curves["step_time_s"].steps, curves["step_time_s"].mean)
    start = begun.from_step if begun is not None else 0
    steps, counts = [start], [before]
    for step, rate, seconds in zip(speed.steps, speed.mean, took(speed.steps), strict=True):
        trained = rate * seconds * (step - steps[-1])
        counts.append(counts[-1] + (trained if math.isfinite(trained) else 0.0))
        steps.append(step)
    return _between(steps, counts)


def _between(known: Sequence[int], places: Sequence[float]) -> Place:
    """Places of steps, on straight lines between those that are known; past the ends, as at the nearest end's slope."""

    def place(step: int) -> float:
        if len(known) == 1:
            return places[0] if step == known[0] else math.nan
        later = min(max(1, bisect_left(known, step)), len(known) - 1)
        a, b = known[later - 1], known[later]
        return places[later - 1] + (places[later] - places[later - 1]) * (step - a) / max(1, b - a)

    return lambda steps: [place(step) for step in steps]
