"""The optimizer of simulated trainings: rates and schedules as of any torch optimizer, a step in a few microseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer


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

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        self._move(group["lr"], group["weight_decay"])
