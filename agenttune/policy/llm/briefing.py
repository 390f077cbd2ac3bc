"""What a language model is told of a training: model and data, progress, the loop's plans, the schedule ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from agenttune.detectors.chance import chance_loss, was_trained_before
from agenttune.llm.prompts import fenced
from agenttune.policy.llm.curve_text import NAME_LETTERS, VALUE_LETTERS
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import CheckpointView, Observation
from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.protocol.text import duration, number

TRAINED_BEFORE = "the run began with weights that had learnt before"
FORETOLD = 4
"""Steps ahead at which the learning rate is told (guess)."""
ALWAYS = ("start", "best")
MOST_STATES = 6
"""States to return to that are shown (guess)."""
MOST_GROUPS = 8
"""Parameter groups whose values are shown; `read` with `optimizer` has all."""


def training(observation: Observation) -> list[str]:
    """What an expert would ask first, as far as the loop tells it."""
    facts = observation.facts
    if facts is None:
        return []
    lines = [_model(facts), _data(facts, observation), _beginning(facts, observation)]
    return [line for line in lines if line]


def _model(facts: RunFacts) -> str:
    tied = f"tied {'; '.join(facts.tied)}" if facts.tied else ""
    words = "; ".join(part for part in (facts.model, facts.optimizer, tied) if part)
    parts = [fenced(words, VALUE_LETTERS)] if words else []
    if facts.parameters is not None:
        trained = "all trained" if facts.trainable == facts.parameters else f"{_count(facts.trainable or 0)} trained"
        parts.append(f"{_count(facts.parameters)} weights, {trained}")
    return ", ".join(parts)


def _data(facts: RunFacts, observation: Observation) -> str:
    parts = []
    if facts.samples is not None:
        parts.append(f"{facts.samples} training samples")
    if facts.batch_size is not None:
        knob = observation.knob("gradient_accumulation_steps")
        group = knob.effective if knob is not None and isinstance(knob.effective, int) else 1
        whole = facts.batch_size * group * facts.replicas
        times = f" x {facts.replicas} processes" if facts.replicas > 1 else ""
        parts.append(f"batch {facts.batch_size} x accumulation {group}{times} = {whole} a step")
    if facts.epoch_steps is not None:
        parts.append(f"{facts.epoch_steps} steps an epoch")
    if facts.epochs is not None:
        parts.append(f"{number(float(facts.epochs))} epochs planned")
    return ", ".join(parts)


def _beginning(facts: RunFacts, observation: Observation) -> str:
    """By the loss where its chance level is known, else by the weights."""
    chance = chance_loss(observation)
    if chance is None:
        return TRAINED_BEFORE if was_trained_before(observation) else ""
    return f"chance level of the loss: {number(chance)} nats ({fenced(facts.chance_of, VALUE_LETTERS)})"


def _count(weights: int) -> str:
    """A number of weights, such as `1.2 M`."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if weights >= size:
            return f"{weights / size:.3g} {letter}"
    return str(weights)


def progress(observation: Observation) -> str:
    """The step, the time, and what the loop does next."""
    return "\n".join(line for line in (_place(observation), _time(observation), _due(observation)) if line)


def _place(observation: Observation) -> str:
    of = f" of {observation.max_steps}" if observation.max_steps else ""
    part = f" ({100 * observation.step / observation.max_steps:.0f} %)" if observation.max_steps else ""
    length = observation.facts.epoch_steps if observation.facts is not None else None
    epoch = f", epoch {observation.step / length:.2f}" if length else ""
    branch = "" if observation.branch == "main" else f", on branch {fenced(observation.branch, NAME_LETTERS)}"
    return f"step {observation.step}{of}{part}{epoch}, {observation.status}{branch}"


def _time(observation: Observation) -> str:
    parts, pace = [], observation.steps_per_s
    if observation.started_at_s is not None and observation.at_s > observation.started_at_s:
        parts.append(f"{duration(observation.at_s - observation.started_at_s)} used")
    if pace and observation.max_steps:
        parts.append(f"about {duration(max(0, observation.max_steps - observation.step) / pace)} left")
    return ", ".join(parts)


def _due(observation: Observation) -> str:
    facts = observation.facts
    if facts is None:
        return ""
    planned = {"evaluation": facts.evaluation, "checkpoint": facts.saving}
    words = [f"{what} {_when(rhythm, observation)}" for what, rhythm in planned.items() if rhythm is not None]
    lacking = [f"no {what}" for what, rhythm in planned.items() if rhythm is None]
    if not words:
        return ""
    return f"the loop's next: {', '.join(words)}{'; it plans ' + ' and '.join(lacking) if lacking else ''}"


def _when(rhythm: Rhythm, observation: Observation) -> str:
    facts, end = observation.facts, observation.max_steps
    step = rhythm.next_after(observation.step, facts.epoch_steps if facts is not None else None)
    if step is None:
        return f"every {rhythm.every} epochs"
    every = f" (every {rhythm.every} {rhythm.unit})"
    return f"{'at the end' if end is not None and step > end else f'at step {step}'}{every}"


def states(checkpoints: Sequence[CheckpointView]) -> list[str]:
    """States that can be returned to, by step: the start's and the best one in any case, and the newest others."""
    always = [one for one in checkpoints if one.kept_as in ALWAYS]
    others = [one for one in checkpoints if one.kept_as not in ALWAYS]
    shown = [*others[-max(1, MOST_STATES - len(always)) :], *always]
    return [_state(checkpoint) for checkpoint in sorted(shown, key=lambda one: one.step)]


def _state(checkpoint: CheckpointView) -> str:
    names = [checkpoint.checkpoint_id]
    names += [f"tag {checkpoint.tag}"] if checkpoint.tag and checkpoint.tag != checkpoint.kept_as else []
    names += [f"branch {checkpoint.branch}"] if checkpoint.branch != "main" else []
    kept = f" {checkpoint.kept_as}," if checkpoint.kept_as else ""
    metric = f", goal {number(checkpoint.metric)}" if checkpoint.metric is not None else ""
    where = ", in memory" if checkpoint.keep_in == "memory" and not checkpoint.kept_as else ""
    return f"{fenced(', '.join(names), NAME_LETTERS)}:{kept} step {checkpoint.step}{metric}{where}"


def learning_rates_ahead(observation: Observation) -> Iterator[str]:
    """The schedule and its learning rates ahead: one line for all parameter groups in proportion."""
    course, step = observation.schedule, observation.step
    if course is None:
        return
    kind = fenced(course.kind, NAME_LETTERS)
    if not course.is_foretold:
        yield f"schedule {kind}: goes by what is measured, so its rates are not known"
        return
    steps = _ahead(course.steps, step)
    for track in course.tracks:
        which = (
            "" if len(course.tracks) == 1 else f", parameter group {', '.join(map(str, track.groups[:MOST_GROUPS]))}"
        )
        left = _left(observation, course, track) if 0 in track.groups else ""
        yield f"schedule {kind}{which}: {_learning_rates(course, track, steps)}{left}"


def _left(observation: Observation, course: LrCourse, track: Track) -> str:
    """The mean rate to come as a part of the base: near nothing long before the end, the schedule has collapsed."""
    knob, end = observation.knob("lr"), observation.max_steps
    later = [rate for at, rate in zip(course.steps, track.rates, strict=True) if at >= observation.step]
    if knob is None or not knob.base or not later or end is None or end <= observation.step:
        return ""
    return f"; the mean of the rest is {100 * fmean(later) / knob.base:.3g} % of the base {number(knob.base)}"


def _ahead(steps: Sequence[int], step: int) -> list[int]:
    """Indices of a few of the steps ahead, the last one among them."""
    later = [i for i, at in enumerate(steps) if at > step]
    if len(later) <= FORETOLD:
        return later
    return [later[round(i * (len(later) - 1) / (FORETOLD - 1))] for i in range(FORETOLD)]


def _learning_rates(course: LrCourse, track: Track, places: Sequence[int]) -> str:
    if not places:
        return "at its end"
    return "lr " + ", ".join(f"{number(float(track.rates[i]))} at step {course.steps[i]}" for i in places)


def by_group(values: Sequence[Any]) -> str:
    """Values of parameter groups, said once where they are all the same."""
    shown = [number(value) if isinstance(value, (int, float)) else _pair(value) for value in values]
    if len(set(shown)) == 1:
        return shown[0]
    more = f", ... {len(shown) - MOST_GROUPS} more" if len(shown) > MOST_GROUPS else ""
    return f"[{', '.join(shown[:MOST_GROUPS])}{more}]"


def _pair(value: Any) -> str:
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        return f"({', '.join(number(v) for v in value[:8])})"
    return fenced(value, VALUE_LETTERS)
