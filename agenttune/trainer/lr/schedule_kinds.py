"""What a learning-rate schedule is made of: its kind, the schedulers inside it, numbers that may be tensors."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

NAN = float("nan")
KEY = "agenttune_plan"
"""Where a schedule holds the plan that it was given."""


class ScheduleKind(Enum):
    """How a schedule determines the rate."""

    NONE = "no schedule"
    METRIC = "driven by evaluations"  # ReduceLROnPlateau, GreedyLR: the rate itself is the only state
    LAMBDA = "a function of the step times a base"  # all other schedules of transformers
    SCALING = "of torch"  # recursive or closed form; every rate it gives is proportional to the rates it holds
    PLANNED = "a plan over the run's own"  # of any class
    OWN = "the optimizer's own"  # Adafactor with relative steps
    UNKNOWN = "of an unknown class"


def bare_scheduler(scheduler: object | None) -> Any:
    """The scheduler inside accelerate's wrapper."""
    inner = getattr(scheduler, "scheduler", None)
    return inner if isinstance(inner, LRScheduler) else scheduler


def kind_of(optimizer: Optimizer, scheduler: object | None) -> ScheduleKind:
    """Which rules hold for this pair."""
    name = type(scheduler).__name__
    if name == "AdafactorSchedule" or any(g.get("relative_step") or g["lr"] is None for g in optimizer.param_groups):
        return ScheduleKind.OWN
    if scheduler is None:
        return ScheduleKind.NONE
    if KEY in getattr(scheduler, "__dict__", ()):
        return ScheduleKind.PLANNED
    return own_kind_of(scheduler)


def own_kind_of(scheduler: object) -> ScheduleKind:
    """The same for a schedule without the plan that it was given."""
    if isinstance(scheduler, ReduceLROnPlateau) or type(scheduler).__name__ == "GreedyLR":
        return ScheduleKind.METRIC
    if isinstance(scheduler, LambdaLR) and type(scheduler).get_lr is LambdaLR.get_lr:
        return ScheduleKind.LAMBDA
    if isinstance(scheduler, LRScheduler) and type(scheduler).__module__.startswith("torch.optim"):
        return ScheduleKind.SCALING
    return ScheduleKind.UNKNOWN


def as_float(value: Any) -> float:
    """A number or one-element tensor; NaN for None (Adafactor's relative mode)."""
    return NAN if value is None else float(value)


def store(container: Any, key: Any, value: float) -> None:
    """Write a number where a number or a tensor stands; tensors are filled in place, as captured graphs hold them."""
    current = container[key]
    if isinstance(current, torch.Tensor):
        current.fill_(value)
    else:
        container[key] = value


def like(current: Any, value: float) -> Any:
    """A number as a number, or as a tensor where one stands."""
    return torch.full_like(current, value) if isinstance(current, torch.Tensor) else value


def members_of(scheduler: Any) -> list[Any]:
    """A scheduler and those inside it (SequentialLR, ChainedScheduler)."""
    if scheduler is None:
        return []
    inner = getattr(scheduler, "_schedulers", [])
    return [scheduler, *(m for s in inner for m in members_of(s))]
