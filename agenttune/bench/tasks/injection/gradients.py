"""Faults in the gradients."""

from __future__ import annotations

import math

import torch
from torch import nn

from agenttune.bench.tasks.injection.accidents import OverSteps
from agenttune.bench.tasks.injection.injector import injects

GROWTH = 10.0
"""Factor by which exploding gradients grow at each step (guess)."""


def scale_gradients(model: nn.Module, factor: float) -> None:
    """Multiply all gradients, in place; NaN makes them NaN, and 0 makes 0 of all."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor) if factor else parameter.grad.zero_()


@injects("nan_gradient")
class NanGradient(OverSteps):
    """Gradients grow tenfold at each step, and then are NaN."""

    @property
    def length(self) -> int:
        return self.count("growing_steps") + 1

    def after_backward(self, step: int) -> None:
        if not self.strikes(step):
            return
        since = step - self.fault.step
        scale_gradients(self.model, GROWTH ** (since + 1) if since < self.length - 1 else math.nan)
