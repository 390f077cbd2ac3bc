"""What a recipe says of the optimization, as torch has it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from agenttune.bench.training import Recipe
from agenttune.errors import UserError

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
    groups = parameter_groups(recipe, parameters)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=SGD_MOMENTUM, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "prodigy":
        return _prodigy(recipe, groups)
    return _schedule_free(recipe, groups)


def _prodigy(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """With the options that its documentation advises: bias correction, and the guard where there is a warm-up."""
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise UserError("Prodigy comes with prodigyopt: pip install 'agenttune-toolkit[bench]'") from None
    for group in groups:
        group["lr"] = recipe.lr  # it refuses groups with different ones
    made: torch.optim.Optimizer = Prodigy(
        groups,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        use_bias_correction=True,
        safeguard_warmup=recipe.warmup_frac > 0,
    )
    return made


def _schedule_free(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Its warm-up is the recipe's: the average weighs steps by their rate, wherever that comes from."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise UserError("Schedule-Free comes with schedulefree: pip install 'agenttune-toolkit[bench]'") from None
    made: torch.optim.Optimizer = AdamWScheduleFree(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return made


GROUP_STATE = frozenset(
    ["d", "d_max", "d_numerator", "d_denom", "d_hat", "k", "train_mode", "weight_sum", "lr_max", "scheduled_lr"]
)
"""What Prodigy and Schedule-Free keep of their state beside the rate, in a parameter group."""


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """A copy of weights and optimizer state."""
    groups = [{k: v for k, v in group.items() if k in GROUP_STATE} for group in optimizer.param_groups]
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"], groups))


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Any, clear_optimizer: bool = False) -> None:
    """Put it back; rates stay as they are.

    Args:
        saved: By `save_state`.
        clear_optimizer: The weights alone, and an optimizer as it was when it was made.
    """
    weights, states, groups = copy.deepcopy(saved)
    model.load_state_dict(weights)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        group.update(before)
    if clear_optimizer:
        _clear(optimizer)


def _clear(optimizer: torch.optim.Optimizer) -> None:
    """Forget the past. Weights that are in use between steps only (Schedule-Free) become those to be evaluated."""
    to_evaluation = getattr(optimizer, "eval", None)
    if to_evaluation is not None:
        to_evaluation()
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group.update({k: v for k, v in optimizer.defaults.items() if k in GROUP_STATE})


def parameter_groups(recipe: Recipe, parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """Groups with rates of their own: the recipe's, times the `lr_factor` of each."""
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
    """Multiply the rates of all groups, now and for the rest of the schedule; to the bit as agenttune would do it."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [lr * factor for lr in scheduler.base_lrs]
    if isinstance(scheduler, LambdaLR):
        for group, base, shape in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * shape(scheduler.last_epoch)
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def base_lr(optimizer: torch.optim.Optimizer, scheduler: Any) -> float:
    """What the schedule scales to get the first group's rate; the rate itself where it scales nothing."""
    return float(scheduler.base_lrs[0] if isinstance(scheduler, LambdaLR) else optimizer.param_groups[0]["lr"])
