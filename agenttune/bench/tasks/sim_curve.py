"""A learning curve: what a loss does under a rate, without a network that would do it.

Five numbers stand for the network. Progress, the sum of rates so far, lowers the loss by a power law, with a plateau on
the way in some seeds; heat, the noise that a rate keeps up, lies on top of it and cools when the rate falls (both as in
Tissue et al. 2024, arXiv 2408.11029). Beyond a stability limit, which is low at first and so rewards a warm-up, an
oscillation grows; where it stays large the weights are damaged, which no lower rate mends: only going back does
(measured on real networks, docs of `guardian`). What is memorized lowers the training loss and raises the other.

Beside them there are weights that move as those of a network do (`sim_weights.py`), for whoever judges a rate by that;
the loss does not go by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from agenttune.bench.tasks.loop_training import LoopModel, LoopTask
from agenttune.bench.tasks.sim_disturbances import Disturbances
from agenttune.bench.tasks.sim_optimizer import SimOptimizer
from agenttune.bench.tasks.sim_weights import COUNT, SHAPE, Walk
from agenttune.bench.training import Split, Training
from agenttune.errors import UserError

Vector = np.ndarray[Any, np.dtype[np.float64]]

LR = 1e-3
"""A rate of this makes one unit of progress a step."""
LIMITS = {"development": (6.5, 8.5), "test": (5.5, 6.4)}
"""Largest stable rate, in units of LR."""
CALM, LARGE, HIGHEST = 1e-3, 1.0, 3.0
"""Oscillation: what is always there, from where on it damages, and where it saturates."""
DAMAGE_RATE = 0.05
"""Part of what is whole that a step at an oscillation of 2 damages (guess)."""
WARM_STEPS = 60.0
"""Units of progress in which the stability limit rises to its full height (guess)."""
COLD_PART = 0.2
"""Of the stability limit, at the start."""
COOLING = 0.04
"""Heat follows the rate by this part a step at the rate LR (guess)."""
MEMORIZING_FEW, MEMORIZING_WRONG, FORGETTING = 0.05, 0.006, 0.012
"""Part of what is left that a unit of progress memorizes: of one batch that comes again and again, of labels that are
all wrong, and of data that is all of another kind (guess)."""
SHIFT_STEPS = 40.0
"""In so many steps a training gets used to other data (guess)."""
THROWN = 600.0
"""A gradient so many times too large, at the rate LR, damages most of the weights (guess)."""
EVALUATED, EVALUATED_STEPS = 16, 30.0
"""A run's own evaluations are on rows of so many batches, and as much off; in about so many units of progress that
turns from too good to too bad (guess)."""
ROUNDING = 1e-9
"""Of the length of a gradient."""
SLOW_START = 10.0
"""Units of progress that pass before the loss falls at its full pace: gradients of networks are small at first
(measured: after a tenth of the run at a tenth of the good rate, 0.93 to 1.0 of the loss is left)."""
TAIL = 4.0
"""Degrees of freedom of the noise of a batch: heavy tails."""


@dataclass(frozen=True)
class Curve:
    """One seed's learning curve; losses in nats.

    Attributes:
        floor, height: Loss at the end of all training, and what there is above it at the start.
        scale, power: Of the power law, in units of progress.
        drop, drop_at, drop_width: Part of the height that falls late, after a plateau, and where; 0: none.
        limit: Largest stable rate.
        heat: Excess loss that the rate LR keeps up.
        noise: Relative, of a batch's loss.
        healing: Steps at the rate LR in which damage would mend by itself: some networks come back, others do not.
        memory: How fast data is memorized, a unit of progress.
        phase: Of the error of the run's own evaluations.
    """

    floor: float
    height: float
    scale: float
    power: float
    drop: float
    drop_at: float
    drop_width: float
    limit: float
    heat: float
    noise: float
    healing: float
    memory: float
    phase: float

    @classmethod
    def of(cls, seed: int, split: Split) -> Curve:
        """The same for the same arguments; the two ranges differ in all that matters."""
        source = np.random.default_rng([seed, 0])
        shift = 1.0 if split == "development" else 1.25
        has_plateau = source.uniform() < 0.3
        return cls(
            floor=source.uniform(0.2, 0.4) * shift,
            height=source.uniform(1.8, 2.6) * shift,
            scale=source.uniform(20, 40) * shift,
            power=source.uniform(0.9, 1.2),
            drop=source.uniform(0.2, 0.35) if has_plateau else 0.0,
            drop_at=source.uniform(80, 140),
            drop_width=source.uniform(6, 12),
            limit=source.uniform(*LIMITS[split]) * LR,
            heat=source.uniform(0.05, 0.08) * shift,
            noise=source.uniform(0.05, 0.12) * shift,
            healing=math.exp(source.uniform(math.log(400), math.log(6000))),
            memory=source.uniform(0.5e-4, 1.5e-4),
            phase=source.uniform(0, 2 * math.pi),
        )

    @property
    def start(self) -> float:
        return self.floor + self.height

    def at(self, progress: float) -> float:
        """The loss of undamaged, cold weights."""
        learnt = progress * progress / (progress + SLOW_START)
        falls = math.pow(1 + learnt / self.scale, -self.power)
        if self.drop:
            late = 1 / (1 + math.exp(min(50.0, (progress - self.drop_at) / self.drop_width)))
            falls = (1 - self.drop) * falls + self.drop * late
        return self.floor + self.height * falls

    def shown_factor(self, progress: float) -> float:
        """What the rows of a run's own evaluations make of a loss."""
        error = self.noise * math.sqrt(2 / EVALUATED)
        return 1 + error * math.sin(progress / EVALUATED_STEPS + self.phase)

    def limit_at(self, progress: float) -> float:
        """The largest stable rate at a point of training."""
        return self.limit * (1 - (1 - COLD_PART) * math.exp(-progress / WARM_STEPS))


class CurveModel(LoopModel):
    """Follows a learning curve. `state`: progress, heat (1 at the rate LR), oscillation, damage (0 to 1), memorized."""

    def __init__(self, training: Training, curve: Curve) -> None:
        super().__init__()
        recipe = training.recipe
        if recipe.optimizer not in ("adamw", "sgd"):
            raise UserError(f"sim_curve has no gradients for {recipe.optimizer} to go by: try it on sim_quadratic")
        steps = max(recipe.steps, training.budget)
        self.curve = curve
        # Another order of the data is another noise, of what is shown and of what the weights get of it.
        source = np.random.default_rng([training.seed, 1, int(training.jitter)])
        tails = source.standard_t(TAIL, size=steps) / math.sqrt(TAIL / (TAIL - 2))
        self._noise: list[float] = np.exp(np.clip(curve.noise * tails, -1, 1)).tolist()
        self._warming: list[float] = source.gamma(2.0, 0.5, size=steps).tolist()
        self._norms: list[float] = np.exp(0.15 * source.normal(size=steps)).tolist()
        disturbances = Disturbances.of(training.fault, steps)
        self._added, self._memory = _added(curve, disturbances), _memory(curve, disturbances)
        self.state: torch.Tensor
        self.register_buffer("state", torch.tensor([0.0, 0.0, CALM, 0.0, 0.0], dtype=torch.float64))
        self._state: Vector = self.state.numpy()  # the same memory
        self._walk = Walk(training.seed, steps, training.jitter)
        self._weights, self._gradient = self._walk.start, np.zeros(COUNT)
        self.weights = nn.Parameter(torch.from_numpy(self._weights.reshape(SHAPE)))
        self._gradient_tensor = torch.from_numpy(self._gradient.reshape(SHAPE))
        self._now = _Now()
        self.optimizer = SimOptimizer([self.weights], recipe.lr, self._move, recipe.weight_decay)

    def train_on(self, batch: int) -> float:
        now = self._now
        now.place = place = batch % len(self._noise)
        progress, heat, oscillation, damage, memorized = self._state.tolist()
        loss = self._loss(progress, heat, oscillation, damage) * (1 - 0.9 * memorized) + self._added[place]
        now.norm = 0.5 * math.sqrt(loss) * (1 + 3 * oscillation) * self._norms[place]
        self._walk.direction(place, progress, self._gradient)
        gradient = self._gradient  # torch looks closely at each attribute that a module is given, also by `*=`
        gradient *= now.norm
        if self.weights.grad is None:  # whoever restores weights clears it
            self.weights.grad = self._gradient_tensor
        return float(loss * self._noise[place])

    def clip(self) -> float:
        norm = math.sqrt(float(self._gradient @ self._gradient))
        if 0 < self.max_grad_norm < norm:
            gradient = self._gradient
            gradient *= self.max_grad_norm / norm
        return norm

    def _loss(self, progress: float, heat: float, oscillation: float, damage: float) -> float:
        curve = self.curve
        if progress != progress:
            return math.nan
        whole = curve.at(progress) + curve.heat * heat
        lost = curve.start * (1 + 0.1 * damage)
        return whole + damage * max(0.0, lost - whole) + 0.5 * curve.start * max(0.0, oscillation - CALM)

    def _move(self, lr: float, weight_decay: float) -> None:
        progress, heat, oscillation, damage, memorized = self._state.tolist()
        curve, place, norm = self.curve, self._now.place, self._now.norm
        factor = math.sqrt(float(self._gradient @ self._gradient)) / norm
        if abs(factor - 1) < ROUNDING:
            factor = 1.0
        pace = lr * factor / LR
        weights = self._weights
        weights -= self._walk.step_size * lr / LR / norm * self._gradient
        if not math.isfinite(pace):
            self._state[:] = math.nan
            return
        oscillation = min(HIGHEST, max(CALM, oscillation * pace * LR / curve.limit_at(progress)))
        if oscillation > LARGE:
            damage += (1 - damage) * min(1.0, DAMAGE_RATE * (oscillation - LARGE))
        if factor > 1:
            damage += (1 - damage) * (1 - math.exp(-(factor - 1) * lr / LR / THROWN))
        damage -= damage * min(1.0, pace / curve.healing)
        usual = min(pace, lr / LR)  # what a gradient out of all proportion does is damage, not heat
        heat += min(1.0, COOLING * usual) * (usual * self._warming[place] - heat)
        speed = min(pace, curve.limit / LR) * (1 - damage) / (1 + oscillation)
        forgets = 1 - min(1.0, 0.2 * weight_decay)
        memorized += min(1.0, self._memory[place] * forgets * speed) * (1 - memorized)
        self._state[:] = (progress + speed, heat, oscillation, damage, memorized)

    def evaluate(self) -> float:
        return self.final_value() * self.curve.shown_factor(float(self._state[0]))

    def final_value(self) -> float:
        progress, heat, oscillation, damage, memorized = self._state.tolist()
        gap = self.curve.height * memorized * memorized
        return float(self._loss(progress, heat, oscillation, damage) + gap)


@dataclass
class _Now:
    """Of the step that is under way; aside, as torch looks closely at each attribute that a module is given.

    Attributes:
        place: In the data.
        norm: Of its gradient, as it should be.
    """

    place: int = 0
    norm: float = 0.0


def _added(curve: Curve, disturbances: Disturbances) -> list[float]:
    """[n_places], what a batch's loss has over the usual."""
    places = np.arange(len(disturbances.added))
    added = disturbances.added * curve.start
    since = places - min(disturbances.shift_place, len(places))
    added += np.where(since >= 0, disturbances.shift * curve.height * np.exp(-np.maximum(since, 0) / SHIFT_STEPS), 0.0)
    found: list[float] = added.tolist()
    return found


def _memory(curve: Curve, disturbances: Disturbances) -> list[float]:
    """[n_places], what is memorized in a unit of progress."""
    memory = np.full(len(disturbances.added), curve.memory)
    if disturbances.few:
        memory[disturbances.few_place :] += MEMORIZING_FEW / disturbances.few
    memory[disturbances.wrong_place :] += MEMORIZING_WRONG * disturbances.wrong_part
    memory[disturbances.shift_place :] += FORGETTING * disturbances.shift
    found: list[float] = memory.tolist()
    return found


class SimCurve(LoopTask):
    """The learning curve of a seed."""

    def model(self, training: Training) -> CurveModel:
        return CurveModel(training, Curve.of(training.seed, training.split))
