"""A scripted expert: it follows the playbook of the system prompt, and knows nothing but what the observation says.

It measures the prompt, not a model: where it cannot decide, a model could not either. Give it to a `ScriptedEndpoint`
as its script, or let the benchmark's contender `expert` take part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agenttune.testing.chat_request import ChatRequest
from agenttune.testing.steps import Step, calls, says

NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|NaN)"
LEARNT = 0.05
"""A fall of the loss, as a part of the first: before it nothing was learnt that would be lost by beginning again."""
CUT_ONCE, CUT = 0.3, 0.1
"""Factors of the rate after a blow-up: the first time where something was learnt, and else."""
BREAKING_UPDATE, BREAKING_WITH_EPS, FAIR_UPDATE = 0.6, 0.4, 0.1
"""A part of the weights that a step changes at a rate that breaks them, at one that does with Adam's kin, and at one
that does not."""
FIRST_STEPS = 20
"""Steps from a start or a change that are cheap to make again."""
MOST_RETURNS, MOST_RAISES = 4, 3
FAR_BEHIND = 0.5
"""An evaluation that is worse than the best by such a part of it: something broke."""
BEHIND, WORSE_EVALUATIONS, WORSE_WITHOUT_EPOCHS, BEHIND_SECOND = 0.05, 3, 5, 0.02
"""So many evaluations in a row after the best (the second number where nobody tells of epochs), the newest two behind
it by such a part, the newest also behind the second best: overfitting."""
OTHER_DATA = 0.05
"""A rise of the training loss since the best evaluation, as a part of what it had fallen by then: other data came."""
BEHIND_SECOND_FAR = 0.2
"""The same where only evaluations say that something broke."""
BETTER_THAN_START = 0.1
"""A part of the first loss by which the best evaluation is lower, if it is to be a measure."""
TINY_UPDATE, SMALL_UPDATE, GOOD_UPDATE = 0.0005, 0.012, 0.02
"""A part of the weights that a step changes: from which nothing is learnt from scratch, of a rate that may be too low,
and what a raise aims at."""
STRAIGHT, STRAIGHT_PART = 0.6, 0.095
"""Above that the weights' way goes straight on, over such a part of the run."""
TRIED_UPDATE, TRIED_PART, TRIED_FACTOR, TRIED_UNTIL = 0.02, 0.06, 5.0, 0.4
"""Smaller steps than the first, straight on over the second part of the run, are tried against a higher rate by such a
factor, before such a part of the run is done."""
TRIAL_PART, FURTHER, MOST_TRIALS = 0.025, 0.5, 2
"""Length of a trial, as a part of the run; by which part further it has to come; and how many are made."""
STARTED, SMALL_FALL = 0.5, 0.1
"""Parts of the first loss: a fall after which a raise is not worth its danger, and one that is next to nothing."""
BY_HEART = (25, 1000)
"""More epochs than the first and more weights a sample than the second: data that it will know by heart."""
EARLY, MIDDLE, LATE = 0.3, 0.5, 0.9
"""Parts of a run: until the first one may begin anew, until the second a raise pays, until the third a cut."""
COLLAPSED_PERCENT, PLAN_FROM, PLAN_LEFT = 5.0, 0.03, 0.3
"""A schedule is over too early at a mean rate below so many percent of the base, with such a part of the run left."""
LARGE_UPDATE, SETTLED_UPDATE, STAYS_PERCENT = 0.25, 0.05, 95.0
"""A part of the weights that the first steps change at the upper end of what training bears; what a cut aims at where
nothing comes of it any more; and of a rate that is planned to stay, the mean of the rest in percent of the base."""
FORGOTTEN = 0.35
"""A part of the usual update, below which Adam still remembers a burst of huge gradients."""
SETTLE_STEPS = 30
"""After a change, before it is judged."""


@dataclass(frozen=True)
class KeptState:
    """A state to go back to."""

    name: str
    kept_as: str
    step: int


@dataclass
class Reading:
    """What an observation says, as far as the playbook needs it; NaN where it does not.

    Attributes:
        evaluations: Step, goal and training loss beside it.
        jump_step: Of the last step before a jump that stays; 0 without one.
        findings: Kind, severity, age in steps and the sentence.
        tried: Step, kind and the rest of the line.
    """

    step: int = 0
    max_steps: int = 0
    epochs: float = math.nan
    epochs_done: float = math.nan
    weights_a_sample: float = math.nan
    level: float = math.nan
    first: float = math.nan
    lowest: float = math.nan
    lowest_step: int = 0
    noise: float = math.nan
    not_finite: bool = False
    jump_step: int = 0
    chance: float = math.nan
    trained_before: bool = False
    grad: float = math.nan
    grad_first: float = math.nan
    lr: float = math.nan
    base: float = math.nan
    left_percent: float = math.nan
    straightness: float = math.nan
    straight_steps: int = 0
    update_ratio: float = math.nan
    early_ratio: float = math.nan
    usual_ratio: float = math.nan
    weight_decay: float = math.nan
    eps: float = math.nan
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)
    evaluation_noise: float = 0.0
    maximize: bool = False
    goal_is_loss: bool = False
    states: list[KeptState] = field(default_factory=list)
    findings: list[tuple[str, str, int, str]] = field(default_factory=list)
    tried: list[tuple[int, str, str]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    can: frozenset[str] = frozenset()

    @classmethod
    def of(cls, request: ChatRequest) -> Reading:
        """The observation of a decision's first call."""
        system, text = (str(message.get("content") or "") for message in request.messages[:2])
        sections = {part.split("\n")[0]: part for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]}

        def section(name: str) -> str:
            return next((part for head, part in sections.items() if head.startswith(name)), "")

        found = cls(can=frozenset(request.tools), maximize="Goal: maximize" in system)
        found.goal_is_loss = re.search(r"Goal: minimize (?:<data>)?\w*loss\b", system) is not None
        found._read_run(section("Run"))
        found._read_curves(section("Training"))
        found._read_values(section("Values"), section("Weights"))
        found._read_evaluations(section("Evaluations"))
        found._read_states(section("States"))
        found.findings = [
            (kind, severity, 0 if age == "now" else int(age.split()[0]), told)
            for severity, kind, age, told in re.findall(
                r"^(info|warning|critical) (\w+), (now|\d+ steps ago): (.*)$", section("Findings"), re.MULTILINE
            )
        ]
        found.tried = [
            (int(step), kind, rest)
            for step, kind, rest in re.findall(
                r"^step (\d+): <data>(\w+)\((.*)", section("What was tried"), re.MULTILINE
            )
        ]
        told = re.search(r"^applied in all: (.*), of", section("What was tried"), re.MULTILINE)
        found.counted = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", told[1] if told else "")}
        return found

    def _read_run(self, text: str) -> None:
        if place := re.search(r"step (\d+)(?: of (\d+))?", text):
            self.step, self.max_steps = int(place[1]), int(place[2] or 0)
        planned, length = _number(text, rf"({NUMBER}) epochs planned"), _number(text, rf"({NUMBER}) steps an epoch")
        self.epochs = self.max_steps / length if math.isnan(planned) and length > 0 else planned
        self.epochs_done = self.step / length if length > 0 else math.nan
        if weights := re.search(rf"({NUMBER})(?: ([kMB]))? weights, ", text):
            scale = {"k": 1e3, "M": 1e6, "B": 1e9}.get(weights[2], 1.0)
            self.weights_a_sample = float(weights[1]) * scale / _number(text, rf"({NUMBER}) training samples")
        self.chance = _number(text, rf"chance level of the loss: ({NUMBER})")
        self.trained_before = "the run began with weights that had learnt before" in text

    def _read_curves(self, text: str) -> None:
        loss = re.search(r"^(step_loss|loss): (.*)$", text, re.MULTILINE)
        told = loss[2] if loss else ""
        self.level = _number(told, rf"now ({NUMBER})")
        self.noise = _number(told, rf"noise ({NUMBER})")
        self.first = _number(told, rf"first ({NUMBER})")
        if low := re.search(rf"lowest level ({NUMBER}) at step (\d+)", told):
            self.lowest, self.lowest_step = float(low[1]), int(low[2])
        self.not_finite = "NOT FINITE" in told or "not finite" in told
        jumps = re.findall(r"jumped at (\d+) -> \d+:.* in one step, stays", text)
        self.jump_step = int(jumps[-1]) if jumps else 0
        norm = re.search(r"^(step_grad_norm|grad_norm): (.*)$", text, re.MULTILINE)
        if norm:
            self.grad, self.grad_first = _number(norm[2], rf"now ({NUMBER})"), _number(norm[2], rf"first ({NUMBER})")

    def _read_values(self, text: str, weights: str) -> None:
        self.lr = _number(text, rf"optimizer: lr \[?({NUMBER})")
        base = re.search(rf"optimizer: lr [^;]*\(base ({NUMBER})\)", text)
        self.base = float(base[1]) if base else self.lr
        self.weight_decay = _number(text, rf"weight_decay \[?({NUMBER})")
        self.eps = _number(text, rf"\beps \[?({NUMBER})")
        self.left_percent = _number(text, rf"the mean of the rest is ({NUMBER}) %")
        if way := re.search(rf"straightness of their way ({NUMBER}) over (\d+) steps", weights):
            self.straightness, self.straight_steps = float(way[1]), int(way[2])
        self.update_ratio = _number(weights, rf"a step changes ({NUMBER}) of the weights")
        at_first = _number(weights, rf"of the weights \([^)]*at first ({NUMBER})")
        self.early_ratio = at_first if math.isfinite(at_first) else self.update_ratio
        self.usual_ratio = _number(weights, rf"of the weights \([^)]*usually ({NUMBER})")

    def _read_evaluations(self, text: str) -> None:
        has_train = "training loss there" in text
        noise = _number(text, rf"noise of one about ({NUMBER})")
        self.evaluation_noise = noise if math.isfinite(noise) else 0.0
        for step, rest in re.findall(r"^(\d+): (.*)$", text, re.MULTILINE):
            values = [_float(value) for value in re.sub(r"\(.*\)", "", rest).split(",")]
            self.evaluations.append((int(step), values[0], values[-1] if has_train else math.nan))

    def _read_states(self, text: str) -> None:
        for name, rest in re.findall(r"^<data>([^,<]+)[^<]*</data>:(.*)$", text, re.MULTILINE):
            kept, step = re.search(r"\b(start|best|good),", rest), re.search(r"step (\d+)", rest)
            if step:
                self.states.append(KeptState(name, kept[1] if kept else "", int(step[1])))

    @property
    def progress(self) -> float:
        return self.step / self.max_steps if self.max_steps else 0.0

    def times(self, kind: str) -> int:
        """How often a command was applied."""
        if kind in self.counted:
            return self.counted[kind]
        return sum(done == kind and "-> applied" in rest for _, done, rest in self.tried)

    def asked(self, kind: str) -> int:
        """How often a command was asked for, whatever came of it."""
        return max(self.times(kind), sum(done == kind for _, done, _ in self.tried))

    @property
    def is_by_heart(self) -> bool:
        """Whether a large model goes over little data so often that a higher rate only knows it by heart sooner."""
        return self.epochs > BY_HEART[0] and self.weights_a_sample > BY_HEART[1]

    def went_back_to(self, state: KeptState) -> bool:
        """Whether the run went back to a state already."""
        return any(f"checkpoint_id={state.name}" in rest for _, _, rest in self.tried)

    @property
    def began_anew(self) -> bool:
        """Whether the run was begun anew, with a rate that its first steps asked for."""
        return any(state.kept_as == "start" and self.went_back_to(state) for state in self.states)

    @property
    def changed_step(self) -> int:
        """Step of the newest change, -1 without one."""
        changes = {"update_optimizer", "update_schedule", "load_checkpoint", "probe", "update_training"}
        return max((step for step, kind, rest in self.tried if kind in changes and "-> applied" in rest), default=-1)

    def found(self, kind: str, *severities: str) -> bool:
        """Whether something was found since the newest change."""
        age = self.step - max(0, self.changed_step)
        return any(k == kind and s in (severities or (s,)) and a <= age for k, s, a, _ in self.findings)

    @property
    def has_learnt(self) -> bool:
        """The loss was clearly below its first value."""
        return self.lowest < self.first - LEARNT * abs(self.first)


def _or_0(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    return _float(found[1]) if found else math.nan


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class PlaybookExpert:
    """The script of an endpoint: from each request to its step, by the playbook.

    Attributes:
        undecided: Observations about which it could not decide although something was found, for whoever improves them.
    """

    def __init__(self) -> None:
        self.undecided: list[str] = []

    def __call__(self, request: ChatRequest) -> Step:
        if len(request.messages) > 2:  # a decision goes on: an error, or an answer; it has said what it wanted
            return says("then not")
        seen = Reading.of(request)
        decided = next(self._cures(seen), None)
        if decided is not None:
            return calls(*decided)
        if any(severity != "info" and age == 0 for _, severity, age, _ in seen.findings):
            self.undecided.append(request.last_text)
        return says("nothing to cure")

    def _cures(self, seen: Reading) -> Iterator[Uses]:
        """The cures of the playbook that the figures ask for, the gravest first."""
        if "change" not in seen.can:
            return
        if seen.times("load_checkpoint") < MOST_RETURNS:
            yield from _begin_lower(seen)
            yield from _broken_layer(seen)
            yield from _blown_up(seen)
            yield from _far_behind(seen)
            yield from _burst(seen)
            yield from _overfitting(seen)
        if seen.changed_step < 0 or seen.step - seen.changed_step >= SETTLE_STEPS:
            yield from _noise_of_the_rate(seen)
            yield from _collapsed(seen)
            yield from _too_low(seen)


Uses = list[tuple[str, dict[str, Any]]]


def _begin_lower(seen: Reading) -> Iterator[Uses]:
    """Steps that break the weights, and little lost by it: from the start, with an update of a tenth."""
    largest = max(_or_0(seen.early_ratio), _or_0(seen.update_ratio))
    breaking = BREAKING_WITH_EPS if math.isfinite(seen.eps) else BREAKING_UPDATE
    start = [s for s in seen.states if s.kept_as == "start"]
    is_cheap = seen.step - max(0, seen.changed_step) <= FIRST_STEPS or not seen.has_learnt
    if start and largest > breaking and is_cheap and seen.progress < EARLY:
        factor = min(max(FAIR_UPDATE / largest, 0.01), CUT_ONCE)
        why = f"a step changes {largest:.2g} of the weights and nothing was learnt: from the start with less"
        yield [("change", _back(start[-1], why, lr_factor=factor))]


def _broken_layer(seen: Reading) -> Iterator[Uses]:
    """One layer broke in a step and the loss with it: once to before that, at the same rate: it may not come again."""
    before = [s for s in seen.states if s.step < seen.jump_step]
    if seen.found("layer_fault") and before and not seen.times("load_checkpoint"):
        why = f"a layer broke, and the loss jumped after step {seen.jump_step} and stays"
        yield [("change", _back(max(before, key=lambda s: s.step), why))]


def _blown_up(seen: Reading) -> Iterator[Uses]:
    """Not finite, or risen and stays: to before that, with a lower rate."""
    not_finite = seen.not_finite or seen.found("non_finite", "critical")
    hump = not seen.has_learnt and not seen.early_ratio > BREAKING_UPDATE / 2
    if not (not_finite or (seen.found("divergence", "critical") and not hump)):
        return
    why = f"the loss went from {seen.lowest:.3g} at step {seen.lowest_step} to {seen.level:.3g}"
    is_first = not any(kind == "load_checkpoint" and "lr=" in rest for _, kind, rest in seen.tried)
    factor = CUT_ONCE if is_first and (seen.has_learnt or not_finite) else CUT
    start = [s for s in seen.states if s.kept_as == "start"]
    trouble = seen.jump_step or seen.lowest_step + 1
    before = [s for s in seen.states if s.step < trouble] if seen.has_learnt else start
    if not_finite:  # a state that led to it again holds what leads to it
        before = [s for s in before if not seen.went_back_to(s)]
    if before or start:
        yield [("change", _back(max(before or start, key=lambda s: s.step), why, lr_factor=factor))]
    elif seen.changed_step < 0 or seen.step - seen.changed_step >= SETTLE_STEPS:
        yield [("change", {"lr_factor": CUT, "reason": f"{why}; there is no state of before"})]


def _far_behind(seen: Reading) -> Iterator[Uses]:
    """An evaluation far worse than the best, and training agrees or a second one does: to the best one's state."""
    best, behind = _best_state(seen), _behind(seen)
    if best is None or not behind or behind[-1] <= max(FAR_BEHIND, 3 * _noise(seen)) or _is_no_measure(seen):
        return
    risen = seen.level > seen.lowest + 0.5 * (seen.first - seen.lowest) or seen.jump_step > best.step
    again = len(behind) > 1 and behind[-2] > FAR_BEHIND / 2 and behind[-1] > 0.9 * behind[-2]
    again = again and _behind_second(seen) > BEHIND_SECOND_FAR and seen.evaluation_noise > 0
    if risen or again:
        why = f"the newest evaluation is {behind[-1]:.0%} worse than the best"
        yield [("change", _back(best, why, lr_factor=CUT))]


def _burst(seen: Reading) -> Iterator[Uses]:
    """A burst of huge gradients passed, and Adam's steps are tiny since: on from the newest state, memory cleared."""
    burst = min((a for k, _, a, _ in seen.findings if k in {"gradient_explosion", "bad_batch"}), default=None)
    if burst is None or not seen.update_ratio < FORGOTTEN * seen.usual_ratio:
        return
    newest = max(seen.states, key=lambda s: s.step, default=None)
    if newest is not None and newest.step >= seen.step - burst and seen.times("load_checkpoint") < 2:
        why = f"since a burst a step changes {seen.update_ratio:.2g} of the weights, usually {seen.usual_ratio:.2g}"
        yield [("change", _back(newest, why))]


def _overfitting(seen: Reading) -> Iterator[Uses]:
    """Evaluations get worse and do not come back: the best state, with a lower rate and more decay."""
    best, behind = _best_state(seen), _behind(seen)
    enough = WORSE_EVALUATIONS if seen.epochs_done >= 1 else WORSE_WITHOUT_EPOCHS
    if best is None or not seen.has_learnt or _since_best(seen) < enough or _is_no_measure(seen):
        return
    if seen.epochs_done < 1 or _has_risen(seen) or _behind_second(seen) <= BEHIND_SECOND:
        return
    if min(behind[-1], 2 * behind[-2]) > max(BEHIND, 3 * _noise(seen)) and behind[-1] > 0.9 * behind[-2]:
        why = f"{_since_best(seen)} evaluations since the best are worse, the newest by {behind[-1]:.0%}"
        decay = {"weight_decay": max(10 * seen.weight_decay, 0.1)} if seen.weight_decay >= 0 else {}
        yield [("change", {"go_back_to": best.name, "lr_factor": CUT, **decay, "reason": why})]


def _noise_of_the_rate(seen: Reading) -> Iterator[Uses]:
    """At a standstill after large first steps, at a rate that is planned to stay: what is left is its noise."""
    stands_still = seen.found("goal_plateau") or seen.found("plateau")
    large = SETTLED_UPDATE if seen.began_anew else LARGE_UPDATE
    is_large = math.isfinite(seen.eps) and seen.early_ratio > large
    is_middle = EARLY <= seen.progress < LATE
    if stands_still and is_large and is_middle and seen.left_percent > STAYS_PERCENT and seen.has_learnt:
        factor = min(max(SETTLED_UPDATE / seen.early_ratio, CUT), CUT_ONCE)
        why = f"at a standstill at a rate whose first steps changed {seen.early_ratio:.2g} of the weights"
        yield [("change", {"lr_factor": factor, "reason": why})]


def _collapsed(seen: Reading) -> Iterator[Uses]:
    """A rate near nothing with much of the run left: a new plan from a rate that worked."""
    told = next((text for kind, _, _, text in reversed(seen.findings) if kind == "collapsed_schedule"), "")
    over = seen.left_percent < COLLAPSED_PERCENT and PLAN_FROM < seen.progress < 1 - PLAN_LEFT
    if (over or told) and not seen.times("update_schedule"):
        was = _number(told, rf"rate from ({NUMBER}) to")
        peak = was if math.isfinite(was) else seen.base
        why = f"the rate {seen.lr:.3g} is nearly nothing with {1 - seen.progress:.0%} of the run left"
        yield [("change", {"lr": peak, "schedule": {"shape": "cosine"}, "reason": why})]


def _too_low(seen: Reading) -> Iterator[Uses]:
    """Steps too small to learn by, or straight on with hardly any progress: a step that changes more."""
    ratio, left = seen.early_ratio, seen.level / seen.first if seen.first > 0 else math.nan
    trained = seen.trained_before or seen.first < 0.7 * seen.chance
    may = seen.progress < MIDDLE and seen.times("update_optimizer") < MOST_RAISES and not seen.times("load_checkpoint")
    if not may or trained or not ratio > 0:
        return
    tiny = ratio < TINY_UPDATE and left > STARTED
    straight = seen.straightness > STRAIGHT and seen.straight_steps >= STRAIGHT_PART * seen.max_steps
    slow = straight and ratio < SMALL_UPDATE and left > 1 - SMALL_FALL
    is_adam = math.isfinite(seen.eps)  # or of its kin; other steps go on growing with the gradients after a raise
    first = is_adam or not seen.times("update_optimizer")
    told = seen.found("low_rate") and ratio < (4 * SMALL_UPDATE if first else SMALL_UPDATE)
    if tiny or slow or told:
        factor = min(max(GOOD_UPDATE / ratio, 3.0), 10.0)
        way = f"straightness {seen.straightness:.2f}, {left:.0%} of the loss left"
        why = f"a step changes {ratio:.2g} of the weights, {way}"
        yield [("change", {"lr_factor": factor, "reason": why})]
    went = seen.straightness > STRAIGHT and seen.straight_steps >= max(12, TRIED_PART * seen.max_steps)
    falls = ratio < TRIED_UPDATE and seen.progress < TRIED_UNTIL and not seen.is_by_heart
    if is_adam and went and falls and "trial" in seen.can and seen.asked("probe") < MOST_TRIALS:
        steps = round(min(max(TRIAL_PART * seen.max_steps, 6), 200))
        why = f"a step changes {ratio:.2g} of the weights, straightness {seen.straightness:.2f}, though the loss falls"
        arms = [{"lr_factor": TRIED_FACTOR}]
        yield [("trial", {"arms": arms, "steps": steps, "min_progress_frac": FURTHER, "reason": why})]


def _back(state: KeptState, why: str, **more: Any) -> dict[str, Any]:
    return {"go_back_to": state.name, "reset_optimizer": True, **more, "reason": why}


def _best_state(seen: Reading) -> KeptState | None:
    return next((s for s in reversed(seen.states) if s.kept_as == "best"), None)


def _behind(seen: Reading) -> list[float]:
    """By which part of its size each evaluation after the best one is worse; not finite ones are far worse."""
    costs = [-value if seen.maximize else value for _, value, _ in seen.evaluations]
    finite = [cost for cost in costs if math.isfinite(cost)]
    if not finite:
        return []
    best = min(finite)
    since = costs[costs.index(best) + 1 :]
    return [(cost - best) / (abs(best) or 1.0) if math.isfinite(cost) else math.inf for cost in since]


def _since_best(seen: Reading) -> int:
    """Evaluations since the best one, also those that are not shown, by the distance of the newest two."""
    shown = len(_behind(seen))
    if shown < 2:
        return shown
    (before, _, _), (last, _, _) = seen.evaluations[-2:]
    best = seen.evaluations[-shown - 1][0]
    return max(shown, round((last - best) / max(1, last - before)))


def _behind_second(seen: Reading) -> float:
    """By which part of the best's size the newest is worse than the second best: a lucky best stands alone."""
    costs = [-value if seen.maximize else value for _, value, _ in seen.evaluations]
    finite = sorted(cost for cost in costs if math.isfinite(cost))
    if len(finite) < 2:
        return 0.0
    return (costs[-1] - finite[1]) / (abs(finite[0]) or 1.0) if math.isfinite(costs[-1]) else math.inf


def _has_risen(seen: Reading) -> bool:
    """Whether the training loss is higher than beside the best evaluation: other data came."""
    finite = [
        (-value if seen.maximize else value, train) for _, value, train in seen.evaluations if math.isfinite(value)
    ]
    then = min(finite)[1] if finite else math.nan
    return seen.level - then > OTHER_DATA * (seen.first - then) > 0


def _is_no_measure(seen: Reading) -> bool:
    """Whether even the best evaluation is hardly better than the beginning: training may have begun with easy data."""
    best = min((value for _, value, _ in seen.evaluations if math.isfinite(value)), default=math.nan)
    fresh = seen.goal_is_loss and not seen.trained_before
    return fresh and seen.first - best < BETTER_THAN_START * abs(seen.first)


def _noise(seen: Reading) -> float:
    """Of one evaluation, as a part of the best."""
    finite = [abs(value) for _, value, _ in seen.evaluations if math.isfinite(value)]
    return seen.evaluation_noise / min(finite) if finite and min(finite) > 0 else 0.0
