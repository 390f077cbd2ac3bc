"""A metric's curve in words and figures, of bounded size: the whole course in tenths, the newest points as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from agenttune.detectors.trend import GRAD_NAMES, LEVEL_STEPS, LOSS_NAMES, Trend, spread
from agenttune.llm.prompts import fenced
from agenttune.policy.llm.token_room import within
from agenttune.protocol.observation import Observation, SeriesView
from agenttune.protocol.redefining import Redefinition
from agenttune.protocol.text import number

LATEST, TENTHS, FIFTHS, BRIEF = 8, 10, 5, 3
"""Newest points as they are; parts of the course of a loss, of a gradient norm, of what matters less (guess)."""
MOST_SERIES = 6
"""Metrics that are shown; of further ones only the names (guess)."""
MOST_NAMES = 6
CLIP_STEPS = 64
"""Newest steps of which the clipped share is told (guess)."""
FULL = (*LOSS_NAMES, *GRAD_NAMES)
_SAYS_NOTHING = re.compile(
    r"(eval_|train_)?(epoch|total_flos|num_input_tokens_seen|step_time_s|memory_bytes|(base_)?lr(_\d+)?|learning_rate)"
    r"|path_straightness|(early_)?update_ratio"
    r"|.*(_runtime|_per_second|_per_s|_preparation_time|_memory_bytes)"
)
"""Metrics of the machine rather than of the model; rates, and how weights move, have lines of their own."""
NAME_LETTERS, VALUE_LETTERS, NAME_TOKENS = 64, 120, 12
PLAIN_NAMES = frozenset({*LOSS_NAMES, *GRAD_NAMES, "eval_loss", "eval_accuracy", "train_loss", "eval_perplexity"})
"""Names of metrics that need no fence: they are our own, or of the libraries."""

Point = tuple[int, float]
BEFORE, AFTER = 8, 8
"""Points on either side by whose median it is judged whether a jump stays (guess)."""
FEWEST_BEFORE, FEWEST_AFTER = 4, 4
"""With fewer before there is nothing to jump from; with fewer after nobody can tell whether it stays."""
NOISES, LEAST = 6.0, math.log(1.25)
"""A jump is more than so many standard deviations of a step, and than a quarter of the value (guess)."""
MOST = 3
"""Jumps that are told, the newest (guess)."""


def named(name: str) -> str:
    """A metric's name, fenced unless it is one of ours."""
    return name if name in PLAIN_NAMES else fenced(within(name, NAME_TOKENS), NAME_LETTERS)


def brief(value: float) -> str:
    """A figure of a curve, in three digits: each one more is a token."""
    return f"{value:.3g}" if math.isfinite(value) else number(value)


def curves(observation: Observation) -> list[str]:
    """A few lines for each metric, those that matter most first."""
    having = [name for name, view in observation.series.items() if view.values]
    names = sorted(_different(having, observation.goal_metric), key=lambda n: _rank(n, observation))
    shown, rest = names[:MOST_SERIES], names[MOST_SERIES:]
    lines = [_redefined(redefinition) for redefinition in observation.redefinitions]
    lines += [line for name in shown for line in _curve(observation, name)]
    if rest:
        listed = ", ".join(rest[:MOST_NAMES])
        lines.append(f"and {len(rest)} more metrics, such as {fenced(listed, NAME_LETTERS)}")
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
        f"since step {redefinition.step} {what} something else, by {fenced(redefinition.what, VALUE_LETTERS)}: "
        "values of before and after cannot be compared"
    )


def _rank(name: str, observation: Observation) -> tuple[int, str]:
    first = (*LOSS_NAMES, observation.goal_metric, *GRAD_NAMES)
    return (first.index(name) if name in first else len(first), name)


def _curve(observation: Observation, name: str) -> Iterator[str]:
    view = observation.series[name]
    is_full = name in FULL or name == observation.goal_metric
    parts = FIFTHS if name in GRAD_NAMES else TENTHS if is_full else BRIEF
    yield f"{named(name)}: {_summary(observation, view, is_full)}"
    if len(view.values) < 2:
        return
    course = _course(view, parts)
    if course:
        yield f"- course: {_listed(course)}"
    if name in LOSS_NAMES or name == observation.goal_metric:
        yield f"- {_run(_points(view)[-LATEST:])}"
        yield from (f"- {line}" for line in jumps_of(view.steps, view.values))


def _summary(observation: Observation, view: SeriesView, is_full: bool) -> str:
    bad = sum(not math.isfinite(value) for value in view.values)
    trend = Trend.of(observation, (view.name,))
    if trend is None:
        return f"not finite at any of the last {len(view.values)} points, last {number(view.values[-1])}"
    if is_full:
        parts = [f"now {brief(trend.level)} (median of {min(LEVEL_STEPS, len(trend))})"]
        parts += [f"noise {brief(trend.noise_value)}"]
        if view.name in GRAD_NAMES:
            parts += _clipped(observation, view)
        else:
            parts += [
                f"slope {brief(trend.slope())} a step",
                f"lowest level {brief(trend.best)} at step {trend.best_step}",
            ]
    else:  # nobody knows whether it is noise that moves it, so nothing is smoothed
        parts = [f"now {brief(view.values[-1])}"]
    parts += [f"first {brief(trend.start)} at step {trend.all_steps[0]}"]
    parts += [f"{bad} of the last {len(view.values)} points NOT FINITE"] if bad else []
    return ", ".join(parts)


def _clipped(observation: Observation, view: SeriesView) -> list[str]:
    """Which share of the newest gradients was longer than the clipping norm."""
    knob = observation.knob("max_grad_norm")
    limit = knob.effective if knob is not None else None
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        return []
    if limit <= 0:
        return ["not clipped"]
    newest = view.values[-CLIP_STEPS:]
    share = sum(value > limit for value in newest) / len(newest)
    return [f"{100 * share:.0f} % of the last {len(newest)} clipped at {brief(limit)}"]


def _points(view: SeriesView) -> list[Point]:
    return list(zip(view.steps, view.values, strict=True))


def _course(view: SeriesView, count: int) -> list[Point]:
    """Medians over equal spans of steps, of all but the newest points, which are shown as they are."""
    recent = _points(view)[: -LATEST if view.name in FULL else None]
    first = view.steps[0] if view.steps else 0
    old = [(s, v) for s, v in zip(view.downsampled_steps, view.downsampled_values, strict=True) if s < first]
    points = [*old, *recent]
    if not points:
        return []
    begin, end = points[0][0] - 1, points[-1][0]
    count = min(count, len(points))
    ends = [begin + (end - begin) * (part + 1) / count for part in range(count)]
    found: list[Point] = []
    low: float = begin
    for high in ends:
        inside = [point for point in points if low < point[0] <= high]
        low = high
        if inside:
            found.append((inside[-1][0], _median(inside)))
    return found


def _median(part: Sequence[Point]) -> float:
    finite = [value for _, value in part if math.isfinite(value)]
    return median(finite) if finite else part[-1][1]


def _run(points: Sequence[Point]) -> str:
    """The latest points, without the steps where they follow each other."""
    first, last = points[0][0], points[-1][0]
    if len(points) < 2 or last - first != len(points) - 1:
        return f"latest: {_listed(points)}"
    return f"latest, steps {first} to {last}: {' '.join(brief(value) for _, value in points)}"


def _listed(points: Sequence[Point]) -> str:
    return " ".join(f"{step}:{brief(value)}" for step, value in points)


# -- jumps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Jump:
    at: int
    before: float
    to: float
    lasted: int | None
    """Points until it was back; 0: too early to tell; None: it stays."""


def jumps_of(steps: Sequence[int], values: Sequence[float]) -> list[str]:
    """The newest jumps of a curve, a line each, oldest first; and its lonely points that were high, counted in one.

    Args:
        steps: Of its newest points.
        values: There; those that are not finite are told elsewhere.
    """
    points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    found = _found([v for _, v in points])
    told = [_words(jump, points) for jump in found if jump.lasted != 1][-MOST:]
    alone = [points[jump.at] for jump in found if jump.lasted == 1]
    if alone:
        shown = ", ".join(f"{step}:{value:.3g}" for step, value in alone[-MOST:])
        told.append(f"single high points, back at the next: {shown}{' and more' if len(alone) > MOST else ''}")
    return told


def _found(values: Sequence[float]) -> list[_Jump]:
    is_positive = bool(values) and min(values) > 0
    heights = [math.log(v) if is_positive else v for v in values]
    least = max(NOISES * spread(heights), LEAST if is_positive else 0.0)
    found: list[_Jump] = []
    at = FEWEST_BEFORE
    while least > 0 and at < len(heights):
        before = median(heights[max(0, at - BEFORE) : at])
        if heights[at] - max(before, heights[at - 1]) <= least:
            at += 1
            continue
        half = before + (heights[at] - before) / 2
        after = heights[at : at + AFTER]
        back = next((i for i, height in enumerate(after) if height < half), None)
        if back is None and len(after) < FEWEST_AFTER:
            back = 0
        found.append(_Jump(at, values[at - 1], values[at], back))
        at += back or len(after)
    return found


def _words(jump: _Jump, points: Sequence[tuple[int, float]]) -> str:
    came = "" if jump.lasted is None else f"back after {jump.lasted} steps" if jump.lasted else "newest, may not stay"
    before, step = points[jump.at - 1][0], points[jump.at][0]
    return f"jumped at {before} -> {step}: {number(jump.before)} -> {number(jump.to)} in one step, {came or 'stays'}"
