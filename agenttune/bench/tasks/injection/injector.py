"""The hooks of a fault, and which class has them for which kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from agenttune.bench.training import Agent, Fault, Live

STRIKES_ONCE = (
    *("corrupt_batch", "corrupt_burst", "healing_spike", "nan_gradient"),
    *("dead_layer", "scaled_layer", "reset_layer"),
)
"""Kinds that strike the weights of a moment; others hold for all that come later, or lie in what copies share."""


class Injector:
    """A fault at work in one training; does nothing unless overridden. Both loops call its hooks.

    `step` is always the number of completed steps: the same before the forward pass and after the backward pass of a
    step, and one more after it.

    Args:
        fault: What goes wrong.
        model: In training; its layers can be struck.
        seed: Of the training.

    Attributes:
        layer: Dotted name of the layer that is struck, once it is known.
    """

    layer: str | None = None

    def __init__(self, fault: Fault, model: nn.Module | None, seed: int) -> None:
        self.fault, self.seed = fault, seed
        self._model = model

    @property
    def model(self) -> nn.Module:
        """Raises TypeError where the task has none, and so cannot suffer this kind."""
        if self._model is None:
            raise TypeError(f"a task without a model cannot suffer {self.fault.kind}; its facts must not list it")
        return self._model

    def value(self, name: str) -> float:
        """A parameter of the fault."""
        return float(self.fault.values[name])

    def count(self, name: str) -> int:
        """A parameter of the fault that counts something."""
        return round(self.value(name))

    def seed_at(self, step: int) -> int:
        """A seed for what happens at a step, the same whenever training comes there."""
        digest = hashlib.sha256(f"{self.fault.kind}:{self.seed}:{step}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def started(self, live: Live, agent: Agent | None) -> None:
        """The optimizer exists; the first step is to come.

        Args:
            live: The training.
            agent: Takes part in it.
        """

    def take_up(self, own: int, copies: int, step: int) -> int:
        """Go on with one of several copies of the training.

        Args:
            own: Steps that it has completed.
            copies: So many there are.
            step: Completed steps of all of them.

        Returns:
            By how much `step`, as the other hooks are told it, is off from there on.
        """
        if self.fault.kind not in STRIKES_ONCE:
            return 0
        place = self.fault.step - round(self.fault.step / copies) + own
        self.go_on_at(place)
        return place - step

    def go_on_at(self, step: int) -> None:
        """These weights come to this step for the first time."""

    def before_forward(self, inputs: dict[str, Any], step: int) -> dict[str, Any]:
        """The batch as training gets it; the loop's own is left as it is."""
        return inputs

    def after_backward(self, step: int) -> None:
        """Gradients are there; clipping is to come."""

    def after_step(self, step: int, is_trial: bool = False) -> None:
        """A step is complete, its schedule's too; agenttune has not looked for commands yet.

        Args:
            is_trial: It is one of a probe's and will be undone.
        """

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation that is due is made."""
        return True

    def evaluation(self, metrics: dict[str, Any], step: int, goal: str) -> dict[str, Any]:
        """The metrics of an evaluation as the run shows them.

        Args:
            goal: Name of the task's metric.
        """
        return metrics

    def eval_every(self, steps: int) -> int:
        """Steps between two evaluations."""
        return steps

    def log_row(self, step: int) -> dict[str, Any]:
        """What the loop's own log says beside its numbers."""
        return {}


INJECTORS: dict[str, type[Injector]] = {}
"""By kind of fault; the others do nothing while training runs."""
T = TypeVar("T", bound=type[Injector])


def injects(*kinds: str) -> Callable[[T], T]:
    """Let a class do these kinds of faults."""

    def add(injector: T) -> T:
        INJECTORS.update(dict.fromkeys(kinds, injector))
        return injector

    return add


def make_injector(fault: Fault | None, model: nn.Module | None, seed: int) -> Injector:
    """A fault at work in one training.

    Args:
        fault: None: nothing goes wrong.
        model: None: a simulated training without layers.
        seed: Of the training.
    """
    drawn = fault or Fault(kind="healthy")
    return INJECTORS.get(drawn.kind, Injector)(drawn, model, seed)
