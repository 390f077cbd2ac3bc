"""What the list of runs tells of one: a fold of its log that reads little, and goes on where it left off."""

from __future__ import annotations

import math

from agenttune.protocol.events import Evaluated, Event, Found, PolicyAttached
from agenttune.protocol.goal_names import is_goal, resolve, value_of
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.overview import SPARK_POINTS, GoalOverview, Measured, Spent
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt
from agenttune.store.journal.goal_metric import FALLBACK_METRICS
from agenttune.store.run_log import RunLog

PACE_ROWS = 64
"""Newest rows that tell the pace (guess)."""
PAGE = 1000
SOURCES = ("step", "log", "eval")


class OverviewFold:
    """One run's part of the list, kept up to date event by event. For one thread at a time."""

    def __init__(self) -> None:
        self._seq = 0
        self._values: list[tuple[str, int, float]] = []
        """Branch, step and value of the goal metric as evaluated."""
        self._policy: str | None = None
        self._critical = 0
        self._spent = Spent()

    def measure(self, log: RunLog, info: RunInfo) -> Measured:
        """Take in what was written since, and tell how the run stands."""
        self._follow(log, info)
        line = log.lineage(info.branch)
        recent = log.recent_times(PACE_ROWS, info.branch)
        return Measured(
            goal=self._goal(log, info, line),
            steps_per_s=pace_of(recent),
            last_step_at_s=recent[-1][1] if recent else None,
            policy=self._policy,
            waiting=log.count_commands(State.PROPOSED) if info.is_live else 0,
            critical=self._critical,
            spent=self._spent,
        )

    def _follow(self, log: RunLog, info: RunInfo) -> None:
        until = log.last_seq()
        self._spent = _sum(self._spent, log.spent_on_models(self._seq, until))
        kinds = ["evaluated", "found", "policy_attached", "policy_detached"]
        since = self._seq
        while since < until and (page := log.events(since, PAGE, kinds)):
            since = page[-1].seq
            for event in page:
                self._take(event, info)
        self._seq = max(until, since)

    def _take(self, event: Event, info: RunInfo) -> None:
        body = event.body
        if isinstance(body, Evaluated):
            value = value_of(info.goal_metric, body.metrics)
            if value is not None:
                self._values.append((event.branch, event.step or 0, value))
        elif isinstance(body, Found):
            self._critical += body.finding.severity == "critical"
        elif isinstance(body, PolicyAttached):
            self._policy = body.policy
        elif info.is_live:  # its agent leaves a run that has ended, which says nothing of who steered it
            self._policy = None

    def _goal(self, log: RunLog, info: RunInfo, line: Lineage) -> GoalOverview:
        values = [MetricAt(step=step, value=value) for branch, step, value in self._values if line.has(branch, step)]
        if values:
            return _overview(info, info.goal_metric, values, is_all=True)
        return _by_rows(log, info, line)


def _sum(one: Spent, other: Spent) -> Spent:
    usd = None if one.usd is None or other.usd is None else one.usd + other.usd
    return Spent(calls=one.calls + other.calls, tokens=one.tokens + other.tokens, usd=usd)


def pace_of(rows: list[tuple[int, float]]) -> float | None:
    """Steps a second, by (step, Unix time) of rows in order; None where that is not to be told."""
    took_s = rows[-1][1] - rows[0][1] if rows else 0.0
    steps = rows[-1][0] - rows[0][0] if rows else 0
    return steps / took_s if took_s > 0 and steps > 0 else None


def _by_rows(log: RunLog, info: RunInfo, line: Lineage) -> GoalOverview:
    """By rows of metrics here and there, where nothing was evaluated: reading all of them would take seconds."""
    rows = [row for s in line.segments for row in log.sampled_points(SPARK_POINTS, SOURCES, s.branch, s.last_step)]
    names = {name for row in rows for name in row.values}
    name = resolve(info.goal_metric, names) or next((n for n in FALLBACK_METRICS if n in names), None)
    if name is None:
        return GoalOverview(metric=info.goal_metric, direction=info.goal_direction)
    return _overview(
        info, name, [MetricAt(step=row.step, value=row.values[name]) for row in rows if name in row.values]
    )


def _overview(info: RunInfo, name: str, values: list[MetricAt], is_all: bool = False) -> GoalOverview:
    """The goal by some of its values; the best of them is told only if these are all."""
    goal = is_goal(name, info.goal_metric)
    maximize = goal and info.goal_direction == "maximize"
    finite = [v for v in values if is_all and math.isfinite(v.value)]
    best = (max if maximize else min)(finite, key=lambda v: v.value) if finite else None
    every = max(1, math.ceil(len(values) / SPARK_POINTS))
    spark = values[::-1][::every][::-1]
    return GoalOverview(
        metric=name,
        direction="maximize" if maximize else "minimize",
        is_goal=goal,
        newest=values[-1].value,
        newest_step=values[-1].step,
        best=None if best is None else best.value,
        best_step=None if best is None else best.step,
        spark=[v.value for v in spark],
        spark_steps=[v.step for v in spark],
    )
