"""A past run of a study in a few lines for a language model: its curves, findings, time, model and data.

Of bounded size however long the run was. All text from logs is fenced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from agenttune.detectors.trend import GRAD_NAMES, LOSS_NAMES, series
from agenttune.llm.prompts import fenced
from agenttune.policy.llm.briefing import training
from agenttune.policy.llm.curve_text import NAME_LETTERS
from agenttune.protocol.observation import Observation, SeriesView
from agenttune.protocol.text import duration, number

CURVE_POINTS, BRIEF_POINTS = 10, 5
"""Entries of the curve of a loss, and of one that matters less (guess)."""
MOST_FINDINGS, FINDING_LETTERS = 4, 140
"""Findings that are told, the gravest and earliest first, and how long each is (guess)."""
LR_NAMES = ("lr", "learning_rate")
GRAVITY = ("critical", "warning", "info")


@dataclass(frozen=True)
class PastRun:
    """A run that has ended.

    Attributes:
        observation: At its end.
        duration_s: How long it took, in seconds.
    """

    observation: Observation
    duration_s: float


def details(run: PastRun) -> list[str]:
    """A run's course: about 220 tokens, counted as four letters each; figures take more."""
    return list(_details(run))


def facts(run: PastRun) -> list[str]:
    """What is trained on what, as far as the trainer told."""
    steps = run.observation.max_steps
    return training(run.observation) + ([f"{steps} steps planned"] if steps is not None else [])


def _details(run: PastRun) -> Iterator[str]:
    seen = run.observation
    pace = f", {seen.steps_per_s:.3g} steps/s at its end" if seen.steps_per_s else ""
    yield f"took {duration(run.duration_s)}{pace}"
    loss = series(seen, LOSS_NAMES)
    if loss is not None:
        yield _curve(loss, CURVE_POINTS, is_loss=True)
    if seen.evaluations:
        yield _evaluations(seen)
    for names in (GRAD_NAMES, LR_NAMES):
        view = series(seen, names)
        if view is not None:
            yield _curve(view, BRIEF_POINTS)
    yield from _findings(seen)


def _curve(view: SeriesView, count: int, is_loss: bool = False) -> str:
    points = _points(view)
    finite = [(value, step) for step, value in points if math.isfinite(value)]
    bad = [step for step, value in points if not math.isfinite(value)]
    listed = " ".join(f"{step}:{number(value)}" for step, value in _sampled(points, count))
    words = [f"{fenced(view.name, NAME_LETTERS)} {listed}"]
    if is_loss and finite:
        lowest, at = min(finite)
        words.append(f"lowest {number(lowest)} at step {at}")
    words += [f"not finite first at step {bad[0]}"] if bad else []
    return "; ".join(words)


def _points(view: SeriesView) -> list[tuple[int, float]]:
    """The whole curve: downsampled, and the newest points as they are."""
    first = view.steps[0] if view.steps else math.inf
    old = [(s, v) for s, v in zip(view.downsampled_steps, view.downsampled_values, strict=True) if s < first]
    return [*old, *zip(view.steps, view.values, strict=True)]


def _sampled(points: Sequence[tuple[int, float]], count: int) -> Iterator[tuple[int, float]]:
    """Medians over equal spans of steps, the first point and the last as they are."""
    if len(points) <= count:
        yield from points
        return
    yield points[0]
    begin, span = points[0][0], (points[-1][0] - points[0][0]) / (count - 1)
    for part in range(count - 1):
        low, high = begin + part * span, begin + (part + 1) * span
        inside = [value for step, value in points if low < step <= high]
        if part == count - 2:
            yield points[-1]
        elif inside:
            finite = [value for value in inside if math.isfinite(value)]
            yield round(high), median(finite) if finite else inside[-1]


def _evaluations(seen: Observation) -> str:
    name = seen.goal_metric
    known = [e for e in seen.evaluations if name in e.metrics]
    if not known:
        names = ", ".join(fenced(n, NAME_LETTERS) for n in list(seen.evaluations[-1].metrics)[:MOST_FINDINGS])
        return f"evaluated without {fenced(name, NAME_LETTERS)}: {names}"
    points = [(e.step, e.metrics[name]) for e in known]
    listed = " ".join(f"{step}:{number(value)}" for step, value in _sampled(points, CURVE_POINTS))
    best = seen.best_evaluation()
    at = f"; best {number(best.metrics[name])} at step {best.step}" if best is not None else ""
    return f"{fenced(name, NAME_LETTERS)} {listed}{at}"


def _findings(seen: Observation) -> Iterator[str]:
    found = sorted(seen.findings, key=lambda f: (GRAVITY.index(f.severity), f.step))
    for finding in sorted(found[:MOST_FINDINGS], key=lambda f: f.step):
        yield f"step {finding.step}, {finding.severity} {finding.kind}: {fenced(finding.summary, FINDING_LETTERS)}"
    if len(found) > MOST_FINDINGS:
        yield f"and {len(found) - MOST_FINDINGS} more findings"
