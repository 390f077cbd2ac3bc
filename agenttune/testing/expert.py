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
CUT, RAISE, RAISE_AGAIN = 0.1, 10.0, 3.0
"""Factors of the rate: for one that was too high, and too low."""
MOST_CUTS, MOST_RAISES = 3, 3
LATE, EARLY = 0.75, 0.03
"""Parts of a run: after the first, little can be won by a new plan; before the second, nothing is known."""
COLLAPSED_PERCENT, PLAN_LEFT = 5.0, 0.3
"""A schedule is over too early at a mean rate below so many percent of the base, with such a part of the run left."""
STRAIGHT, STRAIGHT_STEPS, SMALL_FALL = 0.85, 20, 0.25
"""Above that the weights' way goes straight on, over so many steps; a part of the first loss that is a small fall."""
LARGE_UPDATE = 0.005
"""A part of the weights that a step changes only at a rate that is not too low."""
BREAKING_UPDATE, STUCK_STEPS = 0.05, 20
"""A part of the weights that a step changes at a rate that breaks them; after so many steps without any fall."""
SETTLE_STEPS = 30
"""After a change, before it is judged."""
WORSE_EVALUATIONS = 2
"""Evaluations in a row that are worse than the best, in an overfit."""


@dataclass(frozen=True)
class State:
    """A state to go back to."""

    name: str
    kept_as: str
    step: int


@dataclass
class Reading:
    """What an observation says, as far as the playbook needs it; NaN where it does not.

    Attributes:
        evaluations: Step, goal and training loss beside it.
        findings: Kind, severity and age in steps.
        tried: Step, kind and the rest of the line.
    """

    step: int = 0
    max_steps: int = 0
    level: float = math.nan
    first: float = math.nan
    lowest: float = math.nan
    lowest_step: int = 0
    noise: float = math.nan
    not_finite: bool = False
    jump_stays: bool = False
    chance: float = math.nan
    grad: float = math.nan
    grad_first: float = math.nan
    lr: float = math.nan
    base: float = math.nan
    left_percent: float = math.nan
    straightness: float = math.nan
    straight_steps: int = 0
    update_ratio: float = math.nan
    early_ratio: float = math.nan
    weight_decay: float = math.nan
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)
    evaluation_noise: float = 0.0
    maximize: bool = False
    states: list[State] = field(default_factory=list)
    findings: list[tuple[str, str, int]] = field(default_factory=list)
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
        found._read_run(section("Run"))
        found._read_curves(section("Training"))
        found._read_values(section("Values"), section("Weights"))
        found._read_evaluations(section("Evaluations"))
        found._read_states(section("States"))
        found.findings = [
            (kind, severity, 0 if age == "now" else int(age.split()[0]))
            for severity, kind, age in re.findall(
                r"^(info|warning|critical) (\w+), (now|\d+ steps ago):", section("Findings"), re.MULTILINE
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
        self.chance = _number(text, rf"chance level of the loss: ({NUMBER})")

    def _read_curves(self, text: str) -> None:
        loss = re.search(r"^(step_loss|loss): (.*)$", text, re.MULTILINE)
        told = loss[2] if loss else ""
        self.level = _number(told, rf"now ({NUMBER})")
        self.noise = _number(told, rf"noise ({NUMBER})")
        self.first = _number(told, rf"first ({NUMBER})")
        if low := re.search(rf"lowest level ({NUMBER}) at step (\d+)", told):
            self.lowest, self.lowest_step = float(low[1]), int(low[2])
        self.not_finite = "NOT FINITE" in told or "not finite" in told
        self.jump_stays = "in one step, stays" in text
        norm = re.search(r"^(step_grad_norm|grad_norm): (.*)$", text, re.MULTILINE)
        if norm:
            self.grad, self.grad_first = _number(norm[2], rf"now ({NUMBER})"), _number(norm[2], rf"first ({NUMBER})")

    def _read_values(self, text: str, weights: str) -> None:
        self.lr = _number(text, rf"optimizer: lr \[?({NUMBER})")
        base = re.search(rf"optimizer: lr [^;]*\(base ({NUMBER})\)", text)
        self.base = float(base[1]) if base else self.lr
        self.weight_decay = _number(text, rf"weight_decay \[?({NUMBER})")
        self.left_percent = _number(text, rf"the mean of the rest is ({NUMBER}) %")
        if way := re.search(rf"straightness of their way ({NUMBER}) over (\d+) steps", weights):
            self.straightness, self.straight_steps = float(way[1]), int(way[2])
        self.update_ratio = _number(weights, rf"a step changes ({NUMBER}) of the weights")
        self.early_ratio = _number(weights, rf"of the weights \(at first ({NUMBER})\)")

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
                self.states.append(State(name, kept[1] if kept else "", int(step[1])))

    @property
    def progress(self) -> float:
        return self.step / self.max_steps if self.max_steps else 0.0

    def times(self, kind: str) -> int:
        """How often a command was applied."""
        if kind in self.counted:
            return self.counted[kind]
        return sum(done == kind and "-> applied" in rest for _, done, rest in self.tried)

    @property
    def changed_step(self) -> int:
        """Step of the newest change, -1 without one."""
        changes = {"update_optimizer", "update_schedule", "load_checkpoint", "probe", "update_training"}
        return max((step for step, kind, rest in self.tried if kind in changes and "-> applied" in rest), default=-1)

    def found(self, kind: str, *severities: str) -> bool:
        """Whether something was found since the newest change."""
        age = self.step - max(0, self.changed_step)
        return any(k == kind and s in (severities or (s,)) and a <= age for k, s, a in self.findings)


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
        if any(severity != "info" and age == 0 for _, severity, age in seen.findings):
            self.undecided.append(request.last_text)
        return says("nothing to cure")

    def _cures(self, seen: Reading) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """The cures of the playbook that the figures ask for, the gravest first."""
        if "change" not in seen.can:
            return
        yield from _too_high(seen)
        if seen.step - seen.changed_step < SETTLE_STEPS and seen.changed_step >= 0:
            return
        yield from _overfitting(seen)
        yield from _collapsed(seen)
        yield from _too_low(seen)


Uses = list[tuple[str, dict[str, Any]]]


def _too_high(seen: Reading) -> Iterator[Uses]:
    """Risen and stays, or not finite: back to before, with a tenth of the rate."""
    risen = seen.level > 1.5 * seen.first or seen.found("divergence", "critical", "warning")
    large = max(_or_0(seen.update_ratio), _or_0(seen.early_ratio)) > BREAKING_UPDATE
    stuck = large and seen.level > 0.98 * seen.first and seen.step >= STUCK_STEPS + max(0, seen.changed_step)
    stuck = stuck or seen.found("high_rate", "critical", "warning")
    if not (seen.not_finite or seen.found("non_finite") or risen or stuck):
        return
    if max(seen.times("load_checkpoint"), seen.times("update_optimizer")) >= MOST_CUTS:
        return
    why = f"the loss went from {seen.lowest:.3g} at step {seen.lowest_step} to {seen.level:.3g}"
    start = [s for s in seen.states if s.kept_as == "start"]
    before = start if stuck else [s for s in seen.states if s.step <= seen.lowest_step] or start
    if before:
        back = max(before, key=lambda s: s.step)
        yield [("change", {"go_back_to": back.name, "lr_factor": CUT, "reset_optimizer": True, "reason": why})]
    elif seen.step - seen.changed_step >= SETTLE_STEPS or seen.changed_step < 0:
        yield [("change", {"lr_factor": CUT, "reason": f"{why}; there is no state of before"})]


def _overfitting(seen: Reading) -> Iterator[Uses]:
    """The evaluation rises while the training loss falls: the best state, with more decay and a lower rate."""
    values = [(step, -value if seen.maximize else value, train) for step, value, train in seen.evaluations]
    finite = [entry for entry in values if math.isfinite(entry[1])]
    best = [s for s in seen.states if s.kept_as == "best"]
    if len(finite) <= WORSE_EVALUATIONS or not best:
        return
    lowest = min(finite, key=lambda entry: entry[1])
    since = [entry for entry in finite if entry[0] > lowest[0]]
    least = lowest[1] + max(0.02 * abs(lowest[1]), 2 * seen.evaluation_noise)
    rising = len(since) >= WORSE_EVALUATIONS and all(entry[1] > least for entry in since[-WORSE_EVALUATIONS:])
    falls = seen.found("overfitting") or (since and since[-1][2] < lowest[2])
    if not (rising and falls):
        return
    why = f"the evaluation rose from {lowest[1]:.4g} at step {lowest[0]} to {since[-1][1]:.4g} while training fell"
    decay = {"weight_decay": max(10 * seen.weight_decay, 0.1)} if seen.weight_decay >= 0 else {}
    yield [("change", {"go_back_to": best[-1].name, "lr_factor": CUT, **decay, "reason": why})]


def _collapsed(seen: Reading) -> Iterator[Uses]:
    """A rate near nothing with much of the run left: a new plan from the base."""
    if seen.left_percent < COLLAPSED_PERCENT and EARLY < seen.progress < 1 - PLAN_LEFT:
        left = f"{1 - seen.progress:.0%} of the run left"
        why = f"the rate to come is {seen.left_percent:.2g} % of the base {seen.base:.3g} with {left}"
        yield [("change", {"lr": seen.base, "schedule": {"shape": "cosine"}, "reason": why})]


def _too_low(seen: Reading) -> Iterator[Uses]:
    """Straight on: ten times the rate while hardly anything was reached, three times where something was."""
    is_straight = seen.straightness > STRAIGHT and seen.straight_steps >= STRAIGHT_STEPS
    is_straight = is_straight and not seen.update_ratio > LARGE_UPDATE and not seen.level > 1.01 * seen.first
    slow = seen.first - seen.level < SMALL_FALL * abs(seen.first)
    raises = seen.times("update_optimizer")
    may = seen.progress < LATE and raises < MOST_RAISES and not seen.times("load_checkpoint")
    told = seen.found("slow_start") or seen.found("low_rate", "critical", "warning")
    if may and slow and (is_straight or told):
        why = f"the loss fell only from {seen.first:.3g} to {seen.level:.3g}, straightness {seen.straightness:.2f}"
        yield [("change", {"lr_factor": RAISE, "reason": why})]
    elif may and is_straight and raises:
        why = f"the way is still straight, {seen.straightness:.2f} over {seen.straight_steps} steps"
        yield [("change", {"lr_factor": RAISE_AGAIN, "reason": why})]
