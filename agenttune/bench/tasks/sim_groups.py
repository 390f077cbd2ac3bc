"""A noisy quadratic of two layers, each a parameter group with a rate of its own, by gradient descent with momentum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.bench.tasks.loop_training import LoopTask
from agenttune.bench.tasks.optimizers import make_optimizer
from agenttune.bench.tasks.sim_optimizer import SimMomentum
from agenttune.bench.tasks.sim_quadratic import Law, Quadratic, Vector
from agenttune.bench.training import Recipe, Training

HEAD_FACTOR = 2.0
"""The head's rate is so many times the encoder's, which has the steepest direction (guess)."""


class Layer(nn.Module):
    """Some of the weights, [1, n_weights] as a layer's are."""

    def __init__(self, weights: torch.Tensor, gradient: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights[None])
        self._gradient = gradient[None]

    def show_gradient(self) -> None:
        """Put it where optimizers look for it, unless the layer is frozen."""
        if self.weight.grad is None and self.weight.requires_grad:
            self.weight.grad = self._gradient


class Groups(Quadratic):
    """A quadratic whose weights lie in two layers."""

    encoder: Layer
    head: Layer

    def add_weights(self, flat: torch.Tensor) -> None:
        half = len(flat) // 2
        self.encoder = Layer(flat[:half], self._gradient_tensor[:half])
        self.head = Layer(flat[half:], self._gradient_tensor[half:])
        self._layers = (self.encoder, self.head)
        self.show_gradient()

    def make_optimizer(self, recipe: Recipe) -> Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [self.encoder.weight]},
            {"params": [self.head.weight], "lr_factor": HEAD_FACTOR},
        ]
        return SimMomentum(recipe, groups) if recipe.optimizer == "sgd" else make_optimizer(recipe, groups)

    def show_gradient(self) -> None:
        for layer in self._layers:
            layer.show_gradient()

    def clip(self) -> float:
        half = len(self._gradient) // 2
        parts = (self._gradient[:half], self._gradient[half:])
        trained = [part for part, layer in zip(parts, self._layers, strict=True) if layer.weight.grad is not None]
        norm = math.sqrt(sum(float(part @ part) for part in trained))
        if 0 < self.max_grad_norm < norm:
            self._gradient *= self.max_grad_norm / norm
        return norm


class SimGroups(LoopTask):
    """The quadratic of a seed; every other direction belongs to the head."""

    def model(self, training: Training) -> Groups:
        law = Law.of(training.seed, training.split)
        law = replace(
            law,
            curvatures=_in_turn(law.curvatures),
            start=_in_turn(law.start),
            other=_in_turn(law.other),
            shown=_in_turn(law.shown),
        )
        return Groups(training, law)


def _in_turn(values: Vector) -> Vector:
    """[n_dims]: the first, third, fifth, ... and then the others."""
    return np.concatenate([values[::2], values[1::2]])
