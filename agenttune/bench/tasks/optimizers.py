"""What a recipe says of the optimization, as torch has it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from agenttune.bench.training import Recipe

STABLE_UNTIL_FRAC = 0.8
"""warmup_stable_decay: where the decay begins (Hu et al. 2024, arXiv 2404.06395, end with the last tenth to fifth)."""
SGD_MOMENTUM = 0.9


class Shape:
    """A schedule: the factor on the peak rate at a step. An object, so that it can be saved with a scheduler."""

    def __init__(self, recipe: Recipe) -> None:
        self.schedule, self.steps = recipe.schedule, recipe.steps
        self.warmup_steps = round(recipe.warmup_frac * recipe.steps)
        after = recipe.decay_after_frac
        self.decay_step = math.inf if after is None else after * recipe.steps
        self.decay_to_frac = recipe.decay_to_frac

    def __call__(self, step: int) -> float:
        factor = self._rising(step) if step < self.warmup_steps else self._falling(step)
        return factor * self.decay_to_frac if step >= self.decay_step else factor

    def _rising(self, step: int) -> float:
        return (step + 1) / (self.warmup_steps + 1)

    def _falling(self, step: int) -> float:
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "linear":
            return max(0.0, 1 - done)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if self.schedule == "warmup_stable_decay":
            return min(1.0, max(0.0, (1 - done) / (1 - STABLE_UNTIL_FRAC)))
        if self.schedule == "inverse_sqrt":
            scale = max(1, self.warmup_steps, self.steps // 10)
            return math.sqrt(scale / (scale + step - self.warmup_steps))
        return 1.0


def make_optimizer(recipe: Recipe, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    Args:
        recipe: Names it.
        parameters: As for any torch optimizer; groups may have an `lr_factor`, by which the rate is multiplied.
    """
    groups = _groups(recipe, parameters)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=SGD_MOMENTUM, weight_decay=recipe.weight_decay)
    raise NotImplementedError(recipe.optimizer)


def _groups(recipe: Recipe, parameters: Iterable[Any]) -> list[dict[str, Any]]:
    given = list(parameters)
    if given and not isinstance(given[0], dict):
        return [{"params": given}]
    return [
        {name: value for name, value in group.items() if name != "lr_factor"}
        | {"lr": recipe.lr * group.get("lr_factor", 1.0)}
        for group in given
    ]


def make_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, maximize: bool = False
) -> LambdaLR | ReduceLROnPlateau:
    """The schedule of a recipe; a plateau's is stepped with the metric of each evaluation.

    Args:
        maximize: Whether more of that metric is better.
    """
    if recipe.schedule == "reduce_lr_on_plateau":
        return ReduceLROnPlateau(optimizer, mode="max" if maximize else "min", factor=0.1, patience=3)
    return LambdaLR(optimizer, Shape(recipe))


def scale_lr(optimizer: torch.optim.Optimizer, scheduler: Any, factor: float) -> None:
    """Multiply the rates of all groups, now and for the rest of the schedule."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [lr * factor for lr in scheduler.base_lrs]
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [lr * factor for lr in scheduler._last_lr]


def jitter(model: nn.Module, size: float, seed: int) -> None:
    """Change each weight by a part of itself of about `size`, in place."""
    source = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + size * torch.randn(parameter.shape, generator=source))
