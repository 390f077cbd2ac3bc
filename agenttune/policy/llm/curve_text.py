"""A metric's curve in words and figures, of bounded size: recent points as they are, older ones downsampled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from agenttune.detectors.trend import GRAD_NAMES, LEVEL_STEPS, LOSS_NAMES, Trend
from agenttune.llm.prompts import fenced
from agenttune.protocol.observation import Observation, SeriesView
from agenttune.protocol.redefining import Redefinition
from agenttune.protocol.text import number

LATEST, MIDDLE, OLDER = 8, 5, 5
"""Entries of a full curve: newest points raw, medians of the rest of the newest, means of all before them (guess)."""
BRIEF = 4
"""Entries of the curve of a metric that matters less."""
FULL = (*LOSS_NAMES, *GRAD_NAMES)
MOST_SERIES = 8
"""Metrics that are shown; of further ones only the names (guess)."""
MOST_NAMES = 10
_SAYS_NOTHING = re.compile(
    r"(eval_|train_)?(epoch|total_flos|num_input_tokens_seen|step_time_s|memory_bytes|(base_)?lr(_\d+)?|learning_rate)"
    r"|.*(_runtime|_per_second|_per_s|_preparation_time|_memory_bytes)"
)
"""Metrics of the machine rather than of the model, and rates, which stand among the knobs."""
NAME_LETTERS, VALUE_LETTERS = 64, 120

Point = tuple[int, float]


def curves(observation: Observation) -> list[str]:
    """A few lines for each metric, those that matter most first."""
    having = [name for name, view in observation.series.items() if view.values]
    names = sorted(_different(having, observation.goal_metric), key=lambda n: _rank(n, observation))
    shown, rest = names[:MOST_SERIES], names[MOST_SERIES:]
    lines = [_redefined(redefinition) for redefinition in observation.redefinitions]
    lines += [line for name in shown for line in _curve(observation, name)]
    if rest:
        listed = ", ".join(fenced(name, NAME_LETTERS) for name in rest[:MOST_NAMES])
        lines.append(f"and {len(rest)} more metrics, such as {listed}")
    return lines


def says_something(name: str) -> bool:
    """Whether a metric tells of the model."""
    return not _SAYS_NOTHING.fullmatch(name)


def _different(names: Sequence[str], goal: str) -> list[str]:
    """Names without duplicates: of several losses, and of several gradient norms, only the first."""
    doubles = {name for group in (LOSS_NAMES, GRAD_NAMES) for name in [n for n in group if n in names][1:]}
    doubles |= {"train_loss"} if set(LOSS_NAMES) & set(names) else set()
    return [name for name in names if name == goal or (says_something(name) and name not in doubles)]


def _redefined(redefinition: Redefinition) -> str:
    what = "training and evaluated losses mean" if redefinition.evaluations else "the training loss means"
    return (
        f"- since step {redefinition.step} {what} something else, by {fenced(redefinition.what, VALUE_LETTERS)}: "
        "do not compare their values of before and after; lowest and first are of since then"
    )


def _rank(name: str, observation: Observation) -> tuple[int, str]:
    first = (*LOSS_NAMES, observation.goal_metric, *GRAD_NAMES)
    return (first.index(name) if name in first else len(first), name)


def _curve(observation: Observation, name: str) -> Iterator[str]:
    view = observation.series[name]
    yield f"- {fenced(name, NAME_LETTERS)}: {_summary(observation, view)}"
    if name in LOSS_NAMES or name == observation.goal_metric:
        for label, points in (
            ("older", _older(view, OLDER)),
            ("before", _middle(view, MIDDLE)),
            ("latest", _latest(view, LATEST)),
        ):
            if points:
                yield f"  {label}: {_listed(points)}" if label != "latest" else f"  {_run(points)}"
    elif len(view.values) > 1:
        yield f"  {_listed([*_older(view, BRIEF), *_middle(view, BRIEF)])}"


def _summary(observation: Observation, view: SeriesView) -> str:
    bad = sum(not math.isfinite(value) for value in view.values)
    trend = Trend.of(observation, (view.name,))
    if trend is None:
        return f"not finite at any of the last {len(view.values)} points, last {number(view.values[-1])}"
    if view.name in FULL or view.name == observation.goal_metric:
        parts = [
            f"now {number(trend.level)} (median of {min(LEVEL_STEPS, len(trend))}; last {number(view.values[-1])})",
            f"noise {number(trend.noise_value)}",
            *([] if view.name in GRAD_NAMES else [f"slope {number(trend.slope())}"]),
            *([] if view.name in GRAD_NAMES else [f"lowest level {number(trend.best)}"]),
            f"first {number(trend.start)} at step {trend.all_steps[0]}",
        ]
    else:  # nobody knows whether it is noise that moves it, so nothing is smoothed
        parts = [f"now {number(view.values[-1])}", f"first {number(trend.start)} at step {trend.all_steps[0]}"]
    parts += [f"{bad} of the last {len(view.values)} points NOT FINITE"] if bad else []
    return ", ".join(parts)


def _points(view: SeriesView) -> list[Point]:
    return list(zip(view.steps, view.values, strict=True))


def _latest(view: SeriesView, count: int) -> list[Point]:
    return _points(view)[-count:]


def _middle(view: SeriesView, count: int) -> list[Point]:
    """Medians of equal parts of the newest points that `_latest` leaves out; a part of NaN is NaN."""
    return [(part[-1][0], _median(part)) for part in _parts(_points(view)[:-LATEST], count)]


def _older(view: SeriesView, count: int) -> list[Point]:
    """What came before the newest points."""
    first = view.steps[0] if view.steps else 0
    old = [(s, v) for s, v in zip(view.downsampled_steps, view.downsampled_values, strict=True) if s < first]
    return [(part[-1][0], _median(part)) for part in _parts(old, count)]


def _parts(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    count = min(count, len(points))
    edges = [round(i * len(points) / count) for i in range(count + 1)] if count else []
    return [points[a:b] for a, b in pairwise(edges)]


def _median(part: Sequence[Point]) -> float:
    finite = [value for _, value in part if math.isfinite(value)]
    return median(finite) if finite else part[-1][1]


def _run(points: Sequence[Point]) -> str:
    """The latest points, without the steps where they follow each other."""
    first, last = points[0][0], points[-1][0]
    if len(points) < 2 or last - first != len(points) - 1:
        return f"latest: {_listed(points)}"
    return f"latest, steps {first} to {last}: {' '.join(number(value) for _, value in points)}"


def _listed(points: Sequence[Point]) -> str:
    return " ".join(f"{step}:{number(value)}" for step, value in points)
