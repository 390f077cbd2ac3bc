"""Folds of the log: what happened in a run, who changed what, and what came of it. There is no other truth."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.detectors.effects import acted
from agenttune.protocol.events import (
    BestState,
    BranchStarted,
    CheckpointSaved,
    Event,
    FindingJudged,
    Found,
    NoteAdded,
    PolicyAttached,
    Settled,
)
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.plan_entries import not_carried_out, plan_in
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import BranchSummary, Effect, FindingAt, Intervention, RunSummary
from agenttune.store.journal.costs import costs_of_run, probe_cost
from agenttune.store.journal.goal_metric import EVERYTHING, goal_values, score_of
from agenttune.store.journal.measured_branch import MeasuredBranch
from agenttune.store.journal.saved_states import newest_on_disk
from agenttune.store.journal.shadow_evaluation import shadow_evaluation
from agenttune.store.run_log import RunLog

MEASURED_FIRST, MEASURED_LAST = 50, 250
"""Changes of a run whose effect is looked for (guess: more than anybody reads)."""


def summarize(log: RunLog) -> RunSummary:
    """Fold a run's log into a report."""
    info = log.info()
    bodies = log.events(kinds=["found", "policy_attached", "note_added", "branch_started"], limit=EVERYTHING)
    commands = log.commands(limit=EVERYTHING)
    attached = [e.body for e in bodies if isinstance(e.body, PolicyAttached)]
    plan = {entry.mark: entry for body in attached for entry in plan_in(body.details)}  # one that was attached twice
    values = goal_values(log, info, info.branch)
    cost, decision_costs = costs_of_run(log)
    saved = newest_on_disk(log)
    return RunSummary(
        run=info,
        duration_s=_duration_s(log, info),
        score=score_of(values, info),
        best_state=_best_state(log),
        on_disk=saved.body if saved is not None and isinstance(saved.body, CheckpointSaved) else None,
        on_disk_step=saved.step if saved is not None else None,
        interventions=_interventions(log, info, commands),
        not_carried_out=list(not_carried_out(plan.values(), commands, info)),
        findings=_findings([e for e in bodies if isinstance(e.body, Found)], log),
        policies=[body.policy for body in attached],
        notes=[e.body.text for e in bodies if isinstance(e.body, NoteAdded)],
        branches=_branches(log, info, bodies),
        cost=cost,
        probing=probe_cost(log),
        decision_costs=decision_costs,
        shadow=shadow_evaluation(log),
    )


def _findings(events: Sequence[Event], log: RunLog) -> list[FindingAt]:
    said = log.events(kinds=["finding_judged"], limit=EVERYTHING) if events else []
    judged = {e.body.finding_seq: e.body.right for e in said if isinstance(e.body, FindingJudged)}  # the last word
    return [
        FindingAt(at_s=e.at_s, finding=e.body.finding, judged_right=judged.get(e.seq))
        for e in events
        if isinstance(e.body, Found)
    ]


def _best_state(log: RunLog) -> BestState | None:
    events = log.events(kinds=["best_state"], limit=1, newest=True)
    body = events[0].body if events else None
    return body if isinstance(body, BestState) else None


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
    bodies = (event.body for event in log.every_event("model_called"))
    return [
        body.model_copy(update={"messages": [], "answer": None}) for body in bodies if isinstance(body, ModelCalled)
    ]


def _interventions(
    log: RunLog, info: RunInfo, records: Sequence[CommandRecord], limit: int = EVERYTHING
) -> list[Intervention]:
    """The newest of the commands as interventions; all of them say what else was changed around each."""
    events = log.events(kinds=["settled"], limit=EVERYTHING)
    settled = {event.command_id: event.body.reason for event in events if isinstance(event.body, Settled)}
    branches: dict[str, MeasuredBranch] = {}
    measured = _measured(records[-limit:])
    lineage = log.lineage(info.branch)
    found = []
    for record in records[-limit:]:
        name = record.ack.branch if record.ack is not None else info.branch
        if record.command_id in measured and name not in branches:
            branches[name] = MeasuredBranch.of(log, info, records, name)
        branch = branches[name] if record.command_id in measured else None
        told = {"probation": settled.get(record.command_id, ""), "is_abandoned": _is_abandoned(record, lineage)}
        found.append(_intervention(record, branch).model_copy(update=told))
    return found


def measured_intervention(
    log: RunLog, info: RunInfo, record: CommandRecord, branch: MeasuredBranch | None
) -> Intervention:
    """One command as a report tells it.

    Args:
        log: The run's log.
        info: The run as it stands.
        record: The command.
        branch: That it took effect on; None for what changed nothing.
    """
    events = log.events(kinds=["settled"], command_id=record.command_id)
    reasons = [event.body.reason for event in events if isinstance(event.body, Settled)]
    told = {
        "probation": reasons[-1] if reasons else "",
        "is_abandoned": _is_abandoned(record, log.lineage(info.branch)),
    }
    return _intervention(record, branch).model_copy(update=told)


def _is_abandoned(record: CommandRecord, lineage: Lineage) -> bool:
    """Whether the run no longer stands on the steps on which a command took effect."""
    ack = record.ack
    return ack is not None and ack.outcome == "applied" and not lineage.has(ack.branch, ack.step)


def _measured(records: Sequence[CommandRecord]) -> set[str]:
    """Ids of the changes whose effect is looked for: each takes milliseconds, and a report shows no more than these."""
    changes = [record.command_id for record in records if acted(record)]
    return {*changes[:MEASURED_FIRST], *changes[-MEASURED_LAST:]}


def _intervention(record: CommandRecord, branch: MeasuredBranch | None) -> Intervention:
    """A command as a report tells it; without a branch, one whose effect is not looked for."""
    ack = record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    before = [] if applied is None or branch is None else [v for v in branch.goal.points if v.step <= applied]
    after = [] if applied is None or branch is None else branch.changes.window(applied, branch.goal)
    ends = (before[-1] if before else None, after[-1] if after else None)
    return Intervention.of(record, *ends, _effect(record, branch))


def _effect(record: CommandRecord, branch: MeasuredBranch | None) -> Effect | None:
    """What it did to the run; None for what changed nothing."""
    if branch is None and acted(record):
        told = f"the first {MEASURED_FIRST} and the newest {MEASURED_LAST} changes"
        return Effect(verdict="not known", reason=f"of so many changes, {told} are measured")
    return None if branch is None else branch.effect(record)
