"""The optimizer of simulated trainings: rates and schedules as of any torch optimizer, a step in a few microseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.bench.tasks.optimizers import SGD_MOMENTUM, parameter_groups
from agenttune.bench.training import Recipe


def _moving(move: Callable[[Any], object]) -> Callable[..., None]:
    """A `step` with the hooks of torch's optimizers and without their profiling, which takes longer than the step."""

    def step(self: Optimizer, closure: Any = None) -> None:
        for before in self._optimizer_step_pre_hooks.values():
            before(self, (), {})
        move(self)
        for after in self._optimizer_step_post_hooks.values():
            after(self, (), {})

    step.hooked = True  # type: ignore[attr-defined]  # torch then puts nothing around it
    return step


class SimOptimizer(Optimizer):
    """Calls `move` with the rate and the weight decay of its first group.

    Args:
        parameters: What training changes.
        lr: Learning rate.
        move: Makes the step.
        weight_decay: Of the group.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        move: Callable[[float, float], object],
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._move = move

    @_moving
    def step(self) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        self._move(group["lr"], group["weight_decay"])


class SimMomentum(Optimizer):
    """As torch's SGD with momentum does it, in a third of the time; one parameter a group.

    Args:
        recipe: Its rate and weight decay.
        groups: As for `make_optimizer`.
    """

    def __init__(self, recipe: Recipe, groups: list[dict[str, Any]]) -> None:
        super().__init__(parameter_groups(recipe, groups), {"lr": recipe.lr, "weight_decay": recipe.weight_decay})

    @_moving
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameter, state = group["params"][0], self.state[group["params"][0]]
            if parameter.grad is None:  # frozen
                continue
            weights, gradient = parameter.detach().numpy(), parameter.grad.numpy()
            if group["weight_decay"]:
                gradient = gradient + group["weight_decay"] * weights
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            moving = state["momentum_buffer"].numpy()
            moving *= SGD_MOMENTUM
            moving += gradient
            weights -= group["lr"] * moving
