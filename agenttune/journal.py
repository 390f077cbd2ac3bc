"""Folds of the log: what happened in a run, who changed what, and what came of it. There is no other truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agenttune.costs import costs_of_run, probe_cost
from agenttune.events import BranchStarted, Event, Found, NoteAdded, PolicyAttached, RunInfo, Settled
from agenttune.goals import EVERYTHING, goal_values, score_of
from agenttune.hindsight import shadow_score
from agenttune.proposals import CommandRecord
from agenttune.store import RunLog
from agenttune.summary import FindingAt, Intervention, MetricAt, RunSummary, Stretch, outcome_line, result_of
from agenttune.transcripts import ModelCalled

CALLS_PAGE = 100
"""Calls of language models that are in memory with their messages at once."""


def summarize(log: RunLog) -> RunSummary:
    """Fold a run's log into a report."""
    info = log.info()
    bodies = log.events(kinds=["found", "policy_attached", "note_added", "branch_started"], limit=EVERYTHING)
    values = goal_values(log, info, info.branch)
    cost, decision_costs = costs_of_run(log)
    return RunSummary(
        run=info,
        duration_s=_duration_s(log, info),
        score=score_of(values, info),
        interventions=_interventions(log, info, log.commands(limit=EVERYTHING)),
        findings=[FindingAt(at_s=e.at_s, finding=e.body.finding) for e in bodies if isinstance(e.body, Found)],
        policies=[e.body.policy for e in bodies if isinstance(e.body, PolicyAttached)],
        notes=[e.body.text for e in bodies if isinstance(e.body, NoteAdded)],
        branches=_branches(log, info, bodies),
        cost=cost,
        probing=probe_cost(log),
        decision_costs=decision_costs,
        shadow=shadow_score(log),
    )


def _branches(log: RunLog, info: RunInfo, started: Sequence[Event]) -> list[Stretch]:
    """Every branch in order of its start; a log that never left `main` may not name it."""
    stands = dict(log.lineage(info.branch))
    bodies = {event.body.name: (event.body, event.at_s) for event in started if isinstance(event.body, BranchStarted)}
    names = list(dict.fromkeys([*(["main"] if "main" in stands or not bodies else []), *bodies, info.branch]))
    found = []
    for name in names:
        body, at_s = bodies.get(name, (BranchStarted(name=name), None))
        points = log.recent_points(1, branch=name)
        found.append(
            Stretch(
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
    newest = [p for name, until in log.lineage(info.branch) for p in log.recent_points(1, branch=name, last_step=until)]
    until_s = info.ended_at_s or (newest[-1].at_s if newest else info.created_at_s)
    return max(0.0, until_s - (info.started_at_s or info.created_at_s))


def newest_interventions(log: RunLog, info: RunInfo, limit: int) -> list[Intervention]:
    """The newest commands, oldest first, each measured on the branch that it took effect on."""
    return _interventions(log, info, log.commands(limit=limit, newest=True))


def model_calls(log: RunLog) -> list[ModelCalled]:
    """Calls of language models, oldest first, without what was said: that may be megabytes."""
    calls: list[ModelCalled] = []
    since = 0
    while page := log.events(since, CALLS_PAGE, kinds=["model_called"]):
        since = page[-1].seq
        bodies = [event.body for event in page if isinstance(event.body, ModelCalled)]
        calls += [body.model_copy(update={"messages": [], "answer": None}) for body in bodies]
    return calls


def _interventions(log: RunLog, info: RunInfo, records: Sequence[CommandRecord]) -> list[Intervention]:
    by_branch: dict[str, list[MetricAt]] = {}
    events = log.events(kinds=["settled"], limit=EVERYTHING)
    settled = {event.command_id: event.body.reason for event in events if isinstance(event.body, Settled)}
    changed_at: dict[str, list[int]] = {}
    found = []
    for record in records:
        branch = record.ack.branch if record.ack is not None else info.branch
        if branch not in by_branch:
            values = goal_values(log, info, branch)
            by_branch[branch] = values[1] if values else []
            changed_at[branch] = _changed_at(records, branch)
        intervention = _intervention(record, by_branch[branch], changed_at[branch])
        found.append(intervention.model_copy(update={"probation": settled.get(record.command_id, "")}))
    return found


def _changed_at(records: Sequence[CommandRecord], branch: str) -> list[int]:
    acks = [record.ack for record in records if record.ack is not None and record.ack.branch == branch]
    return [ack.step for ack in acks if ack.outcome == "applied" and ack.changes]


def _around(
    values: Sequence[MetricAt], applied: int, changed_at: Sequence[int]
) -> tuple[list[MetricAt], list[MetricAt]]:
    """The values up to a change, and those between it and the next one."""
    until = min((step for step in changed_at if step > applied), default=math.inf)
    return [v for v in values if v.step <= applied], [v for v in values if applied < v.step <= until]


def _intervention(record: CommandRecord, values: Sequence[MetricAt], changed_at: Sequence[int]) -> Intervention:
    proposal, verdict, ack = record.proposal, record.verdict, record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    before, after = ([], []) if applied is None else _around(values, applied, changed_at)
    return Intervention(
        command_id=proposal.command_id,
        kind=proposal.command.kind,
        arguments=proposal.command.arguments(),
        author=proposal.author.name,
        principal=proposal.author.principal,
        rationale=proposal.rationale,
        proposed_at_step=proposal.based_on_step if proposal.based_on_step is not None else record.submitted_step,
        state=record.state,
        decision=verdict.decision if verdict else "",
        decided_by=verdict.decided_by if verdict else "",
        decision_reason=verdict.reason if verdict else "",
        applied_at_step=applied,
        edited=verdict.edited.arguments() if verdict is not None and verdict.edited is not None else None,
        summary=outcome_line(record),
        message="" if ack is None else ack.message,
        result=result_of(record),
        metric_before=before[-1] if before else None,
        metric_after=after[-1] if after else None,
    )
