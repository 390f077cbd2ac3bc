"""A noisy quadratic: the smallest training whose best rate and best schedule are known by computation.

The model of Zhang et al. 2019 (arXiv 1907.04164): the loss is a quadratic whose minimum differs from batch to batch, so
that steps too long amplify the noise of steep directions, steps too short never get along the flat ones, and beyond 2
divided by the largest curvature training diverges. Why a rate has to fall in the end, and why a short look favours
falling too early (Wu et al. 2018, arXiv 1803.02021), can both be read off it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.bench.tasks.loop_training import LoopModel, LoopTask
from agenttune.bench.tasks.optimizers import make_optimizer
from agenttune.bench.tasks.sim_disturbances import Disturbances
from agenttune.bench.tasks.sim_optimizer import SimOptimizer
from agenttune.bench.training import Recipe, Split, Training

Vector = np.ndarray[Any, np.dtype[np.float64]]

DIMENSIONS = {"development": 48, "test": 64}
EXPONENTS = {"development": (1.0, 1.1), "test": (1.11, 1.18)}
"""Of the spectrum: curvatures fall with this power of their rank."""
STEEPEST = {"development": (1.9, 2.3), "test": (2.31, 2.8)}
"""Such that rates and norms of gradients are about those of a network under plain gradient descent."""
START_EXCESS, FLOOR = 2.1, 0.2
"""Loss at the start and at the minimum, in nats: those of a ten-class classifier (guess)."""
SHARPENING = 0.15
"""By so much curvatures have grown in the end, as those of networks do (Cohen et al. 2021, arXiv 2103.00065)."""
EARLY_SHARPNESS, EARLY_STEPS = 0.8, 20.0
"""And by so much they are larger at the very start, for about so many steps: what a warm-up is for (guess)."""
EVALUATED = 16
"""A run's own evaluations are on rows of so many batches, and as much off (guess)."""
FEW_FACTOR, FEW_REST = 2.5, 0.3
"""Of a few batches that come again and again: what they share, and what is left of their noise (guess)."""


@dataclass(frozen=True)
class Law:
    """One seed's quadratic.

    Attributes:
        curvatures: [n_dims], falling.
        start: [n_dims], the first weights; the minimum is at 0.
        spread: Standard deviation of a batch's own minimum, in each direction.
        other: [n_dims], where the minimum of other data lies, as far off as the start.
        shown: [n_dims], where the minimum of those rows lies that a run's own evaluations are on.
    """

    curvatures: Vector
    start: Vector
    spread: float
    other: Vector
    shown: Vector

    @classmethod
    def of(cls, seed: int, split: Split) -> Law:
        """The same for the same arguments."""
        source = np.random.default_rng([seed, 0])
        steepest = math.exp(source.uniform(*np.log(STEEPEST[split])))
        ranks = np.arange(1, DIMENSIONS[split] + 1)
        curvatures = (steepest * ranks ** -source.uniform(*EXPONENTS[split])).astype(np.float64)
        start, other = source.normal(size=(2, len(ranks)))
        start *= math.sqrt(2 * START_EXCESS / (curvatures @ start**2))
        other *= math.sqrt(2 * START_EXCESS / (curvatures @ other**2))
        spread = math.sqrt(2 * FLOOR / curvatures.sum())
        shown = spread / math.sqrt(EVALUATED) * np.random.default_rng([seed, 2]).normal(size=len(ranks))
        return cls(curvatures, start, spread, other, shown)

    @property
    def largest_lr(self) -> float:
        """Beyond it training diverges, where curvatures are as they are given."""
        return 2 / float(self.curvatures.max())

    def sharpening(self, steps: int) -> Vector:
        """[n_steps], the factor on curvatures at each step."""
        early: Vector = EARLY_SHARPNESS * np.exp(-np.arange(steps) / EARLY_STEPS)
        return 1 + SHARPENING * np.linspace(0, 1, steps) + early

    def noise(self, source: np.random.Generator, steps: int, disturbances: Disturbances) -> Vector:
        """[n_steps, n_dims]: the minimum of each batch, as a fault of the data leaves it."""
        noise: Vector = self.spread * source.normal(size=(steps, len(self.start)))
        few, at = disturbances.few, disturbances.few_place
        if few and at < steps:
            # The few are alike in what they have beside the usual, so that it can be learnt by heart.
            often = FEW_FACTOR * noise[at] + FEW_REST * noise[at : at + few]
            noise[at:] = often[np.arange(steps - at) % len(often)]
        added = disturbances.added * (START_EXCESS + FLOOR)
        noise *= np.sqrt((FLOOR + added) / FLOOR)[:, None]
        noise[disturbances.shift_place :] += disturbances.shift * self.other
        return noise

    def evaluate(self, weights: Vector) -> float:
        """The expected loss, as if on all rows that there could be."""
        return float(0.5 * (self.curvatures @ (weights * weights))) + FLOOR

    def evaluate_shown(self, weights: Vector) -> float:
        """The loss on the rows of a run's own evaluations."""
        off = weights - self.shown
        return float(0.5 * (self.curvatures @ (off * off))) + FLOOR * (1 - 1 / EVALUATED)


class Quadratic(LoopModel):
    """A training on a quadratic, by stochastic gradient descent or any optimizer of torch's kind."""

    def __init__(self, training: Training, law: Law) -> None:
        super().__init__()
        recipe = training.recipe
        steps = max(recipe.steps, training.budget)
        self.law = law
        # Another order of the data is another noise.
        source = np.random.default_rng([training.seed, 1, int(training.jitter)])
        disturbances = Disturbances.of(training.fault, steps)
        self._noise = law.noise(source, steps, disturbances)
        self._curvatures = law.sharpening(steps)[:, None] * law.curvatures
        self._weights: Vector = law.start.copy()
        self._gradient = np.zeros_like(law.start)
        self._gradient_tensor = torch.from_numpy(self._gradient)
        self.add_weights(torch.from_numpy(self._weights))
        self.optimizer = self.make_optimizer(recipe)

    def add_weights(self, flat: torch.Tensor) -> None:
        """Make parameters of the weights.

        Args:
            flat: [n_dims], all of them; parameters share its memory.
        """
        self.weights = nn.Parameter(flat)
        self.weights.grad = self._gradient_tensor

    def make_optimizer(self, recipe: Recipe) -> Optimizer:
        """The recipe's; plain gradient descent, which is quicker than torch's, for `sgd`."""
        if recipe.optimizer == "sgd":
            return SimOptimizer([self.weights], recipe.lr, self._move, recipe.weight_decay)
        return make_optimizer(recipe, [self.weights])

    def train_on(self, batch: int) -> float:
        place = batch % len(self._noise)
        off = self._weights - self._noise[place]
        np.multiply(self._curvatures[place], off, out=self._gradient)
        self.show_gradient()
        # As any curvature of this place would have it: that it is larger at the very start is no loss that falls.
        return 0.5 * float((self.law.curvatures * off) @ off)

    def show_gradient(self) -> None:
        """Put it where optimizers look for it: whoever restores weights clears it."""
        if self.weights.grad is None:
            self.weights.grad = self._gradient_tensor

    def clip(self) -> float:
        norm = math.sqrt(float(self._gradient @ self._gradient))
        if 0 < self.max_grad_norm < norm:
            gradient = self._gradient
            gradient *= self.max_grad_norm / norm
        return norm

    def _move(self, lr: float, weight_decay: float) -> None:
        weights = self._weights  # torch looks closely at each attribute that a module is given, also by `-=`
        if weight_decay:
            weights *= 1 - lr * weight_decay
        weights -= lr * self._gradient

    def evaluate(self) -> float:
        return self.law.evaluate_shown(self._weights)

    def final_value(self) -> float:
        return self.law.evaluate(self._weights)


class SimQuadratic(LoopTask):
    """The quadratic of a seed."""

    def model(self, training: Training) -> Quadratic:
        return Quadratic(training, Law.of(training.seed, training.split))
