"""What was measured on a branch, read from the log, and what the changes made there did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agenttune.detectors import effects
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.errors import UserError
from agenttune.protocol.decision import Around
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
MOST_LOSSES = 2 * (effects.STEPS.most_before + effects.STEPS.most_after)
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
    goal: effects.Measure
    loss: str
    loss_every_steps: float
    with_loss: frozenset[str]
    changes: effects.Changes

    @classmethod
    def of(cls, log: RunLog, info: RunInfo, records: Sequence[CommandRecord], branch: str) -> MeasuredBranch:
        line = log.lineage(branch)
        name, values = goal_values(log, info, branch) or (info.goal_metric, [])
        reach = effects.STEPS if name in LOSS_NAMES else effects.EVALUATIONS
        goal = effects.Measure(
            name, values, reach, is_goal(name, info.goal_metric) and info.goal_direction == "maximize"
        )
        known = {segment.branch: {s.name: s for s in log.series(segment.branch)} for segment in line.segments}
        series = {metric: known_of for found in known.values() for metric, known_of in found.items()}
        loss = next((series[name] for name in LOSS_NAMES if name in series), None)
        every = 1.0 if loss is None else (loss.last_step - loss.first_step) / max(1, loss.count - 1)
        having = frozenset(branch for branch, found in known.items() if loss is not None and loss.name in found)
        name = "" if loss is None else loss.name
        changes = replace(effects.Changes.of(records, line.has), breaks=_warm_up(log, line, series))
        return cls(log, info, line, goal, name, every, having, changes)

    def effect(self, record: CommandRecord) -> Effect | None:
        """What a command that was applied here did; None if it changed nothing."""
        ack = record.ack
        if ack is None or not effects.acted(record):
            return None
        if record.goes_back():
            return self._effect_of_return(ack)
        effect = effects.effect_of(ack.step, self.changes, self._measures(ack.step))
        return self._as_settled(record, effect) if record.state is State.REVERTED else effect

    def around(self, record: CommandRecord) -> list[Around]:
        """The metrics that tell of a command that was applied here, before and after it, the goal first."""
        ack = record.ack
        if ack is None:
            return []
        left = ack.result.get("from_branch") if record.goes_back() else None
        undone: list[effects.Measure] = []
        if isinstance(left, str):
            line = self.log.lineage(left)
            there = replace(self, line=line, goal=self._goal_on(left), with_loss=self._having(line))
            undone = there._measures(ack.step)
        is_return = record.goes_back()
        following = min((s for s in self.changes.steps if s > ack.step), default=None)
        found = []
        for i, measure in enumerate(self._measures(ack.step)):
            around = self._around(measure, ack.step)
            lost = undone[i].points if i < len(undone) else []
            more = {
                "undone": [p for p in lost if p.step > ack.step][: measure.reach.most_after],
                "expected": [] if is_return else effects.expected_after(ack.step, self.changes, measure, around.after),
                "until_step": following,
            }
            found.append(around.model_copy(update=more))
        return [around for around in found if around.before or around.after]

    def around_step(self, step: int) -> list[Around]:
        """The same metrics around a step at which nothing was changed, such as that of a request."""
        found = [self._around(measure, step) for measure in self._measures(step)]
        return [around for around in found if around.before or around.after]

    def _around(self, measure: effects.Measure, step: int) -> Around:
        return Around(
            metric=measure.name,
            is_goal=is_goal(measure.name, self.info.goal_metric),
            maximize=measure.maximize,
            before=[p for p in measure.points if p.step <= step][-measure.reach.most_before :],
            after=[p for p in measure.points if p.step > step][: measure.reach.most_after],
        )

    def _as_settled(self, record: CommandRecord, effect: Effect) -> Effect:
        """With what probation has seen, which ends the window of what it takes back."""
        events = self.log.events(kinds=["settled"], command_id=record.command_id)
        settled = next((event.body for event in events if isinstance(event.body, Settled)), None)
        if settled is None:
            return effect
        maximize = is_goal(settled.metric, self.info.goal_metric) and self.info.goal_direction == "maximize"
        return effects.reverted(effect, settled, maximize)

    def _effect_of_return(self, ack: Ack) -> Effect:
        left = ack.result.get("from_branch")
        if not isinstance(left, str):  # an older version did not tell
            return Effect(verdict="not known", reason=effects.UNDONE, is_measured=True, is_final=True)
        line = self.log.lineage(left)
        undone = replace(self, line=line, goal=self._goal_on(left), with_loss=self._having(line))
        return effects.effect_of_return(ack.step, self.changes, self._measures(ack.step), undone._measures(ack.step))

    def _having(self, line: Lineage) -> frozenset[str]:
        """Branches of a line that have the loss: one that was left is on no other line."""
        branches = [segment.branch for segment in line.segments]
        return frozenset(b for b in branches if any(series.name == self.loss for series in self.log.series(b)))

    def _goal_on(self, branch: str) -> effects.Measure:
        """The goal metric's values on another branch."""
        _, values = goal_values(self.log, self.info, branch) or ("", [])
        return replace(self.goal, points=values)

    def _measures(self, step: int) -> list[effects.Measure]:
        """What a change at a step may be judged by, that which counts most first."""
        goal = [] if self.goal.name in LOSS_NAMES else [self.goal]
        loss = [effects.Measure(self.loss, self._losses(step), effects.STEPS)] if self.loss else []
        return [*goal, *loss]

    def _losses(self, step: int) -> list[MetricAt]:
        """The training loss around a step, every point of it."""
        first = max(0, math.floor(step - effects.STEPS.most_before * self.loss_every_steps))
        last = math.ceil(step + effects.STEPS.most_after * self.loss_every_steps)
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
    rate = next((known[name] for name in effects.RATE_NAMES if name in known), None)
    if rate is None or not line.segments:
        return {}
    first = line.segments[0]
    try:
        curve = log.curve(rate.name, first.branch, 0, first.last_step, MOST_RATES)
    except UserError:  # it was not measured there
        return {}
    return effects.warm_up([MetricAt(step=s, value=v) for s, v in zip(curve.steps, curve.mean, strict=True)])
