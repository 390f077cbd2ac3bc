"""What a report tells of a run, as data. `journal.py` folds a log into it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agenttune.events import Metric, RunInfo
from agenttune.findings import Finding
from agenttune.proposals import Record, State


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
