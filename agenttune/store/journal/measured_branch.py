"""What was measured on a branch, read from the log, and what the changes made there did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agenttune.detectors.effects import EVALUATIONS, STEPS, Changes, Measure, effect_of
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import Effect, MetricAt
from agenttune.store.journal.goal_metric import goal_values
from agenttune.store.run_log import RunLog

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
        return cls(log, line, goal, name, every, having, Changes.of(records, line.has))

    def effect(self, step: int) -> Effect:
        """What a change did."""
        goal = [] if self.goal.name in LOSS_NAMES else [self.goal]
        loss = [Measure(self.loss, self._losses(step), STEPS)] if self.loss else []
        return effect_of(step, self.changes, [*goal, *loss])

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
