"""Learning-rate plans that a running `LambdaLR` can be given, and that its checkpoints keep."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from agenttune.protocol.lr_plans import planned_factor

RateLambda = Callable[[int], float]
PREVIOUS = "previous"
"""Where a plan keeps the one it replaced, and that one's bases: with it, checkpoints hold all that is needed."""


class PlannedLambda:
    """A rate function that follows the original schedule until it is given a plan.

    `LambdaLR` saves and loads the `__dict__` of callable objects, so the plan lives there and survives a resume; the
    original function is kept in a slot, out of the checkpoint.
    """

    __slots__ = ("__dict__", "_original")

    def __init__(self, original: RateLambda) -> None:
        self._original = original

    @property
    def plan(self) -> dict[str, Any]:
        """The plan in force, empty if there is none: plain numbers and the name of the shape."""
        return self.__dict__

    @property
    def original(self) -> RateLambda:
        """What is followed while there is no plan."""
        return self._original

    def __call__(self, t: int) -> float:
        return planned_factor(self.__dict__, t) if self.__dict__ else self._original(t)


def make_plannable(scheduler: object) -> None:
    """Let a `LambdaLR` carry a plan, from its creation, so that a resume can restore one.

    Callables with a state of their own are left alone: wrapping would change what their checkpoints hold.
    """
    if isinstance(scheduler, LambdaLR) and type(scheduler).get_lr is LambdaLR.get_lr:
        scheduler.lr_lambdas = [
            PlannedLambda(fn) if isinstance(fn, (types.FunctionType, functools.partial)) else fn
            for fn in scheduler.lr_lambdas
        ]


def restore_scheduler(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Put a schedule's state back, which stays as it is; a plan that was made since then is gone.

    `LambdaLR` only adds what a saved callable holds to what it holds now, so a plan would outlive the return.
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # within accelerate's wrapper
    for fn in getattr(inner, "lr_lambdas", ()):
        if isinstance(fn, PlannedLambda):
            fn.plan.clear()
    scheduler.load_state_dict(copy.deepcopy(dict(saved)))
