"""The names that a rule can use, computed from an observation.

Unknown numbers are NaN, and every comparison with NaN is false, so that a rule never fires on what is not known.
`DOCUMENTED` describes every name; a test keeps it equal to what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from agenttune.config.expressions import Text
from agenttune.detectors import DETECTOR_NAMES, Detector, StandInDetector, detect
from agenttune.detectors.chance import chance_loss, was_trained_before
from agenttune.detectors.evaluations import goal_evaluations
from agenttune.detectors.layer_faults import LayerFault
from agenttune.detectors.schedules import RATE_NAMES, is_rising, lost_to_warm_up, planned
from agenttune.detectors.trend import (
    GRAD_NAMES,
    LOSS_NAMES,
    MAD_TO_SIGMA,
    NOISE_STEPS,
    Trend,
    changes,
    last_change_step,
    series,
)
from agenttune.policy.base import asked_at_step, by_agents
from agenttune.policy.tried import lr_before, mark, newest_effect, newest_of
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.protocol.weight_looks import usual_update_ratio

T = TypeVar("T")
NAN = math.nan
OWN_DETECTORS = "own_detectors"
"""In the context of a validation: the user's own detectors, whose findings a policy file may ask for."""
ALLOWED_THROUGH = frozenset({State.QUEUED, State.APPLIED, State.KEPT, State.REVERTED})

DOCUMENTED: dict[str, Any] = {
    "step": "completed optimizer steps",
    "max_steps": "steps planned",
    "steps_left": "steps planned and not yet made",
    "progress": "part of the planned steps that is done, 0 to 1",
    "lr": "learning rate of the next step (effective)",
    "base_lr": "learning rate that the schedule scales",
    "weight_decay": "weight decay now",
    "max_grad_norm": "gradient clipping now; 0 is off",
    "commands_left": "what is left of the budget of agent commands",
    "changes": "changes of optimizer, schedule, training, knobs, data or layers so far, by anybody",
    "steps_since_change": "steps since the newest of them, or since the start",
    "trained_before": "whether the run went on from weights that had learnt: it began below 0.7 of `loss.chance`, or, "
    "where that is not known, its weights were no fresh ones",
    "epochs_done": "how often training has gone over its data; NaN where that has no known end",
    "little_data": "whether a large model is to go over little data many times: more than 25 epochs, and more than "
    "1,000 weights a sample; False where that is not known",
    "found": {
        kind: Text(f'severity of a finding of {kind} as things stand ("critical", "warning", "info"), else ""')
        for kind in DETECTOR_NAMES
    },
    "since": {kind: f"steps since {kind} was last recorded; infinite if never" for kind in DETECTOR_NAMES},
    "loss": {
        "last": "newest finite training loss",
        "level": "median of the newest 16",
        "start": "first; all of `loss` begins anew where a command gives the loss another meaning",
        "best": "lowest level so far",
        "learnt": "how far `best` is below `start`, as a part of the size of `start`",
        "peak": "highest of the newest finite losses since the newest change",
        "noise": "standard deviation of one step around the trend, in units of the loss",
        "slope": f"change per step over the newest {NOISE_STEPS}",
        "recent_slope": "change per step since the newest change",
        "slope_before": f"change per step over the {NOISE_STEPS} steps before the newest change",
        "noise_before": f"`noise` over the {NOISE_STEPS} steps before the newest change",
        "points": "points known",
        "chance": "of a guess that knows nothing: the logarithm of classes or tokens, where the model's class tells or "
        "its last layer and the first loss agree",
        "nonfinite": "newest losses in a row that are NaN or infinite",
    },
    "grad": {"last": "newest finite gradient norm", "level": "median of the newest 16", "best": "lowest level so far"},
    "schedule": {
        "left_frac": "mean planned rate over the rest of the run, as a part of the base rate",
        "is_warming_up": "whether the schedule is to raise the rate from here, or has just done so",
        "highest": "highest rate so far, on the way that led here",
        "can_be_planned": "whether `update_schedule` can replace it",
    },
    "path": {
        "straightness": "cosine between the halves of the way that the weights took since the newest change, or "
        "the start: near 1 they go straight on, near 0 or below steps undo each other",
        "update_ratio": "median over the layers (under SGD without embeddings, where others are trained) of "
        "|update| / |weights| of one step",
        "early_update_ratio": "the highest of it in the first 20 steps since the newest change, or the start, "
        "and in later ones while the rate rises",
        "usual_update_ratio": "median of those since the newest change, but for the newest three",
        "steps": "steps of the stretch that `straightness` is of",
        "full_steps": "the same, those of a warm-up by their rates: a line to the peak is worth half of its steps",
        "layer": Text(
            "name of the layer at fault, as layer_fault finds it as things stand, else ''; of a parameter that is the "
            "model's own and lies in no layer, that one's"
        ),
        "layer_cause": Text('what is wrong with it: "jump", "dead", "stopped", "frozen" or "dropout", else ""'),
    },
    "state": {
        "good": Text(
            "id of the newest state of before the trouble of now, else of that of the run's start; '' if none"
        ),
        "best": Text("id of the state of the best evaluation, on whatever branch it was made; '' if none"),
        "start": Text("id of the state of before the first step; '' if none"),
        "newest": Text("id of the newest state on the way that led here; '' if none"),
        "good_step": "the step of `state.good`",
        "best_step": "the step of `state.best`",
        "returned_to": Text("id of the state that the newest return went to; '' if there was none"),
        "repeats_data": "whether that led to the same data again",
        "before_trouble": "the last step of before the trouble of now, as findings and losses tell it",
        "start_step": "the step of `state.start`",
        "newest_step": "the step of `state.newest`",
        "returns_left": "how often agents may still go back to a checkpoint; infinite without a limit",
    },
    "evals": {
        "count": "evaluations so far",
        "last": "goal metric of the newest",
        "best": "best goal metric so far",
        "since_best": "evaluations since the best one",
        "behind": "by how much the newest is worse than the best, as a part of the best's size (of the largest, "
        "where they have gone through zero)",
        "behind_before": "the same of the one before the newest",
        "behind_second": "the same of the newest, against the second best: a best that is one by luck stands alone",
        "learnt": "how far the best is below the loss that the run began with, as a part of that; below 0 where the "
        "best is worse than it; NaN where the goal metric is no loss",
        "train_rise": "how far the training loss has risen since the best, as a part of what it had fallen by then; "
        "below 0 where it fell on",
        "noise": "standard deviation of one evaluation around a line through its neighbours, up to the best or since, "
        "as a part of the best's size; NaN where neither has enough (four up to it, five since)",
    },
}
"""Every name a rule can use, with its meaning."""

DOCUMENTED_FUNCTIONS: dict[str, str] = {
    "changed": "changed('update_optimizer'): commands of that kind that agents had applied or queued",
    "fired": "fired('rule', ...): times that a command of these rules was let through",
    "helped": "helped('rule'): what the rule's newest command that took effect did, against the forecast without it: 1 "
    "it helped, -1 it hurt, 0 neither shows (yet); NaN if there is none",
    "measured": "measured('rule'): 1 once `helped` is 1 or -1 or all that can tell was measured, else 0; NaN as above",
    "lr_before": "lr_before('rule', ...): base learning rate before these rules' newest command, to put back what was "
    "cut; NaN as above",
    "step_of": "step_of('rule', ...): step at which that command was asked for, also on a branch that was left; NaN as "
    "above",
    "steps_since": "steps_since('rule'): steps since it last asked, or a return left that behind; infinite if never",
    "knob": "knob('name'): effective value of a knob, NaN if there is none of that name",
    "min": "smallest of its arguments",
    "max": "largest of its arguments",
    "abs": "absolute value",
    "sqrt": "square root",
    "log": "natural logarithm",
    "exp": "e to the power",
    "round": "nearest whole number",
    "clamp": "clamp(x, low, high): x within bounds",
    "is_finite": "neither NaN nor infinite",
}
"""Every function a rule can call, with its meaning."""


def describe() -> list[tuple[str, str]]:
    """All names and functions with their meanings, for the docs."""
    rows = []
    for name, meaning in DOCUMENTED.items():
        fields = meaning.items() if isinstance(meaning, dict) else ()
        rows += [(f"{name}.{field}", text) for field, text in fields] or [(name, str(meaning))]
    return rows + [(f"{name}()", text) for name, text in DOCUMENTED_FUNCTIONS.items()]


class AnyName(dict[str, T]):
    """A group in which every name is known; those that are not in it have one value."""

    def __init__(self, known: dict[str, T], otherwise: T) -> None:
        super().__init__(known)
        self._otherwise = otherwise

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> T:
        return self._otherwise


def documented(own: Sequence[Detector] = ()) -> dict[str, Any]:
    """`DOCUMENTED` with what the user's own detectors find."""
    found = _by_finding(dict.fromkeys(DETECTOR_NAMES, Text()), Text(), own)
    return DOCUMENTED | {"found": found, "since": _by_finding(dict.fromkeys(DETECTOR_NAMES, ""), "", own)}


def _by_finding(known: dict[str, T], otherwise: T, own: Sequence[Detector]) -> dict[str, T]:
    """A value by the name of each finding.

    A detector that cannot be used may not have told its name: rules that ask for it are no reason to stop the others.
    """
    known = {**dict.fromkeys((*DETECTOR_NAMES, *(detector.name for detector in own)), otherwise), **known}
    return AnyName(known, otherwise) if any(isinstance(d, StandInDetector) and d.fault for d in own) else known


def names_of(observation: Observation, own: Sequence[Detector] = ()) -> dict[str, Any]:
    """The values of `DOCUMENTED` for one observation, with the findings of the user's own detectors."""
    max_steps = observation.max_steps
    now, loss = detect(observation, own=own), _loss(observation)
    return {
        "step": observation.step,
        "max_steps": max_steps if max_steps else NAN,
        "steps_left": max_steps - observation.step if max_steps else NAN,
        "progress": observation.step / max_steps if max_steps else NAN,
        "lr": _effective(observation, "lr"),
        "base_lr": _base_lr(observation),
        "weight_decay": _effective(observation, "weight_decay"),
        "max_grad_norm": _effective(observation, "max_grad_norm"),
        "commands_left": math.inf if observation.commands_left is None else observation.commands_left,
        "changes": len(changes(observation)),
        "steps_since_change": observation.step - last_change_step(observation),
        "trained_before": was_trained_before(observation),
        "epochs_done": _epochs_done(observation),
        "little_data": _has_little_data(observation),
        "found": _by_finding({f.kind: f.severity for f in reversed(now)}, "", own),
        "since": _since(observation, own),
        "loss": loss,
        "grad": _grad(observation),
        "path": _path(observation, now),
        "evals": _evals(observation, loss["start"]),
        "state": _state(observation, now),
        "schedule": _schedule(observation),
    }


MANY_EPOCHS, MANY_WEIGHTS = 25, 1000
"""Epochs, and weights a sample, above which a model learns its data by heart (guess: a perceptron that does has 30 and
3,300; a residual network on CIFAR-10 200 and 220)."""


def _has_little_data(observation: Observation) -> bool:
    """Whether a faster training would only know its data by heart sooner."""
    facts, end = observation.facts, observation.max_steps
    if facts is None or not facts.trainable or not facts.samples:
        return False
    epochs = facts.epochs
    if epochs is None and end and facts.epoch_steps:
        epochs = end / facts.epoch_steps
    return epochs is not None and epochs > MANY_EPOCHS and facts.trainable > MANY_WEIGHTS * facts.samples


def _epochs_done(observation: Observation) -> float:
    facts = observation.facts
    return observation.step / facts.epoch_steps if facts is not None and facts.epoch_steps else NAN


def _effective(observation: Observation, name: str) -> float:
    knob = observation.knob(name)
    value = knob.effective if knob is not None else None
    return float(value) if isinstance(value, (int, float)) else NAN


def _base_lr(observation: Observation) -> float:
    knob = observation.knob("lr")
    return NAN if knob is None or knob.base is None else knob.base


def _since(observation: Observation, own: Sequence[Detector]) -> dict[str, float]:
    steps: dict[str, float] = {f.kind: observation.step - f.step for f in observation.findings}
    return _by_finding(steps, math.inf, own)


def _loss(observation: Observation) -> dict[str, float]:
    trend = Trend.of(observation)
    chance = chance_loss(observation)
    known: dict[str, float] = {"nonfinite": _nonfinite(observation), "chance": NAN if chance is None else chance}
    if trend is None:
        return {name: known.get(name, NAN) for name in DOCUMENTED["loss"]} | {"points": 0}
    before = trend.before_change
    return known | {
        "last": trend.last,
        "level": trend.level,
        "start": trend.start,
        "learnt": (trend.start - trend.best) / abs(trend.start) if trend.start else NAN,
        "best": trend.best,
        "peak": max(trend.since_change.values),
        "noise": trend.noise_value,
        "slope": trend.slope(),
        "recent_slope": trend.since_change.slope(len(trend)),
        "slope_before": before.slope() if before else NAN,
        "noise_before": before.noise_value if before else NAN,
        "points": len(trend.all_values),
    }


def _nonfinite(observation: Observation) -> int:
    view = series(observation, LOSS_NAMES)
    values = view.values if view else []
    return next((i for i, value in enumerate(reversed(values)) if math.isfinite(value)), len(values))


def _grad(observation: Observation) -> dict[str, float]:
    trend = Trend.of(observation, GRAD_NAMES)
    if trend is None:
        return dict.fromkeys(DOCUMENTED["grad"], NAN)
    return {"last": trend.last, "level": trend.level, "best": trend.best}


def _schedule(observation: Observation) -> dict[str, Any]:
    ahead, base, rates = planned(observation), _base_lr(observation), Trend.of(observation, RATE_NAMES)
    return {
        "left_frac": ahead.mean / base if ahead is not None and base > 0 else NAN,
        "is_warming_up": is_rising(observation),
        "highest": NAN if rates is None else max(rates.all_values),
        "can_be_planned": observation.schedule is not None and observation.schedule.can_be_planned,
    }


def _path(observation: Observation, now: Sequence[Finding]) -> dict[str, Any]:
    evidence: Mapping[str, Any] = next((f.evidence for f in now if f.kind == LayerFault.name), {})
    layer = {"layer": str(evidence.get("layer", "")), "layer_cause": str(evidence.get("cause", ""))}
    if not observation.weights:
        return dict.fromkeys(DOCUMENTED["path"], NAN) | layer
    look = observation.weights[-1]
    return {
        "straightness": look.straightness,
        "update_ratio": look.update_ratio,
        "early_update_ratio": look.early_update_ratio,
        "usual_update_ratio": usual_update_ratio(observation.weights),
        "steps": look.step - look.since_step,
        "full_steps": look.step - look.since_step - lost_to_warm_up(observation),
        **layer,
    }


def _evals(observation: Observation, start: float) -> dict[str, float]:
    pairs = goal_evaluations(observation)
    if not pairs:
        return dict.fromkeys(DOCUMENTED["evals"], NAN) | {"count": 0}
    sign = 1.0 if observation.goal_direction == "minimize" else -1.0
    costs = [cost for _, cost in pairs]
    best = min(costs)
    # One that has gone through zero has no size of its own there: what it has moved by is its scale.
    size = (abs(best) if min(costs) * max(costs) > 0 else max(map(abs, costs))) or NAN
    return {
        "count": len(costs),
        "last": sign * costs[-1],
        "best": sign * best,
        "since_best": len(costs) - 1 - costs.index(best),
        "behind": (costs[-1] - best) / size,
        "behind_before": (costs[-2] - best) / size if len(costs) > 1 else NAN,
        "behind_second": (costs[-1] - sorted(costs)[1]) / size if len(costs) > 1 else NAN,
        "learnt": (start - best) / abs(start) if start and observation.goal_metric.endswith("loss") else NAN,
        "train_rise": _rise_since(observation, pairs[costs.index(best)][0]),
        "noise": _noise(costs) / size,
    }


def _rise_since(observation: Observation, step: int) -> float:
    """How far the training loss has risen since a step, as a part of what it had fallen by then; NaN if by nothing."""
    trend = Trend.of(observation)
    then = None if trend is None else trend.level_at(step)
    if trend is None or then is None or trend.start <= then:
        return NAN
    return (trend.level - then) / (trend.start - then)


NOISE_EVALUATIONS = 8
"""Evaluations on either side of the best whose noise is told (guess)."""


FEWEST_SINCE = 5
"""Evaluations from the best on whose noise is told: of four, two bends may both be small by chance (seen: a healthy
network's three in a row, 8 % worse than the best, seemed ten times less noisy than they were)."""


def _noise(costs: Sequence[float]) -> float:
    """The lesser of that up to the best evaluation and that since: a jump is no noise, nor is a steep beginning."""
    best = costs.index(min(costs))
    since = costs[best:][:NOISE_EVALUATIONS]
    before, after = _roughness(costs[: best + 1][-NOISE_EVALUATIONS:]), _roughness(since)
    sides = before, after if len(since) >= FEWEST_SINCE else NAN
    return min((side for side in sides if not math.isnan(side)), default=NAN)


def _roughness(values: Sequence[float]) -> float:
    """Standard deviation of the noise, from second differences, which no steady course moves; NaN for fewer than 4."""
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return MAD_TO_SIGMA * median(bends) / math.sqrt(6) if len(bends) >= 2 else NAN


def _state(observation: Observation, now: Sequence[Finding]) -> dict[str, Any]:
    """States to go back to. Good are only those that training stands on: what a return left behind was not reached."""
    line = observation.lineage
    known = {
        kept_as: [c for c in observation.checkpoints if c.kept_as == kept_as][-1:] for kept_as in ("start", "best")
    }
    start = known["start"]
    here = [c for c in observation.checkpoints if line.has(c.branch, c.step)]
    before = _trouble_step(observation, now)
    good = [c for c in here if c.step <= before and (not start or c.step >= start[0].step)]
    newest = sorted(good, key=lambda c: c.step)[-1:] or start
    last = sorted(here, key=lambda c: c.step)[-1:]
    found = {"good": newest, "best": known["best"], "start": start, "newest": last}
    ids: dict[str, Any] = {name: states[0].checkpoint_id if states else "" for name, states in found.items()}
    steps = {f"{name}_step": float(states[0].step) if states else NAN for name, states in found.items()}
    left = observation.returns_left
    return {
        **ids,
        **steps,
        "before_trouble": before,
        **_newest_return(observation),
        "returns_left": math.inf if left is None else left,
    }


def _newest_return(observation: Observation) -> dict[str, Any]:
    results = [c.ack.result for c in observation.commands if c.ack is not None and "repeats_data" in c.ack.result]
    newest = results[-1] if results else {}
    return {"returned_to": newest.get("checkpoint_id", ""), "repeats_data": bool(newest.get("repeats_data", False))}


def _trouble_step(observation: Observation, now: Sequence[Finding]) -> float:
    """The last step of before the trouble of now: before what findings say that it began, else of the best level.

    A loss is bad by the update before it, so the weights of before that are the last good ones.
    """
    bad = _first_nonfinite_step(observation)
    if bad is not None:
        return bad - 2
    for severity in ("critical", "warning"):
        began = [f.evidence.get("at_step") for f in now if f.severity == severity]
        known = [step for step in began if isinstance(step, (int, float))]
        if known:
            return min(known) - 2
    trend = Trend.of(observation)
    return observation.step if trend is None else trend.best_step


def _first_nonfinite_step(observation: Observation) -> int | None:
    """Where the newest losses that are not finite begin; None if the newest is finite."""
    view, count = series(observation, LOSS_NAMES), _nonfinite(observation)
    return view.steps[-count] if view is not None and count else None


def functions_of(observation: Observation) -> dict[str, Callable[..., Any]]:
    """The functions of `DOCUMENTED_FUNCTIONS` for one observation."""
    own = by_agents(observation)

    def changed(kind: str) -> int:
        return sum(c.proposal.command.kind == kind and c.state in ALLOWED_THROUGH for c in own)

    def fired(*rules: str) -> int:
        marks = tuple(map(mark, rules))
        return sum(c.proposal.rationale.startswith(marks) and c.state in ALLOWED_THROUGH for c in own)

    def steps_since(rule: str) -> float:
        steps = [_step_here(c, observation) for c in own if c.proposal.rationale.startswith(mark(rule))]
        return observation.step - max(steps) if steps else math.inf

    def step_of(*rules: str) -> float:
        newest = newest_of(observation, *rules)
        step = None if newest is None else newest.proposal.based_on_step
        return NAN if step is None else step

    def helped(rule: str) -> float:
        effect = newest_effect(observation, rule)
        return NAN if effect is None else effect.helped

    def measured(rule: str) -> float:
        effect = newest_effect(observation, rule)
        return NAN if effect is None else float(effect.is_measured or effect.helped != 0)

    return {
        "changed": changed,
        "fired": fired,
        "steps_since": steps_since,
        "step_of": step_of,
        "helped": helped,
        "measured": measured,
        "lr_before": lambda *rules: lr_before(observation, *rules),
        "knob": lambda name: _effective(observation, name),
        **PLAIN_FUNCTIONS,
    }


def _step_here(record: CommandRecord, observation: Observation) -> int:
    """The step of a command; of one that a return has left behind, the step that the run went back to."""
    step = asked_at_step(record)
    branch = observation.branch if record.ack is None else record.ack.branch
    if step <= observation.step and observation.lineage.has(branch, step):
        return step
    left = [segment.last_step for segment in observation.lineage.segments if segment.last_step is not None]
    return min(step, max(left, default=observation.step), observation.step)


def _clamp(value: float, low: float, high: float) -> float:
    return median((low, value, high))


PLAIN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "round": round,
    "clamp": _clamp,
    "is_finite": math.isfinite,
}
