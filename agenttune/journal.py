"""Folds of the log: what happened in a run, who changed what, and what came of it. There is no other truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from agenttune.events import Evaluated, Found, Metric, NoteAdded, PolicyAttached, RunInfo
from agenttune.findings import Finding
from agenttune.proposals import CommandRecord, Record, State
from agenttune.store import RunLog

EVERYTHING = 1_000_000
"""More events of one kind than a run has; a limit all the same, so that a mad agent cannot fill the memory."""
FALLBACK_METRICS = ("eval_loss", "loss", "step_loss")
"""Shown when the goal metric never appeared, in this order; less is better for all of them."""


class MetricAt(Record):
    """A value of a metric and the step it belongs to."""

    step: int
    value: Metric


class Score(Record):
    """How a metric began, ended and stood at its best."""

    metric: str
    direction: str
    first: MetricAt
    last: MetricAt
    best: MetricAt


class Intervention(Record):
    """One command from proposal to consequence."""

    command_id: str
    kind: str
    arguments: dict[str, Any]
    author: str
    principal: str
    rationale: str
    proposed_at_step: int | None
    state: State
    decided_by: str = ""
    decision_reason: str = ""
    applied_at_step: int | None = None
    summary: str = Field(description="The change in one line: before -> after, or why there was none.")
    metric_before: MetricAt | None = Field(None, description="Goal metric, last value before it was applied.")
    metric_after: MetricAt | None = Field(None, description="Goal metric, last value before the next change.")


class FindingAt(Record):
    at_s: float
    finding: Finding


class RunSummary(Record):
    """What a report shows."""

    run: RunInfo
    duration_s: float
    score: Score | None = Field(None, description="None if the run logged no loss at all.")
    interventions: list[Intervention]
    findings: list[FindingAt]
    policies: list[str]
    notes: list[str]


def summarize(log: RunLog) -> RunSummary:
    """Fold a run's log into a report."""
    info = log.info()
    bodies = log.events(kinds=["found", "policy_attached", "note_added"], limit=EVERYTHING)
    values = goal_values(log, info)
    return RunSummary(
        run=info,
        duration_s=_duration_s(log, info),
        score=score_of(values, info),
        interventions=_interventions(log.commands(limit=EVERYTHING), values[1] if values else []),
        findings=[FindingAt(at_s=e.at_s, finding=e.body.finding) for e in bodies if isinstance(e.body, Found)],
        policies=[e.body.policy for e in bodies if isinstance(e.body, PolicyAttached)],
        notes=[e.body.text for e in bodies if isinstance(e.body, NoteAdded)],
    )


def _duration_s(log: RunLog, info: RunInfo) -> float:
    newest = log.recent_points(1, branch=info.branch)
    until_s = info.ended_at_s or (newest[0].at_s if newest else info.created_at_s)
    return max(0.0, until_s - (info.started_at_s or info.created_at_s))


def goal_values(log: RunLog, info: RunInfo) -> tuple[str, list[MetricAt]] | None:
    """The goal metric's name and values, or those of the first loss that the run logged."""
    names = {s.name for s in log.series(info.branch)}
    found = next((n for n in (info.goal_metric, *FALLBACK_METRICS) if n in names), None)
    if found is None:
        return None
    evaluations = [e for e in log.events(kinds=["evaluated"], limit=EVERYTHING) if isinstance(e.body, Evaluated)]
    values = [
        MetricAt(step=e.step or 0, value=e.body.metrics[found])
        for e in evaluations
        if isinstance(e.body, Evaluated) and found in e.body.metrics
    ]
    if values:
        return found, values
    curve = log.curve(found, info.branch, max_points=2000)
    return found, [MetricAt(step=s, value=v) for s, v in zip(curve.steps, curve.mean, strict=True)]


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


def _interventions(records: Sequence[CommandRecord], values: Sequence[MetricAt]) -> list[Intervention]:
    changed_at = [r.ack.step for r in records if r.ack is not None and r.ack.outcome == "applied" and r.ack.changes]
    return [_intervention(record, values, changed_at) for record in records]


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
