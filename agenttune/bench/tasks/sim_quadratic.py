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

from agenttune.bench.tasks.loop_training import LoopModel, LoopTask
from agenttune.bench.tasks.optimizers import make_optimizer
from agenttune.bench.tasks.sim_disturbances import Disturbances
from agenttune.bench.tasks.sim_optimizer import SimOptimizer
from agenttune.bench.training import Split, Training

Vector = np.ndarray[Any, np.dtype[np.float64]]

DIMENSIONS = {"development": 48, "test": 64}
EXPONENTS = {"development": (1.4, 1.6), "test": (1.61, 1.8)}
"""Of the spectrum: curvatures fall with this power of their rank."""
STEEPEST = {"development": (30.0, 60.0), "test": (61.0, 100.0)}
START_EXCESS, FLOOR = 2.2, 0.1
"""Loss at the start and at the minimum, in nats: those of a ten-class classifier (guess)."""
SHARPENING = 0.3
"""By so much curvatures have grown in the end, as those of networks do (Cohen et al. 2021, arXiv 2103.00065)."""
OVERFIT_PART = 0.75
"""Where evaluation data would have its minimum in flat directions, as a part of the way from minimum to start."""


@dataclass(frozen=True)
class Law:
    """One seed's quadratic.

    Attributes:
        curvatures: [n_dims], falling.
        start: [n_dims], the first weights; the minimum is at 0.
        spread: Standard deviation of a batch's own minimum, in each direction.
        eval_minimum: [n_dims], the minimum of evaluation data; not 0 where training overfits.
    """

    curvatures: Vector
    start: Vector
    spread: float
    eval_minimum: Vector

    @classmethod
    def of(cls, seed: int, split: Split, overfits: bool = False) -> Law:
        """The same for the same arguments."""
        source = np.random.default_rng([seed, 0])
        steepest = math.exp(source.uniform(*np.log(STEEPEST[split])))
        ranks = np.arange(1, DIMENSIONS[split] + 1)
        curvatures = (steepest * ranks ** -source.uniform(*EXPONENTS[split])).astype(np.float64)
        start = source.normal(size=len(ranks))
        start *= math.sqrt(2 * START_EXCESS / (curvatures @ start**2))
        spread = math.sqrt(2 * FLOOR / curvatures.sum())
        eval_minimum = np.where(ranks > len(ranks) // 6, OVERFIT_PART * start, 0.0) if overfits else 0.0 * start
        return cls(curvatures, start, spread, eval_minimum)

    @property
    def largest_lr(self) -> float:
        """Beyond it training diverges, before curvatures have grown."""
        return 2 / float(self.curvatures[0])

    def sharpening(self, steps: int) -> Vector:
        """[n_steps], the factor on curvatures at each step."""
        return 1 + SHARPENING * np.linspace(0, 1, steps)

    def evaluate(self, weights: Vector) -> float:
        """The expected loss on evaluation data."""
        off = weights - self.eval_minimum
        return float(0.5 * (self.curvatures @ (off * off))) + FLOOR


def expected_loss(law: Law, lrs: Vector) -> Vector:
    """The loss in the end that is to be expected, of several schedules at once, in closed form.

    Args:
        law: The quadratic.
        lrs: [n_schedules, n_steps], rates.

    Returns:
        [n_schedules]; infinite where training diverges.
    """
    mean, variance = np.tile(law.start, (len(lrs), 1)), np.zeros((len(lrs), len(law.start)))
    with np.errstate(over="ignore", invalid="ignore"):
        for step, sharp in enumerate(law.sharpening(lrs.shape[1])):
            pull = lrs[:, step, None] * (sharp * law.curvatures)
            mean *= 1 - pull
            variance = variance * (1 - pull) ** 2 + (pull * law.spread) ** 2
        off = mean - law.eval_minimum
        found = 0.5 * (off**2 + variance) @ law.curvatures + FLOOR
    return np.where(np.isfinite(found), found, np.inf)


def best_constant(law: Law, steps: int, points: int = 200) -> tuple[float, float]:
    """The constant rate whose expected loss in the end is lowest, and that loss; by a fine grid, refined once."""
    low, high = law.largest_lr * 1e-3, law.largest_lr
    for _ in range(2):
        rates = np.geomspace(low, high, points)
        found = expected_loss(law, np.tile(rates[:, None], (1, steps)))
        at = int(found.argmin())
        low, high = rates[max(0, at - 1)], rates[min(points - 1, at + 1)]
    return float(rates[at]), float(found[at])


def best_schedule(law: Law, steps: int, knots: int = 12) -> tuple[Vector, float]:
    """The best schedule among those that are straight, in the logarithm of the rate, between evenly spaced knots.

    Returns:
        Its rates, [n_steps], and the expected loss in the end.
    """
    from scipy.optimize import minimize  # of the extra `bench`

    places, at = np.linspace(0, steps - 1, knots), np.arange(steps)

    def rates(logs: Vector) -> Vector:
        found: Vector = np.exp(np.stack([np.interp(at, places, row) for row in np.atleast_2d(logs)]))
        return found

    def loss_and_slope(logs: Vector) -> tuple[float, Vector]:
        nudge = 1e-4
        found = np.log(expected_loss(law, rates(np.vstack([logs, logs + nudge * np.eye(knots)]))))
        return float(found[0]), (found[1:] - found[0]) / nudge

    first = np.full(knots, math.log(best_constant(law, steps)[0]))
    bounds = [(math.log(law.largest_lr * 1e-4), math.log(law.largest_lr * 0.99))] * knots
    found = minimize(loss_and_slope, first, jac=True, bounds=bounds, method="L-BFGS-B")
    return rates(found.x)[0], float(expected_loss(law, rates(found.x))[0])


class Quadratic(LoopModel):
    """A training on a quadratic, by stochastic gradient descent or any optimizer of torch's kind."""

    def __init__(self, training: Training, law: Law) -> None:
        super().__init__()
        recipe = training.recipe
        steps = max(recipe.steps, training.budget)
        # A perturbed network soon sees its data from elsewhere: its noise is another one.
        source = np.random.default_rng([training.seed, 1, int(training.jitter)])
        self.law = law
        self._noise = law.spread * source.normal(size=(steps, len(law.start)))
        self._disturbances = Disturbances.of(training.fault, steps, training.seed)
        self._noise *= self._disturbances.noise[:, None]
        self._curvatures = law.sharpening(steps)[:, None] * law.curvatures
        self.weights = nn.Parameter(torch.from_numpy(law.start.copy()))
        self._weights: Vector = self.weights.detach().numpy()  # the same memory
        self._gradient = np.zeros_like(law.start)
        if recipe.optimizer == "sgd":
            self.optimizer = SimOptimizer([self.weights], recipe.lr, self._move, recipe.weight_decay)
        else:
            self.weights.grad = torch.from_numpy(self._gradient)
            self.optimizer = make_optimizer(recipe, [self.weights])
        self.is_moved_by_torch = recipe.optimizer != "sgd"

    def train_on(self, batch: int) -> float:
        place, disturbances = batch % len(self._noise), self._disturbances
        off = self._weights - self._noise[place]
        if place >= disturbances.shift_place:
            off += disturbances.shift * self.law.start
        gradient = self._curvatures[place] * off
        loss = 0.5 * float(gradient @ off) * float(disturbances.shown[place])
        factor = float(disturbances.kick[place])
        self.grad_norm = math.sqrt(float(gradient @ gradient)) * factor
        if 0 < self.max_grad_norm < self.grad_norm:
            factor *= self.max_grad_norm / self.grad_norm
        np.multiply(gradient, factor, out=self._gradient)
        if self.is_moved_by_torch:
            self.weights.grad = torch.from_numpy(self._gradient)  # a loop may have cleared it
        return loss

    def _move(self, lr: float, weight_decay: float) -> None:
        if weight_decay:
            self._weights *= 1 - lr * weight_decay
        self._weights -= lr * self._gradient

    def evaluate(self) -> float:
        return self.law.evaluate(self._weights)


class SimQuadratic(LoopTask):
    """The quadratic of a seed."""

    def model(self, training: Training) -> Quadratic:
        overfits = training.fault is not None and training.fault.kind == "overfitting"
        return Quadratic(training, Law.of(training.seed, training.split, overfits))
