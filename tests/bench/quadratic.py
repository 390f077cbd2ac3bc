"""A training that takes microseconds: a noisy quadratic under gradient descent with momentum, told honestly."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.shipped import contender_class
from agenttune.bench.tasks.optimizers import Shape
from agenttune.bench.training import EvalPoint, Live, Recipe, Task, Trained, Training

CURVATURES = (0.02, 0.3, 1.0)
MOMENTUM, NOISE = 0.5, 0.05
FLOOR = 0.1
"""Loss that stays, as in most of what people train."""
RECIPE = Recipe(lr=0.4, steps=120, eval_every=10)
FACTS = TaskFacts(
    name="quadratic", about="a quadratic", tier=1, implementation="none:None", recipe=RECIPE, target=0.1, chance=3.3
)
UPWARDS = FACTS.model_copy(update={"direction": "maximize"})
"""The same, whose metric is the negative loss."""


class QuadraticLive(Live):
    def __init__(self, training: Training, sign: float) -> None:
        self.recipe, self.step, self.total_steps = training.recipe, 0, 0
        self.sign, self.peak, self.shape = sign, training.recipe.lr, Shape(training.recipe)
        self.weights, self.velocity = [1.0] * len(CURVATURES), [0.0] * len(CURVATURES)
        self.is_stopped = False

    @property
    def lr(self) -> float:
        return self.peak * self.shape(self.step)

    def scale_lr(self, factor: float) -> None:
        self.peak *= factor

    def save(self) -> Any:
        return list(self.weights), list(self.velocity)

    def load(self, saved: Any, clear_optimizer: bool = False) -> None:
        weights, velocity = saved
        self.weights = list(weights)
        self.velocity = [0.0] * len(CURVATURES) if clear_optimizer else list(velocity)

    def loss(self) -> float:
        value = FLOOR + 0.5 * sum(h * w * w for h, w in zip(CURVATURES, self.weights, strict=True))
        return value if value < 1e30 else math.nan

    def take_up(self, step: int, copies: int) -> None:
        assert step <= self.step

    def evaluate(self) -> float:
        return self.sign * self.loss()

    def stop(self) -> None:
        self.is_stopped = True

    def update(self, source: random.Random) -> None:
        gradient = [h * w + source.gauss(0, NOISE) for h, w in zip(CURVATURES, self.weights, strict=True)]
        norm = math.hypot(*gradient)
        if 0 < self.recipe.max_grad_norm < norm:
            gradient = [g * self.recipe.max_grad_norm / norm for g in gradient]
        lr = self.lr
        self.velocity = [MOMENTUM * v + g for v, g in zip(self.velocity, gradient, strict=True)]
        self.weights = [w - lr * v for w, v in zip(self.weights, self.velocity, strict=True)]
        self.step += 1
        self.total_steps += 1


class Quadratic(Task):
    """The task.

    Attributes:
        trainings: That were done.
        shown: Values that the run shows at its evaluations in place of the true ones, as long as there are any.
    """

    def __init__(self, facts: TaskFacts = FACTS, shown: Sequence[float] = ()) -> None:
        self.facts, self.shown = facts, list(shown)
        self.trainings: list[Training] = []

    def train(self, training: Training) -> Trained:
        self.trainings.append(training)
        live = QuadraticLive(training, 1 if self.facts.direction == "minimize" else -1)
        source = random.Random(training.seed)
        evaluations: list[EvalPoint] = []
        lrs: list[float] = []
        for hook in training.hooks:
            hook.started(live)
        while live.step < training.recipe.steps and live.step < training.budget and not live.is_stopped:
            loss = live.loss()
            lrs.append(live.lr)
            live.update(source)
            for hook in training.hooks:
                hook.stepped(live, loss)
            if live.step % training.recipe.eval_every == 0:
                evaluations.append(_point(live))
                value = self.shown.pop(0) if self.shown else live.evaluate()
                for hook in training.hooks:
                    hook.evaluated(live, value)
        for hook in training.hooks:
            hook.ended(live)
        evaluations.append(_point(live))
        return Trained(final=live.evaluate(), evaluations=evaluations, lrs=lrs, total_steps=live.step)


def _point(live: QuadraticLive) -> EvalPoint:
    return EvalPoint(total_steps=live.step, step=live.step, seconds=0.0, value=live.evaluate())


def trial_of(task: Quadratic, fault: str = "healthy", seed: int = 0, **recipe: object) -> Trial:
    """A trial on the quadratic."""
    scenario = Scenario(task="quadratic", fault=fault, recipe=RECIPE.with_changes(**recipe))
    cell = Cell(scenario=scenario, seed=seed, split="development", contender="tested")
    return Trial(cell, task.facts, Path("unused"), Path("unused"), open=lambda _: task)


def play(name: str, trial: Trial, **settings: object) -> Outcome:
    """A contender's turn."""
    cls = contender_class(name)
    return cls(cls.settings.model_validate(settings)).play(trial)
