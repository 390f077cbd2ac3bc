"""Learning-rate plans that a running `LambdaLR` can be given, and that its checkpoints keep."""

from __future__ import annotations

import copy
import functools
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from agenttune.protocol.lr_plans import planned_factor
from agenttune.trainer.lr.planned_schedule import let_plan
from agenttune.trainer.lr.schedule_kinds import ScheduleKind, bare_scheduler, own_kind_of

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

    def hand_on(self) -> None:
        """Give the original what was saved of it before the first plan: a callable with a state of its own has one."""
        if self.plan and "start_t" not in self.plan:
            vars(self._original).update(self.plan)
            self.plan.clear()

    def __call__(self, t: int) -> float:
        return planned_factor(self.__dict__, t) if self.__dict__ else self._original(t)


def make_plannable(scheduler: object) -> None:
    """Let a schedule carry a plan, from its creation, so that a resume can restore one.

    Callables of a `LambdaLR` with a state of their own are left alone: wrapping would change what checkpoints hold.
    """
    scheduler = bare_scheduler(scheduler)
    if scheduler is not None and own_kind_of(scheduler) is not ScheduleKind.LAMBDA:
        let_plan(scheduler)
    elif isinstance(scheduler, LambdaLR) and type(scheduler).get_lr is LambdaLR.get_lr:
        scheduler.lr_lambdas = [
            PlannedLambda(fn) if isinstance(fn, (types.FunctionType, functools.partial)) else fn
            for fn in scheduler.lr_lambdas
        ]


def lambda_name(fn: object) -> str:
    """A schedule of transformers is a partial of a function that is named after it."""
    inner = fn.original if isinstance(fn, PlannedLambda) else fn
    name = getattr(getattr(inner, "func", inner), "__name__", type(inner).__name__)
    found = re.fullmatch(r"_get_(.+?)(?:_schedule)?((?:_with_.+?)?)_lr_lambda", name)
    return "".join(found.groups("")).replace("_", " ") if found else "a function of the step"


def restore_scheduler(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Put a schedule's state back, which stays as it is; a plan that was made since then is gone.

    `LambdaLR` only adds what a saved callable holds to what it holds now, so a plan would outlive the return.
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # within accelerate's wrapper
    planned = [fn for fn in getattr(inner, "lr_lambdas", ()) if isinstance(fn, PlannedLambda)]
    for fn in planned:
        fn.plan.clear()
    scheduler.load_state_dict(copy.deepcopy(dict(saved)))
    for fn in planned:
        fn.hand_on()
