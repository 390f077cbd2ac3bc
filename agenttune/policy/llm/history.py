"""The commands of a run and their effects, as text for a language model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agenttune.detectors.effects import Changes, Measure, changes_of, effect_in, measures_of
from agenttune.llm.prompts import fenced
from agenttune.policy.llm.curve_text import brief, says_something
from agenttune.protocol.commands import DoEvaluate, LoadCheckpoint, SaveCheckpoint
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord, State, Verdict
from agenttune.protocol.summary import Effect, Intervention
from agenttune.protocol.text import number

MOST_TRIED, WHOLE = 8, 2
"""Entries that are shown, and the newest of them that are shown whole (guess)."""
WHY_LETTERS, OUTCOME_LETTERS, SHORT_LETTERS, WHOLE_LETTERS, ASKED_LETTERS = 100, 240, 120, 1500, 240
ANSWER_LETTERS = 2000
"""Of a result within a decision."""
DEFAULTS = (
    *(("lr_sets", "effective"), ("include_current", True), ("min_gain_frac", 0.01), ("metric", "loss")),
    *(("min_gain_frac", 0.0), ("min_progress_frac", 0.2), ("lower_rates", "any"), ("confirm", "loss")),
    *(("pin", False), ("warmup_steps", 0)),
)
"""Arguments that are not shown."""


def tried(observation: Observation, history: Sequence[Intervention]) -> list[str]:
    """The newest commands, one a line, oldest first."""
    if not history:
        return ["nothing yet"]
    records = {record.command_id: record for record in observation.commands}
    shown = history[-MOST_TRIED:]
    left_out = [_counted(history)] if len(history) > WHOLE else []
    whole = {one.command_id for one in shown[-WHOLE:]}
    agents = {one.author for one in history if one.principal == "agent"}
    names = len(agents) > 1
    return left_out + [_attempt(one, records.get(one.command_id), one.command_id in whole, names) for one in shown]


def _counted(history: Sequence[Intervention]) -> str:
    """How often each command took effect, also of those that there is no room for."""
    done = Counter(one.kind for one in history if one.applied_at_step is not None)
    told = ", ".join(f"{count} {kind}" for kind, count in done.most_common())
    return f"applied in all: {told or 'none'}, of {len(history)} asked for"


def _attempt(one: Intervention, record: CommandRecord | None, is_whole: bool, names_agents: bool) -> str:
    """A command in one line, of which all that others wrote stands in one fence."""
    step = "?" if one.proposed_at_step is None else one.proposed_at_step
    is_known = one.principal == "agent" and not names_agents
    who = "" if is_known else f" by {one.principal} {one.author}"
    # A probe's figures are dear, and nowhere else in the prompt.
    short = SHORT_LETTERS if "trials" not in one.result else 3 * SHORT_LETTERS
    letters = WHOLE_LETTERS if is_whole else short
    asked = f"{one.kind}({_arguments(one.arguments)}){who}"[:ASKED_LETTERS]
    why = f"; because {one.rationale[:WHY_LETTERS]}" if one.rationale and is_whole else ""
    outcome = _outcome(one, record)
    cut = outcome if len(outcome) <= letters else f"{outcome[:letters]} [{len(outcome) - letters} more characters]"
    effect = "" if one.effect is None else f"; effect {effect_words(one.effect)}"[:OUTCOME_LETTERS]
    told = f"{asked} -> {cut}{effect}{why}"
    return f"step {step}: {fenced(told, len(told))}"


def effect_words(effect: Effect) -> str:
    """What a change did, in fewer words than people are told."""
    if effect.verdict == "not known":
        return "not known yet" if not effect.is_measured else f"not known: {effect.reason}"
    if effect.expected is None or effect.found is None or effect.low is None or effect.high is None:
        return effect.words
    verdict = "not clear" if effect.verdict == "no clear effect" else effect.verdict
    expected, low, high, found = (brief(v) for v in (effect.expected, effect.low, effect.high, effect.found))
    return (
        f"{verdict}: {effect.metric} {found}, without it {expected} ({low} to {high}), up to step {effect.until_step}"
    )


def _arguments(given: Mapping[str, Any]) -> str:
    """The arguments that were given."""
    return ", ".join(
        f"{name}={_argument(value)}"
        for name, value in given.items()
        if value not in ({}, [], None) and (name, value) not in DEFAULTS
    )


def _argument(value: object) -> str:
    if isinstance(value, dict) and "kind" in value:
        return f"({_arguments({k: v for k, v in value.items() if k != 'kind'})})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    return number(value)


def _outcome(one: Intervention, record: CommandRecord | None) -> str:
    """Its state and result; a refusal with its reason and the nearest allowed arguments."""
    if one.applied_at_step is not None:
        at = "" if one.applied_at_step == one.proposed_at_step else f" at step {one.applied_at_step}"
        return f"{one.state.value}{at}: {_found(one)}"
    verdict = record.verdict if record is not None else None
    if verdict is not None and verdict.decision == "rejected":
        return f"REFUSED: {refusal(verdict)}"
    trials = _trials(one.result)
    return f"{one.state.value}: {'; '.join(filter(None, [one.summary, trials]))}"


def answer_words(record: CommandRecord, waited_s: float) -> str:
    """What a command came to, for the model that waits for it in the midst of a decision."""
    if not record.is_settled:
        waits = "it waits for somebody's approval" if record.state is State.PROPOSED else f"no answer in {waited_s:g} s"
        return f"{waits}; what comes of it stands in the history next time"
    told = _outcome(Intervention.of(record), record)
    step = "" if record.ack is None else f" (at step {record.ack.step})"
    return f"{told}{step}"[:ANSWER_LETTERS]


def _found(one: Intervention) -> str:
    """What an applied command changed or measured."""
    told = one.result
    if one.kind == DoEvaluate.kind_name():  # its metrics, but for those that only count
        metrics = [f"{k} {number(v)}" for k, v in told.items() if isinstance(v, (int, float)) and says_something(k)]
        return ", ".join(metrics) or one.summary
    if "trials" in told:
        return "; ".join(filter(None, [one.message, _trials(told)]))
    if one.kind == LoadCheckpoint.kind_name() and "from_step" in told:
        went = one.summary.partition("branch ")[0].strip(" ;,")  # the rest is names of branches
        return "; ".join(filter(None, [f"went back from step {told['from_step']}", went]))
    if "checkpoint_id" in told and one.kind == SaveCheckpoint.kind_name():
        return f"saved as {told['checkpoint_id']}"
    return one.summary if one.message in one.summary else f"{one.summary}; {one.message}"


def _trials(result: Mapping[str, Any]) -> str:
    """The result of each trial of a probe."""
    trials = result.get("trials")
    if not isinstance(trials, list):
        return ""
    return (
        f"{result.get('metric', 'value')} of each trial: {'; '.join(_trial(t) for t in trials if isinstance(t, dict))}"
    )


def _trial(trial: Mapping[str, Any]) -> str:
    command = trial.get("command")
    what = _argument(command) if isinstance(command, dict) else "(nothing changed)"
    if trial.get("problem"):
        return f"{what} lost: {trial['problem']}"
    return f"{what} {number(trial.get('value'))}"


def refusal(verdict: Verdict) -> str:
    """A refusal: by whom, why, and the nearest allowed arguments; all of it words of others."""
    nearest = verdict.nearest_allowed
    allowed = f"; allowed would have been {json.dumps(nearest)}" if nearest else ""
    return f"{verdict.decided_by}: {verdict.reason}{allowed}"


def interventions_of(observation: Observation) -> list[Intervention]:
    """The commands that an observation holds, each with its effect."""
    changes = changes_of(observation)
    measures = measures_of(observation)
    return [_intervention(record, observation, changes, measures[0]) for record in observation.commands]


def _intervention(record: CommandRecord, observation: Observation, changes: Changes, goal: Measure) -> Intervention:
    ack = record.ack
    applied = ack.step if ack is not None and ack.outcome == "applied" else None
    before = [] if applied is None else [m for m in goal.points if m.step <= applied]
    after = [] if applied is None else changes.window(applied, goal)
    effect = effect_in(observation, record)
    return Intervention.of(record, before[-1] if before else None, after[-1] if after else None, effect)
