"""Folds of the log: what happened in a run, who changed what, and what came of it. There is no other truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agenttune.detectors.effects import EVALUATIONS, STEPS, Changes, Measure, effect_of, is_change
from agenttune.detectors.trend import LOSS_NAMES
from agenttune.protocol.commands import Impact
from agenttune.protocol.events import BranchStarted, Event, Found, NoteAdded, PolicyAttached, Settled
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.plan_entries import not_carried_out, plan_in
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import BranchSummary, Effect, FindingAt, Intervention, MetricAt, RunSummary
from agenttune.store.journal.costs import costs_of_run, probe_cost
from agenttune.store.journal.goal_metric import EVERYTHING, goal_values, score_of
from agenttune.store.journal.shadow_evaluation import shadow_evaluation
from agenttune.store.run_log import RunLog

MOST_LOSSES = 2 * (STEPS.most_before + STEPS.most_after)
"""Points of the training loss around a change that are read: more than there can be, so that none is averaged away."""
MEASURED_FIRST, MEASURED_LAST = 50, 250
"""Changes of a run whose effect is looked for (guess: more than anybody reads)."""
CALLS_PAGE = 100
"""Calls of language models that are in memory with their messages at once."""


def summarize(log: RunLog) -> RunSummary:
    """Fold a run's log into a report."""
    info = log.info()
    bodies = log.events(kinds=["found", "policy_attached", "note_added", "branch_started"], limit=EVERYTHING)
    commands = log.commands(limit=EVERYTHING)
    attached = [e.body for e in bodies if isinstance(e.body, PolicyAttached)]
    plan = {entry.mark: entry for body in attached for entry in plan_in(body.details)}  # one that was attached twice
    values = goal_values(log, info, info.branch)
    cost, decision_costs = costs_of_run(log)
    return RunSummary(
        run=info,
        duration_s=_duration_s(log, info),
        score=score_of(values, info),
        interventions=_interventions(log, info, commands),
        not_carried_out=list(not_carried_out(plan.values(), commands, info)),
        findings=[FindingAt(at_s=e.at_s, finding=e.body.finding) for e in bodies if isinstance(e.body, Found)],
        policies=[body.policy for body in attached],
        notes=[e.body.text for e in bodies if isinstance(e.body, NoteAdded)],
        branches=_branches(log, info, bodies),
        cost=cost,
        probing=probe_cost(log),
        decision_costs=decision_costs,
        shadow=shadow_evaluation(log),
    )


def _branches(log: RunLog, info: RunInfo, started: Sequence[Event]) -> list[BranchSummary]:
    """Every branch in order of its start; a log that never left `main` may not name it."""
    stands = {segment.branch: segment.last_step for segment in log.lineage(info.branch).segments}
    bodies = {event.body.name: (event.body, event.at_s) for event in started if isinstance(event.body, BranchStarted)}
    names = list(dict.fromkeys([*(["main"] if "main" in stands or not bodies else []), *bodies, info.branch]))
    found = []
    for name in names:
        body, at_s = bodies.get(name, (BranchStarted(name=name), None))
        points = log.recent_points(1, branch=name)
        found.append(
            BranchSummary(
                name=name,
                parent=body.parent,
                from_step=body.from_step,
                checkpoint_id=body.checkpoint_id,
                started_at_s=at_s,
                last_step=max(points[-1].step if points else 0, body.from_step),
                stands_to=stands.get(name, -1),
                is_current=name == info.branch,
            )
        )
    return found


def _duration_s(log: RunLog, info: RunInfo) -> float:
    segments = log.lineage(info.branch).segments
    newest = [p for s in segments for p in log.recent_points(1, branch=s.branch, last_step=s.last_step)]
    until_s = info.ended_at_s or (newest[-1].at_s if newest else info.created_at_s)
    return max(0.0, until_s - (info.started_at_s or info.created_at_s))


def newest_interventions(log: RunLog, info: RunInfo, limit: int) -> list[Intervention]:
    """The newest commands, oldest first, each measured on the branch that it took effect on."""
    records = log.commands(limit=limit + HISTORY, newest=True)  # what came just before them bounds what they did
    return _interventions(log, info, records, limit)


def model_calls(log: RunLog) -> list[ModelCalled]:
    """Calls of language models, oldest first, without what was said: that may be megabytes."""
    calls: list[ModelCalled] = []
    since = 0
    while page := log.events(since, CALLS_PAGE, kinds=["model_called"]):
        since = page[-1].seq
        bodies = [event.body for event in page if isinstance(event.body, ModelCalled)]
        calls += [body.model_copy(update={"messages": [], "answer": None}) for body in bodies]
    return calls


def _interventions(
    log: RunLog, info: RunInfo, records: Sequence[CommandRecord], limit: int = EVERYTHING
) -> list[Intervention]:
    """The newest of the commands as interventions; all of them say what else was changed around each."""
    events = log.events(kinds=["settled"], limit=EVERYTHING)
    settled = {event.command_id: event.body.reason for event in events if isinstance(event.body, Settled)}
    branches: dict[str, _Branch] = {}
    measured = _measured(records[-limit:])
    found = []
    for record in records[-limit:]:
        name = record.ack.branch if record.ack is not None else info.branch
        if record.command_id in measured and name not in branches:
            branches[name] = _Branch.of(log, info, records, name)
        branch = branches[name] if record.command_id in measured else None
        intervention = _intervention(record, branch)
        found.append(intervention.model_copy(update={"probation": settled.get(record.command_id, "")}))
    return found


def _measured(records: Sequence[CommandRecord]) -> set[str]:
    """Ids of the changes whose effect is looked for: each takes milliseconds, and a report shows no more than these."""
    changes = [record.command_id for record in records if record.ack is not None and is_change(record.ack)]
    return {*changes[:MEASURED_FIRST], *changes[-MEASURED_LAST:]}


@dataclass(frozen=True)
class _Branch:
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
    def of(cls, log: RunLog, info: RunInfo, records: Sequence[CommandRecord], branch: str) -> _Branch:
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


def _intervention(record: CommandRecord, branch: _Branch | None) -> Intervention:
    """A command as a report tells it; without a branch, one whose effect is not looked for."""
    ack = record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    before = [] if applied is None or branch is None else [v for v in branch.goal.points if v.step <= applied]
    after = [] if applied is None or branch is None else branch.changes.window(applied, branch.goal)
    ends = (before[-1] if before else None, after[-1] if after else None)
    return Intervention.of(record, *ends, _effect(record, branch))


def _effect(record: CommandRecord, branch: _Branch | None) -> Effect | None:
    """What it did to the run; None for what changed nothing."""
    ack = record.ack
    if ack is None or ack.outcome != "applied":
        return None
    if record.command.impact is Impact.RESTORE:
        return Effect(verdict="not known", reason="where the run that it left would have gone is not known")
    if not is_change(ack):
        return None
    if branch is None:
        told = f"the first {MEASURED_FIRST} and the newest {MEASURED_LAST} changes"
        return Effect(verdict="not known", reason=f"of so many changes, {told} are measured")
    return branch.effect(ack.step)
