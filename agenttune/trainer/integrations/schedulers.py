"""Finding the learning-rate schedule of an optimizer that nobody has named."""

from __future__ import annotations

import gc
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def has_scheduler(optimizer: Optimizer) -> bool:
    """Whether a schedule was attached: torch's schedules wrap the optimizer's `step` when they are made."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched") or "initial_lr" in optimizer.param_groups[0]


def find_schedulers(optimizer: Optimizer) -> list[LRScheduler]:
    """The schedules of an optimizer; those inside others (SequentialLR, ChainedScheduler) are left out.

    Nothing leads from an optimizer to its schedules, so all objects of the process are looked through: about 0.1 s
    with torch and transformers loaded (measured).
    """
    found = [o for o in gc.get_objects() if issubclass(type(o), LRScheduler) and _optimizer_of(o) is optimizer]
    inside = {id(inner) for outer in found for inner in getattr(outer, "_schedulers", [])}
    return [scheduler for scheduler in found if id(scheduler) not in inside]


def _optimizer_of(scheduler: LRScheduler) -> Any:
    return getattr(scheduler, "optimizer", None)
