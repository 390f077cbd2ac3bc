"""The goal metric of a run, as its log has it."""

from __future__ import annotations

import math

from agenttune.protocol.goal_names import is_goal, resolve
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt, Score
from agenttune.store.run_log import RunLog

EVERYTHING = 1_000_000
"""More events of one kind than a run has; a limit all the same, so that a mad agent cannot fill the memory."""
FALLBACK_METRICS = ("eval_loss", "loss", "step_loss")
"""Shown when the goal metric never appeared, in this order; less is better for all of them."""


def goal_values(log: RunLog, info: RunInfo, branch: str) -> tuple[str, list[MetricAt]] | None:
    """The goal metric's name and its values on a branch and what it stands on, or those of the first loss logged."""
    line = log.lineage(branch)
    names = {s.name for segment in line.segments for s in log.series(segment.branch)}
    goal = resolve(info.goal_metric, names)
    found = goal or next((n for n in FALLBACK_METRICS if n in names), None)
    if found is None:
        return None
    values = _evaluated(log, found, line)
    if values:
        return found, values
    measured = [s for s in line.segments if found in {known.name for known in log.series(s.branch)}]
    curves = [log.curve(found, s.branch, last_step=s.last_step, max_points=2000) for s in measured]
    return found, [MetricAt(step=s, value=v) for c in curves for s, v in zip(c.steps, c.mean, strict=True)]


def _evaluated(log: RunLog, metric: str, line: Lineage) -> list[MetricAt]:
    found = log.evaluations(metric)
    return [MetricAt(step=at.step, value=at.value) for at in found if line.has(at.branch, at.step)]


def score_of(values: tuple[str, list[MetricAt]] | None, info: RunInfo) -> Score | None:
    """First, last and best value; a non-finite value is never the best unless there is no other."""
    if values is None or not values[1]:
        return None
    name, points = values
    maximize = is_goal(name, info.goal_metric) and info.goal_direction == "maximize"
    finite = [p for p in points if math.isfinite(p.value)] or points[:1]
    best = (max if maximize else min)(finite, key=lambda p: p.value)
    direction = "maximize" if maximize else "minimize"
    return Score(metric=name, direction=direction, first=points[0], last=points[-1], best=best)
