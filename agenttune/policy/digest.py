"""An observation as text for a language model: of the same size however long the run.

Everything that came from a log, a name or a person is fenced. Lines are made here; the headings around them and their
order are in the template `observation.j2`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttune.commands import COMMAND_KINDS
from agenttune.config import BudgetSettings
from agenttune.events import KnobState
from agenttune.findings import Finding
from agenttune.observation import HISTORY, Evaluation, Observation
from agenttune.policy.curves import NAME_LETTERS, VALUE_LETTERS, curves, number
from agenttune.policy.tried import history_of, tried
from agenttune.prompting import fenced
from agenttune.summary import Intervention

LETTERS_PER_TOKEN = 4
"""English text and figures, roughly (rule of thumb; figures alone take more tokens)."""
LAST_EVALUATIONS, MOST_METRICS = 5, 6
MOST_FINDINGS, MOST_KNOBS, MOST_NOTES, MOST_REASONS = 6, 24, 5, 8
"""Entries that are shown (guess)."""
NOTE_LETTERS, FINDING_LETTERS = 500, 240


def tokens_estimate(text: str) -> int:
    """Tokens of a text, by its length: an estimate, to be said as one."""
    return -(-len(text) // LETTERS_PER_TOKEN)


@dataclass(frozen=True)
class UsedUp:
    """What a run's calls of language models have used up so far."""

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0


@dataclass(frozen=True)
class Digest:
    """An observation in lines, section by section."""

    progress: str
    woken_by: list[str]
    goal: list[str]
    curves: list[str]
    knobs: list[str]
    findings: list[str]
    tried: list[str]
    notes: list[str]
    budget: list[str]


def digest(
    observation: Observation,
    history: Sequence[Intervention] | None = None,
    budgets: BudgetSettings | None = None,
    used: UsedUp | None = None,
) -> Digest:
    """What a model is told of a run.

    Args:
        observation: The run.
        history: The commands with their effect as measured from the log; None: from the observation itself.
        budgets: Caps on calls of language models.
        used: What was used up of them.
    """
    return Digest(
        progress=_progress(observation),
        woken_by=[fenced(reason, VALUE_LETTERS) for reason in observation.woken_by[:MOST_REASONS]],
        goal=_evaluations(observation),
        curves=curves(observation),
        knobs=_knobs(observation.knobs),
        findings=_findings(observation),
        tried=tried(observation, history_of(observation) if history is None else history),
        notes=[fenced(note, NOTE_LETTERS, "note") for note in observation.notes[-MOST_NOTES:]],
        budget=_budget(observation, budgets or BudgetSettings(), used or UsedUp()),
    )


def _progress(observation: Observation) -> str:
    of = f" of {observation.max_steps}" if observation.max_steps else ""
    part = f" ({100 * observation.step / observation.max_steps:.0f} %)" if observation.max_steps else ""
    branch = "" if observation.branch == "main" else f", on branch {fenced(observation.branch, NAME_LETTERS)}"
    return f"step {observation.step}{of}{part}, {observation.status}{branch}"


def _evaluations(observation: Observation) -> list[str]:
    known = observation.evaluations
    if not known:
        return ["no evaluation yet"]
    first = "first known" if len(known) >= HISTORY else "first"
    best = _best(observation)
    marks = {id(known[0]): first, id(known[-1]): "newest"}
    if best is not None:
        marks[id(best)] = f"{marks[id(best)]}, best" if id(best) in marks else "best"
    shown = [e for i, e in enumerate(known) if id(e) in marks or i >= len(known) - LAST_EVALUATIONS]
    return [_evaluation(e, observation, marks.get(id(e), "")) for e in shown]


def _evaluation(evaluation: Evaluation, observation: Observation, mark: str) -> str:
    names = sorted(evaluation.metrics, key=lambda name: (name != observation.goal_metric, name))
    values = [f"{fenced(name, NAME_LETTERS)} {number(evaluation.metrics[name])}" for name in names[:MOST_METRICS]]
    return f"step {evaluation.step}: {', '.join(values)}{f' ({mark})' if mark else ''}"


def _best(observation: Observation) -> Evaluation | None:
    """The evaluation with the best finite goal metric, since that means what it does now."""
    sign = 1 if observation.goal_direction == "minimize" else -1
    name = observation.goal_metric
    since = [e for e in observation.evaluations if e.step > observation.redefined_step(name)]
    known = [e for e in since if abs(e.metrics.get(name, float("nan"))) < float("inf")]
    return min(known, key=lambda e: sign * e.metrics[name], default=None)


def _knobs(knobs: Sequence[KnobState]) -> list[str]:
    lines = [_knob(knob) for knob in knobs[:MOST_KNOBS]]
    return lines + ([f"and {len(knobs) - MOST_KNOBS} more knobs"] if len(knobs) > MOST_KNOBS else [])


def _knob(knob: KnobState) -> str:
    base = "" if knob.base is None else f", base {number(knob.base)}"
    groups = f", by parameter group {_value(knob.groups)}" if knob.groups and len(knob.groups) > 1 else ""
    unit = f" {fenced(knob.unit, 40)}" if knob.unit else ""
    low = "-inf" if knob.minimum is None else number(knob.minimum)
    high = "inf" if knob.maximum is None else number(knob.maximum)
    bounds = "" if knob.minimum is None and knob.maximum is None else f", allowed {low} to {high}"
    name = fenced(knob.name, NAME_LETTERS)
    command = knob.command if knob.command in COMMAND_KINDS else fenced(knob.command, NAME_LETTERS)
    return f"{name}: effective {_value(knob.effective)}{unit}{base}{groups}{bounds} ({command})"


def _value(value: Any) -> str:
    """A value as it is told: numbers bare, everything else fenced."""
    if value is None or isinstance(value, (bool, int, float)):
        return number(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        shown = ", ".join(number(v) for v in value[:8])
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    return fenced(json.dumps(value, default=str) if isinstance(value, (dict, list)) else value, VALUE_LETTERS)


def _findings(observation: Observation) -> list[str]:
    return [_finding(finding, observation.step) for finding in observation.findings[-MOST_FINDINGS:]]


def _finding(finding: Finding, step: int) -> str:
    age = "now" if step <= finding.step else f"{step - finding.step} steps ago"
    return f"{finding.severity} {finding.kind}, {age}: {fenced(finding.summary, FINDING_LETTERS)}"


def _budget(observation: Observation, budgets: BudgetSettings, used: UsedUp) -> list[str]:
    left = observation.commands_left
    lines = ["commands left: no limit" if left is None else f"commands left: {left}"]
    if budgets.max_calls is not None:
        lines.append(f"calls of language models: {used.calls} of {budgets.max_calls} used")
    if budgets.max_tokens is not None:
        lines.append(f"tokens: {used.tokens} of {budgets.max_tokens} used")
    if budgets.max_usd is not None:
        spent = "an unknown part" if used.usd is None else f"{used.usd:.4f}"
        lines.append(f"US dollars: {spent} of {budgets.max_usd:g} used")
    return lines
