"""What a fault does to a training while it runs."""

from __future__ import annotations

from typing import Any

from torch import nn

from agenttune.bench.training import Fault


class Injector:
    """Does nothing, unless overridden; called by both loops.

    Attributes:
        layer: Dotted name of the layer that is struck, if one is.
    """

    layer: str | None = None

    def before_forward(self, inputs: dict[str, Any], step: int) -> dict[str, Any]:
        """The batch as training gets it; the same for the same step, so that a return meets the same data."""
        return inputs

    def after_backward(self, step: int) -> None:
        """Gradients are there, clipping is to come."""

    def after_step(self, step: int) -> None:
        """A step of the run itself, not of a probe, is complete."""

    def evaluation(self, metrics: dict[str, Any], step: int, goal: str) -> dict[str, Any]:
        """The metrics of an evaluation as the run shows them."""
        return metrics

    def eval_every(self, steps: int) -> int:
        """Steps between two evaluations."""
        return steps


def make_injector(fault: Fault | None, model: nn.Module, seed: int) -> Injector:
    """The doings of a fault in one training."""
    return Injector()
