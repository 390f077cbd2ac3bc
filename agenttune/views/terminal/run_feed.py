"""Follows a run's log through a connection of its own: works without a server, in bounded memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agenttune.errors import UserError
from agenttune.protocol.events import (
    Acked,
    BranchStarted,
    Decided,
    Evaluated,
    Event,
    PolicyAttached,
    Proposed,
    is_trial,
)
from agenttune.protocol.goal_names import is_goal, resolve
from agenttune.protocol.metrics import Curve, StoredPoint
from agenttune.protocol.model_calls import Cost, ModelCalled
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import MetricAt
from agenttune.protocol.text import clean
from agenttune.store.journal.goal_metric import goal_values, score_of
from agenttune.store.run_log import RunLog
from agenttune.views.event_lines import EventLine, lines_of
from agenttune.views.repeated_lines import RepeatedLines
from agenttune.views.report.cost_lines import cost_words

LOSSES = ("step_loss", "loss")
BATCH_ROWS = 2000
"""Rows read at once; of a run that writes faster than that, only the newest rows are read."""
CURVE_POINTS = 160
"""Points of the loss curve: two for each of 80 columns."""
CURVE_EVERY_S = 1.0
AROUND_STEPS = 200
"""Steps before a request that the curve shows while it waits (guess: what a person looks back on)."""
SPEED_WINDOW = 40
"""Readings over which the speed is measured: 10 s at four a second."""


@dataclass
class RunSnapshot:
    """A run as it stands, ready to be drawn."""

    info: RunInfo
    policy: str = ""
    loss: MetricAt | None = None
    goal_last: MetricAt | None = None
    goal_best: MetricAt | None = None
    lr: float | None = None
    base_lr: float | None = None
    grad_norm: float | None = None
    steps_per_s: float | None = None
    last_step_at_s: float | None = None
    applied: int = 0
    curve: Curve | None = None
    evaluations: deque[MetricAt] = field(default_factory=lambda: deque(maxlen=400))

    @property
    def seconds_left(self) -> float | None:
        if not self.steps_per_s or self.info.max_steps is None:
            return None
        return max(0, self.info.max_steps - self.info.step) / self.steps_per_s


class RunFeed:
    """Reads what is new in a log.

    Its connection is its own: SQLite tells a connection of the writes of others only.

    Args:
        folder: Of the run.
        clock: Unix time in seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._log = log = RunLog.open(folder)
        self._clock = clock
        self._seq = 0
        self._point_id = max(0, log.last_point_id() - BATCH_ROWS)
        self._version: int | None = None
        self._curve_at_s = -math.inf
        self._curve_from = 0
        self._speed: deque[tuple[int, float]] = deque(maxlen=SPEED_WINDOW)
        self._calls: list[ModelCalled] = []
        self._repeated = RepeatedLines()
        self._repeated_calls: list[ModelCalled] = []
        self.now = RunSnapshot(info=log.info())
        known = score_of(goal_values(log, self.now.info, self.now.info.branch), self.now.info)
        self._goal = self.now.info.goal_metric
        if known is not None and is_goal(known.metric, self._goal):
            self._goal, self.now.goal_best = known.metric, known.best

    def read(self) -> list[EventLine]:
        """Bring `now` up to date and return the lines of the new events, oldest first."""
        version = self._log.data_version()
        if version == self._version:
            return []
        self._version = version
        points = self._new_points()
        for point in points:
            if not is_trial(point.branch):
                self._take_point(point)
        lines = [line for event in self._new_events() for line in self._take_event(event)]
        self.now.info = self._log.info()
        self._take_speed([point for point in points if not is_trial(point.branch)])
        self._take_curve()
        return lines

    def rest(self) -> list[EventLine]:
        """What is left to be told once nothing more is read."""
        return self._counted(self._repeated.rest())

    def look_around(self, step: int | None) -> None:
        """Show the curve from shortly before a step on; None: all of it."""
        first = 0 if step is None else max(0, step - AROUND_STEPS)
        if first != self._curve_from:
            self._curve_from, self._curve_at_s, self._version = first, -math.inf, None

    def close(self) -> None:
        self._log.close()

    def _new_points(self) -> list[StoredPoint]:
        points = self._log.points(self._point_id, BATCH_ROWS)
        if len(points) == BATCH_ROWS:
            points = self._log.points(max(points[-1].point_id, self._log.last_point_id() - BATCH_ROWS), BATCH_ROWS)
        if points:
            self._point_id = points[-1].point_id
        return points

    def _new_events(self) -> list[Event]:
        """All new events, a batch at a time: none may be missed, each is small."""
        events: list[Event] = []
        while batch := self._log.events(self._seq, BATCH_ROWS):
            events = [*events, *batch][-BATCH_ROWS:]
            self._seq = batch[-1].seq
        return events

    def _take_point(self, point: StoredPoint) -> None:
        name = next((n for n in LOSSES if n in point.values), None)
        if name is not None:
            self.now.loss = MetricAt(step=point.step, value=point.values[name])
        self.now.lr = point.values.get("lr", self.now.lr)
        self.now.base_lr = point.values.get("base_lr", self.now.base_lr)
        norm = point.values.get("step_grad_norm", point.values.get("grad_norm"))
        self.now.grad_norm = self.now.grad_norm if norm is None else norm
        if self._goal in point.values:
            self._take_goal(point.step, point.values[self._goal])

    def _take_goal(self, step: int, value: float) -> None:
        newest = MetricAt(step=step, value=value)
        self.now.goal_last = newest
        if not math.isfinite(value):
            return
        best = self.now.goal_best
        sign = -1 if self.now.info.goal_direction == "maximize" else 1
        if best is None or not math.isfinite(best.value) or sign * value < sign * best.value:
            self.now.goal_best = newest

    def _take_event(self, event: Event) -> list[EventLine]:
        body = event.body
        if isinstance(body, Evaluated):
            found = resolve(self.now.info.goal_metric, body.metrics)
            if found is not None and found != self._goal:  # what had its bare name until now was another metric
                self._goal, self.now.goal_best = found, None
            if found is not None:
                self._take_goal(event.step or 0, body.metrics[found])
            if "eval_loss" in body.metrics:
                self.now.evaluations.append(MetricAt(step=event.step or 0, value=body.metrics["eval_loss"]))
        elif isinstance(body, BranchStarted):
            kept = [e for e in self.now.evaluations if e.step <= body.from_step]
            self.now.evaluations.clear()
            self.now.evaluations.extend(kept)
        elif isinstance(body, PolicyAttached):
            self.now.policy = body.policy
        elif isinstance(body, Acked) and body.ack.outcome == "applied":
            self.now.applied += 1
        return self._told(event, lines_of(event, self._log.find_command))

    def _told(self, event: Event, lines: list[EventLine]) -> list[EventLine]:
        """What of an event is shown, with what the model calls before a decision cost."""
        told = self._repeated.told(lines)
        count, own = told[: len(told) - len(lines)], told[-len(lines) :] if lines else []
        if isinstance(event.body, ModelCalled):
            self._calls.append(event.body.model_copy(update={"messages": [], "answer": None}))
        elif lines and not told:
            self._repeated_calls, self._calls = [*self._repeated_calls, *self._calls], []
        elif own and _decides(event):
            own, self._calls = _with_cost(own, self._calls), []
        return [*self._counted(count), *own]

    def _counted(self, count: list[EventLine]) -> list[EventLine]:
        """How often something was repeated, with what that cost."""
        if count:
            count, self._repeated_calls = _with_cost(count, self._repeated_calls), []
        return count

    def _take_speed(self, points: list[StoredPoint]) -> None:
        if not points:
            return
        newest = points[-1]
        self.now.last_step_at_s = newest.at_s
        if self._speed and newest.step < self._speed[-1][0]:
            self._speed.clear()  # gone back to a checkpoint
        if not self._speed:
            drops = [at for at in range(1, len(points)) if points[at].step < points[at - 1].step]
            begun = points[drops[-1] if drops else 0]  # what lies before it was undone
            self._speed.append((begun.step, begun.at_s))
        if newest.step == self._speed[-1][0]:
            return
        self._speed.append((newest.step, newest.at_s))
        (first, since_s), (last, until_s) = self._speed[0], self._speed[-1]
        if until_s > since_s:
            self.now.steps_per_s = (last - first) / (until_s - since_s)

    def _take_curve(self) -> None:
        if self._clock() - self._curve_at_s < CURVE_EVERY_S and self.now.info.is_live:
            return
        self._curve_at_s = self._clock()
        branch = self.now.info.branch
        names = {s.name for s in self._log.series(branch)}
        name = next((n for n in LOSSES if n in names), None)
        if name is None:
            return
        try:
            self.now.curve = self._log.curve(name, branch, self._curve_from, max_points=CURVE_POINTS)
        except UserError:
            self.now.curve = None  # the branch was left between the two reads


def _with_cost(lines: list[EventLine], calls: list[ModelCalled]) -> list[EventLine]:
    """Lines of which the first tells what model calls cost, if there were any."""
    if not calls:
        return lines
    return [replace(lines[0], text=f"{lines[0].text} [{clean(cost_words(Cost.of(calls)))}]"), *lines[1:]]


def _decides(event: Event) -> bool:
    """Whether an event tells of an agent's decision."""
    body = event.body
    return isinstance(body, Decided) or (isinstance(body, Proposed) and body.proposal.author.principal == "agent")
