"""What was measured on a branch, read from the log, and what the changes made there did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agenttune.detectors.effects import (
    EVALUATIONS,
    RATE_NAMES,
    STEPS,
    UNDONE,
    Changes,
    Measure,
    acted,
    effect_of,
    effect_of_return,
    reverted,
    warm_up,
)
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.errors import UserError
from agenttune.protocol.commands import Impact
from agenttune.protocol.effects import Effect, MetricAt
from agenttune.protocol.events import Settled
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.metrics import SeriesInfo
from agenttune.protocol.proposals import Ack, CommandRecord, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.goal_metric import goal_values
from agenttune.store.run_log import RunLog

MOST_RATES = 512
"""Points of the learning rate that tell of a warm-up (guess)."""
MOST_LOSSES = 2 * (STEPS.most_before + STEPS.most_after)
"""Points of the training loss around a change that are read: more than there can be, so that none is averaged away."""


@dataclass(frozen=True)
class MeasuredBranch:
    """A branch with the steps that it stands on: what was measured there, and what was changed.

    Attributes:
        goal: The goal metric's values, or those of the first loss that was logged.
        loss: The training loss, by name; empty if there is none.
        loss_every_steps: Steps between two of its points.
        with_loss: Branches that have it.
    """

    log: RunLog
    info: RunInfo
    line: Lineage
    goal: Measure
    loss: str
    loss_every_steps: float
    with_loss: frozenset[str]
    changes: Changes

    @classmethod
    def of(cls, log: RunLog, info: RunInfo, records: Sequence[CommandRecord], branch: str) -> MeasuredBranch:
        line = log.lineage(branch)
        name, values = goal_values(log, info, branch) or (info.goal_metric, [])
        reach = STEPS if name in LOSS_NAMES else EVALUATIONS
        goal = Measure(name, values, reach, is_goal(name, info.goal_metric) and info.goal_direction == "maximize")
        known = {segment.branch: {s.name: s for s in log.series(segment.branch)} for segment in line.segments}
        series = {metric: known_of for found in known.values() for metric, known_of in found.items()}
        loss = next((series[name] for name in LOSS_NAMES if name in series), None)
        every = 1.0 if loss is None else (loss.last_step - loss.first_step) / max(1, loss.count - 1)
        having = frozenset(branch for branch, found in known.items() if loss is not None and loss.name in found)
        name = "" if loss is None else loss.name
        changes = replace(Changes.of(records, line.has), breaks=_warm_up(log, line, series))
        return cls(log, info, line, goal, name, every, having, changes)

    def effect(self, record: CommandRecord) -> Effect | None:
        """What a command that was applied here did; None if it changed nothing."""
        ack = record.ack
        if ack is None or not acted(record):
            return None
        if record.command.impact is Impact.RESTORE:
            return self._effect_of_return(ack)
        effect = effect_of(ack.step, self.changes, self._measures(ack.step))
        return self._as_settled(record, effect) if record.state is State.REVERTED else effect

    def _as_settled(self, record: CommandRecord, effect: Effect) -> Effect:
        """With what probation has seen, which ends the window of what it takes back."""
        events = self.log.events(kinds=["settled"], command_id=record.command_id)
        settled = next((event.body for event in events if isinstance(event.body, Settled)), None)
        if settled is None:
            return effect
        maximize = is_goal(settled.metric, self.info.goal_metric) and self.info.goal_direction == "maximize"
        return reverted(effect, settled, maximize)

    def _effect_of_return(self, ack: Ack) -> Effect:
        left = ack.result.get("from_branch")
        if not isinstance(left, str):  # an older version did not tell
            return Effect(verdict="not known", reason=UNDONE, is_measured=True, is_final=True)
        undone = replace(self, line=self.log.lineage(left), goal=self._goal_on(left))
        return effect_of_return(ack.step, self.changes, self._measures(ack.step), undone._measures(ack.step))

    def _goal_on(self, branch: str) -> Measure:
        """The goal metric's values on another branch."""
        _, values = goal_values(self.log, self.info, branch) or ("", [])
        return replace(self.goal, points=values)

    def _measures(self, step: int) -> list[Measure]:
        """What a change at a step may be judged by, that which counts most first."""
        goal = [] if self.goal.name in LOSS_NAMES else [self.goal]
        loss = [Measure(self.loss, self._losses(step), STEPS)] if self.loss else []
        return [*goal, *loss]

    def _losses(self, step: int) -> list[MetricAt]:
        """The training loss around a step, every point of it."""
        first = max(0, math.floor(step - STEPS.most_before * self.loss_every_steps))
        last = math.ceil(step + STEPS.most_after * self.loss_every_steps)
        found: list[MetricAt] = []
        for segment in self.line.segments:
            until = last if segment.last_step is None else min(last, segment.last_step)
            if until < first or segment.branch not in self.with_loss:
                continue
            curve = self.log.curve(self.loss, segment.branch, first, until, MOST_LOSSES)
            found += [MetricAt(step=s, value=v) for s, v in zip(curve.steps, curve.mean, strict=True)]
        return found


def _warm_up(log: RunLog, line: Lineage, known: Mapping[str, SeriesInfo]) -> dict[int, str]:
    """The end of the schedule's warm-up, on the first branch of a line."""
    rate = next((known[name] for name in RATE_NAMES if name in known), None)
    if rate is None or not line.segments:
        return {}
    first = line.segments[0]
    try:
        curve = log.curve(rate.name, first.branch, 0, first.last_step, MOST_RATES)
    except UserError:  # it was not measured there
        return {}
    return warm_up([MetricAt(step=s, value=v) for s, v in zip(curve.steps, curve.mean, strict=True)])
