"""An observation as text for a language model, of bounded size however long the run.

All text from logs, names and people is fenced. Lines are made here; their headings and order are in the template
`llm_observation.j2`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from agenttune.config import BudgetSettings
from agenttune.detectors.trend import LOSS_NAMES, series, spread
from agenttune.llm.prompts import fenced
from agenttune.llm.tools.offered import UNLISTED_KNOBS
from agenttune.policy.llm.briefing import by_group, learning_rates_ahead, progress, states, training
from agenttune.policy.llm.curve_text import NAME_LETTERS, VALUE_LETTERS, brief, curves, named, says_something
from agenttune.policy.llm.history import interventions_of, tried
from agenttune.policy.llm.layer_text import weights_told
from agenttune.policy.llm.token_room import PromptSection, shared_out, within
from agenttune.protocol.commands import COMMAND_KINDS, Probe
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import Ledger
from agenttune.protocol.observation import HISTORY, Evaluation, Observation
from agenttune.protocol.run_info import KnobState
from agenttune.protocol.summary import Intervention
from agenttune.protocol.text import number

MOST_TOKENS = 1085
"""Of an observation, without the words of its template, by an upper estimate; its headings take about 80 more."""
LETTERS_PER_TOKEN = 4
"""English text and figures, roughly (rule of thumb; figures alone take more tokens)."""
LAST_EVALUATIONS, MOST_METRICS = 4, 3
MOST_FINDINGS, MOST_KNOBS, MOST_NOTES, MOST_REASONS = 5, 24, 5, 6
"""Entries that are shown (guess)."""
NOTE_TOKENS, FINDING_TOKENS, DECISION_TOKENS, REASON_TOKENS = 100, 60, 60, 16
"""Longest texts of others (guess: a note is rare, and for the model)."""
NOTE_LETTERS, FINDING_LETTERS = 500, 240
LAST_NOISE, LEAST_NOISE = 16, 5
"""Evaluations by which the noise of one is judged: the newest, and how many it takes."""
TRAIN_STEPS = 16
"""Newest training losses before an evaluation whose median stands beside it."""
FIELDS_OF = {"update_optimizer": "optimizer", "update_training": "training", "set_knob": "knobs"}
"""Words for whose values they are, after the command that sets them: a `change` has them by name."""
OWN_NAMES = frozenset(
    {"lr", "weight_decay", "betas", "eps", "momentum", "max_grad_norm", "gradient_accumulation_steps", "max_steps"}
    | {"label_smoothing", "eval_steps", "save_steps", "neftune_noise_alpha"}
)
"""Names of knobs that need no fence: they are our own."""


def tokens_estimate(text: str) -> int:
    """Tokens of a text, estimated from its length."""
    return -(-len(text) // LETTERS_PER_TOKEN)


@dataclass(frozen=True)
class Digest:
    """An observation in lines, section by section."""

    training: list[str]
    progress: str
    states: list[str]
    woken_by: list[str]
    goal: list[str]
    curves: list[str]
    layers: list[str]
    knobs: list[str]
    findings: list[str]
    tried: list[str]
    notes: list[str]
    budget: list[str]


def digest(
    observation: Observation,
    history: Sequence[Intervention] | None = None,
    budgets: BudgetSettings | None = None,
    used: Ledger | None = None,
    next_step: int | None = None,
) -> Digest:
    """What a model is told of a run, in at most `MOST_TOKENS`.

    Args:
        observation: The run.
        history: The commands with their effect as measured from the log; None: from the observation itself.
        budgets: Caps on calls of language models.
        used: What was used up of them.
        next_step: When the model is asked again at the latest, if that is known.
    """
    reasons = [_told(reason, REASON_TOKENS) for reason in observation.woken_by[:MOST_REASONS]]
    again = [] if next_step is None else [f"asked again at step {next_step} if nothing happens before"]
    changes = tried(observation, interventions_of(observation) if history is None else history)
    notes = observation.notes[-MOST_NOTES:]
    found = shared_out(
        {
            "progress": PromptSection(progress(observation).splitlines(), 75),
            "knobs": PromptSection([*learning_rates_ahead(observation), *_knobs(observation.knobs)], 120),
            "curves": PromptSection(curves(observation), 175),
            "goal": PromptSection(_evaluations(observation), 110, "last", head=2),
            "tried": PromptSection([*changes, *_last_decision(observation)], 130, "last", head=len(changes) > 2),
            "layers": PromptSection(weights_told(observation.weights), 60),
            "states": PromptSection(states(observation.checkpoints), 65, "last"),
            "findings": PromptSection(_findings(observation), 60, "last"),
            "notes": PromptSection(
                [fenced(within(note, NOTE_TOKENS), NOTE_LETTERS, "note") for note in notes], 80, "last"
            ),
            "training": PromptSection(training(observation), 95),
            "woken_by": PromptSection(reasons, 30),
            "budget": PromptSection([*again, *_budget(observation, budgets or BudgetSettings(), used or Ledger())], 45),
        },
        MOST_TOKENS,
    )
    return Digest(progress="\n".join(found.pop("progress")), **found)


def _told(text: str, tokens: int) -> str:
    """Text of others in its fence, within so many tokens."""
    return fenced(within(text, tokens), VALUE_LETTERS)


def _evaluations(observation: Observation) -> list[str]:
    """One line each, under a line that names the columns."""
    known = observation.evaluations
    if not known:
        return ["no evaluation yet"]
    first = "first known" if len(known) >= HISTORY else "first"
    best = observation.best_evaluation()
    marks = {id(known[0]): first, id(known[-1]): "newest"}
    if best is not None:
        marks[id(best)] = f"{marks[id(best)]}, best" if id(best) in marks else "best"
    shown = [e for i, e in enumerate(known) if id(e) in marks or i >= len(known) - LAST_EVALUATIONS]
    names = _measured(shown, observation.goal_metric)[:MOST_METRICS]
    beside = {e.step: loss for e in shown if (loss := _training_loss(observation, e.step)) is not None}
    columns = [*map(named, names), *(["training loss there"] if beside else [])]
    lines = [_evaluation(e, names, beside, marks.get(id(e), "")) for e in shown]
    return [f"step: {', '.join(columns)}{_noise(observation)}", *lines]


def _training_loss(observation: Observation, step: int) -> float | None:
    """The level of the training loss where an evaluation was, to see the gap by; None: not known, or of no use."""
    view = series(observation, LOSS_NAMES)
    if view is None or view.name == observation.goal_metric or "loss" not in observation.goal_metric:
        return None
    newest = [v for s, v in zip(view.steps, view.values, strict=True) if s <= step and math.isfinite(v)][-TRAIN_STEPS:]
    return median(newest) if len(newest) == TRAIN_STEPS else None


def _noise(observation: Observation) -> str:
    """How far one evaluation moves by chance, from the differences of neighbours; empty while there are too few."""
    goal = observation.goal_metric
    values = [e.metrics[goal] for e in observation.evaluations if goal in e.metrics]
    noise = spread([value for value in values if math.isfinite(value)][-LAST_NOISE:])
    return f"; noise of one about {number(noise)}" if len(values) >= LEAST_NOISE and noise > 0 else ""


def _measured(evaluations: Sequence[Evaluation], goal: str) -> list[str]:
    """What evaluations measured of the model, the goal first; not how long they took."""
    names = {name for e in evaluations for name in e.metrics if name == goal or says_something(name)}
    return sorted(names, key=lambda name: (name != goal, name))


def _evaluation(evaluation: Evaluation, names: Sequence[str], beside: Mapping[int, float], mark: str) -> str:
    values = [number(evaluation.metrics[name]) if name in evaluation.metrics else "-" for name in names]
    if beside:
        values.append(brief(beside[evaluation.step]) if evaluation.step in beside else "-")
    return f"{evaluation.step}: {', '.join(values) or 'nothing'}{f' ({mark})' if mark else ''}"


def _knobs(knobs: Sequence[KnobState]) -> list[str]:
    """One line for each command that sets some."""
    lines: dict[str, list[str]] = {}
    for knob in knobs[:MOST_KNOBS]:
        is_switch = knob.command == "update_optimizer" and isinstance(knob.effective, bool)
        if knob.name not in UNLISTED_KNOBS and not is_switch:
            lines.setdefault(knob.command, []).append(_knob(knob))
    told = [f"{_command(command)}: {'; '.join(values)}" for command, values in lines.items()]
    return told + ([f"and {len(knobs) - MOST_KNOBS} more knobs"] if len(knobs) > MOST_KNOBS else [])


def _command(name: str) -> str:
    return FIELDS_OF.get(name) or (name if name in COMMAND_KINDS else fenced(name, NAME_LETTERS))


def _knob(knob: KnobState) -> str:
    name = knob.name if knob.name in OWN_NAMES else fenced(knob.name, NAME_LETTERS)
    value = by_group(knob.groups) if knob.groups else _value(knob.effective)
    base = "" if knob.base is None or knob.base == knob.effective else f" (base {number(knob.base)})"
    unit = f" {fenced(knob.unit, 40)}" if knob.unit and knob.name not in OWN_NAMES else ""
    return f"{name} {value}{base}{unit}"


def _value(value: Any) -> str:
    """A value: numbers as they are, everything else fenced."""
    if value is None or isinstance(value, (bool, int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return by_group([value])
    return fenced(json.dumps(value, default=str) if isinstance(value, dict) else value, VALUE_LETTERS)


def _last_decision(observation: Observation) -> list[str]:
    """The last decision; it may say that a command came too late, which the commands do not show."""
    last = observation.last_decision
    if last is None or not last.reason:
        return []
    return [f"last decision, at step {last.step}: {_told(last.reason, DECISION_TOKENS)}"]


def _findings(observation: Observation) -> list[str]:
    return [_finding(finding, observation.step) for finding in observation.findings[-MOST_FINDINGS:]]


def _finding(finding: Finding, step: int) -> str:
    age = "now" if step <= finding.step else f"{step - finding.step} steps ago"
    return (
        f"{finding.severity} {finding.kind}, {age}: {fenced(within(finding.summary, FINDING_TOKENS), FINDING_LETTERS)}"
    )


def _budget(observation: Observation, budgets: BudgetSettings, used: Ledger) -> list[str]:
    left = observation.commands_left
    lines = ["commands left: no limit" if left is None else f"commands left: {left}"]
    if Probe.kind_name() in observation.capabilities and Probe.kind_name() not in observation.not_offered:
        steps = observation.probe_steps_left
        lines.append("extra steps left for probes: " + ("no limit" if steps is None else str(steps)))
    if observation.returns_left is not None:
        lines.append(f"returns left: {observation.returns_left}")
    if budgets.max_calls is not None:
        lines.append(f"calls of language models: {used.calls} of {budgets.max_calls} used")
    if budgets.max_tokens is not None:
        lines.append(f"tokens: {used.tokens} of {budgets.max_tokens} used")
    if budgets.max_usd is not None:
        spent = "an unknown part" if used.usd is None else f"{used.usd:.4f}"
        lines.append(f"US dollars: {spent} of {budgets.max_usd:g} used")
    return lines
