"""What was tried in a run and what came of it, as a language model reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agenttune.observation import Observation
from agenttune.policy.base import asked_at_step
from agenttune.policy.curves import NAME_LETTERS, VALUE_LETTERS, number
from agenttune.prompting import fenced
from agenttune.proposals import CommandRecord, Verdict
from agenttune.summary import Intervention, MetricAt, outcome_line

MOST_TRIED = 10
"""Entries that are shown (guess)."""
WHY_LETTERS, OUTCOME_LETTERS = 160, 240


def tried(observation: Observation, history: Sequence[Intervention]) -> list[str]:
    """The newest commands, one a line, oldest first."""
    if not history:
        return ["nothing yet"]
    records = {record.command_id: record for record in observation.commands}
    shown = history[-MOST_TRIED:]
    left_out = [f"({len(history) - len(shown)} earlier ones are left out)"] if len(history) > len(shown) else []
    return left_out + [_attempt(one, records.get(one.command_id)) for one in shown]


def _attempt(one: Intervention, record: CommandRecord | None) -> str:
    step = "?" if one.proposed_at_step is None else one.proposed_at_step
    asked = fenced(f"{one.kind}({_arguments(one)})", 2 * VALUE_LETTERS)
    parts = [f"step {step}, {one.principal} {fenced(one.author, NAME_LETTERS)}: {asked} -> {_outcome(one, record)}"]
    if one.applied_at_step is not None:
        parts.append(f"goal metric {_measured(one.metric_before)} before, {_measured(one.metric_after)} after")
    if one.rationale:
        parts.append(f"asked because {fenced(one.rationale, WHY_LETTERS)}")
    return "; ".join(parts)


def _arguments(one: Intervention) -> str:
    given = ((name, value) for name, value in one.arguments.items() if value not in ({}, [], None))
    return ", ".join(f"{name}={number(value)}" for name, value in given)


def _outcome(one: Intervention, record: CommandRecord | None) -> str:
    """Where it stands; a refusal with its reason and what would have been allowed."""
    summary = fenced(one.summary, OUTCOME_LETTERS)
    if one.applied_at_step is not None:
        return f"{one.state.value} at step {one.applied_at_step}: {summary}"
    verdict = record.verdict if record is not None else None
    if verdict is not None and verdict.decision == "rejected":
        return f"REFUSED: {refusal(verdict)}"
    return f"{one.state.value}: {summary}"


def refusal(verdict: Verdict) -> str:
    """A refusal in words: by whom, why, and what would have passed."""
    nearest = verdict.nearest_allowed
    allowed = f"; allowed would have been {fenced(json.dumps(nearest), VALUE_LETTERS)}" if nearest else ""
    return f"{fenced(verdict.decided_by, NAME_LETTERS)}: {fenced(verdict.reason, OUTCOME_LETTERS)}{allowed}"


def _measured(metric: MetricAt | None) -> str:
    return "not measured" if metric is None else f"{number(metric.value)} (step {metric.step})"


def history_of(observation: Observation) -> list[Intervention]:
    """The commands that an observation holds, with the goal metric as evaluated before and after each."""
    changed = [c.ack.step for c in observation.commands if c.ack is not None and c.ack.changes]
    return [_intervention(record, observation, changed) for record in observation.commands]


def _intervention(record: CommandRecord, observation: Observation, changed: Sequence[int]) -> Intervention:
    proposal, verdict, ack = record.proposal, record.verdict, record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    before, after = _around(
        observation, applied, min((s for s in changed if applied is not None and s > applied), default=None)
    )
    return Intervention(
        command_id=record.command_id,
        kind=proposal.command.kind,
        arguments=proposal.command.arguments(),
        author=proposal.author.name,
        principal=proposal.author.principal,
        rationale=proposal.rationale,
        proposed_at_step=asked_at_step(record),
        state=record.state,
        decided_by=verdict.decided_by if verdict else "",
        decision_reason=verdict.reason if verdict else "",
        applied_at_step=applied,
        summary=outcome_line(record),
        metric_before=before,
        metric_after=after,
    )


def _around(
    observation: Observation, applied: int | None, until: int | None
) -> tuple[MetricAt | None, MetricAt | None]:
    """The goal metric's last values up to a change, and between it and the next one."""
    name = observation.goal_metric
    known = [MetricAt(step=e.step, value=e.metrics[name]) for e in observation.evaluations if name in e.metrics]
    before = [m for m in known if applied is not None and m.step <= applied]
    after = [m for m in known if applied is not None and m.step > applied and (until is None or m.step <= until)]
    return (before[-1] if before else None, after[-1] if after else None)
