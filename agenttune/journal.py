"""Folds of the log: what happened in a run, who changed what, and what came of it. There is no other truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agenttune.events import Evaluated, Found, NoteAdded, PolicyAttached, RunInfo
from agenttune.proposals import CommandRecord
from agenttune.store import RunLog
from agenttune.summary import FindingAt, Intervention, MetricAt, RunSummary, Score

EVERYTHING = 1_000_000
"""More events of one kind than a run has; a limit all the same, so that a mad agent cannot fill the memory."""
FALLBACK_METRICS = ("eval_loss", "loss", "step_loss")
"""Shown when the goal metric never appeared, in this order; less is better for all of them."""


def summarize(log: RunLog) -> RunSummary:
    """Fold a run's log into a report."""
    info = log.info()
    bodies = log.events(kinds=["found", "policy_attached", "note_added"], limit=EVERYTHING)
    values = goal_values(log, info, info.branch)
    return RunSummary(
        run=info,
        duration_s=_duration_s(log, info),
        score=score_of(values, info),
        interventions=_interventions(log, info),
        findings=[FindingAt(at_s=e.at_s, finding=e.body.finding) for e in bodies if isinstance(e.body, Found)],
        policies=[e.body.policy for e in bodies if isinstance(e.body, PolicyAttached)],
        notes=[e.body.text for e in bodies if isinstance(e.body, NoteAdded)],
    )


def _duration_s(log: RunLog, info: RunInfo) -> float:
    newest = [p for name, until in log.lineage(info.branch) for p in log.recent_points(1, branch=name, last_step=until)]
    until_s = info.ended_at_s or (newest[-1].at_s if newest else info.created_at_s)
    return max(0.0, until_s - (info.started_at_s or info.created_at_s))


def goal_values(log: RunLog, info: RunInfo, branch: str) -> tuple[str, list[MetricAt]] | None:
    """The goal metric's name and its values on a branch and what it stands on, or those of the first loss logged."""
    line = log.lineage(branch)
    names = {s.name for name, _ in line for s in log.series(name)}
    found = next((n for n in (info.goal_metric, *FALLBACK_METRICS) if n in names), None)
    if found is None:
        return None
    values = _evaluated(log, found, line)
    if values:
        return found, values
    measured = [(name, until) for name, until in line if found in {s.name for s in log.series(name)}]
    curves = [log.curve(found, name, last_step=until, max_points=2000) for name, until in measured]
    return found, [MetricAt(step=s, value=v) for c in curves for s, v in zip(c.steps, c.mean, strict=True)]


def _evaluated(log: RunLog, metric: str, line: Sequence[tuple[str, int | None]]) -> list[MetricAt]:
    last = dict(line)
    values = []
    for event in log.events(kinds=["evaluated"], limit=EVERYTHING):
        step, until = event.step or 0, last.get(event.branch, -1)
        if isinstance(event.body, Evaluated) and metric in event.body.metrics and (until is None or step <= until):
            values.append(MetricAt(step=step, value=event.body.metrics[metric]))
    return values


def score_of(values: tuple[str, list[MetricAt]] | None, info: RunInfo) -> Score | None:
    """First, last and best value; a non-finite value is never the best unless there is no other."""
    if values is None or not values[1]:
        return None
    name, points = values
    maximize = name == info.goal_metric and info.goal_direction == "maximize"
    finite = [p for p in points if math.isfinite(p.value)] or points[:1]
    best = (max if maximize else min)(finite, key=lambda p: p.value)
    direction = "maximize" if maximize else "minimize"
    return Score(metric=name, direction=direction, first=points[0], last=points[-1], best=best)


def _interventions(log: RunLog, info: RunInfo) -> list[Intervention]:
    """Every command, each measured on the branch that it took effect on."""
    records = log.commands(limit=EVERYTHING)
    by_branch: dict[str, list[MetricAt]] = {}
    found = []
    for record in records:
        branch = record.ack.branch if record.ack is not None else info.branch
        if branch not in by_branch:
            values = goal_values(log, info, branch)
            by_branch[branch] = values[1] if values else []
        found.append(_intervention(record, by_branch[branch], _changed_at(records, branch)))
    return found


def _changed_at(records: Sequence[CommandRecord], branch: str) -> list[int]:
    acks = [record.ack for record in records if record.ack is not None and record.ack.branch == branch]
    return [ack.step for ack in acks if ack.outcome == "applied" and ack.changes]


def _intervention(record: CommandRecord, values: Sequence[MetricAt], changed_at: Sequence[int]) -> Intervention:
    proposal, verdict, ack = record.proposal, record.verdict, record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    until = min((s for s in changed_at if applied is not None and s > applied), default=math.inf)
    before = [v for v in values if applied is not None and v.step <= applied]
    after = [v for v in values if applied is not None and applied < v.step <= until]
    return Intervention(
        command_id=proposal.command_id,
        kind=proposal.command.kind,
        arguments=proposal.command.arguments(),
        author=proposal.author.name,
        principal=proposal.author.principal,
        rationale=proposal.rationale,
        proposed_at_step=proposal.based_on_step if proposal.based_on_step is not None else record.submitted_step,
        state=record.state,
        decided_by=verdict.decided_by if verdict else "",
        decision_reason=verdict.reason if verdict else "",
        applied_at_step=applied,
        summary=outcome_line(record),
        metric_before=before[-1] if before else None,
        metric_after=after[-1] if after else None,
    )


def outcome_line(record: CommandRecord) -> str:
    """What became of a command, in one line."""
    if record.ack is None:
        return record.verdict.reason if record.verdict and record.verdict.reason else record.state.value
    if record.ack.outcome != "applied":
        return f"{record.ack.outcome}: {record.ack.message}"
    parts = [f"{c.name} {_short(c.previous)} -> {_short(c.effective)}" for c in record.ack.changes]
    parts += [f"{name} {_short(value)}" for name, value in record.ack.result.items()]
    return ", ".join(parts) or record.ack.message or "applied"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
