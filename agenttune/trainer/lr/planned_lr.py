"""Learning-rate plans that a running schedule can be given, and that its checkpoints keep."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from agenttune.trainer.lr.planned_schedule import let_plan
from agenttune.trainer.lr.schedule_kinds import bare_scheduler

PREVIOUS = "previous"
"""Where a plan keeps the one it replaced, and that one's bases: with it, checkpoints hold all that is needed."""


def make_plannable(scheduler: object, optimizer: Optimizer) -> None:
    """Let a schedule carry a plan, from its creation, so that a resume can restore one."""
    scheduler = bare_scheduler(scheduler)
    if scheduler is not None:
        let_plan(scheduler, optimizer)


def lambda_name(fn: object) -> str:
    """A schedule of transformers is a partial of a function that is named after it."""
    name = getattr(getattr(fn, "func", fn), "__name__", type(fn).__name__)
    found = re.fullmatch(r"_get_(.+?)(?:_schedule)?((?:_with_.+?)?)_lr_lambda", name)
    return "".join(found.groups("")).replace("_", " ") if found else "a function of the step"


def restore_scheduler(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Put a schedule's state back, which stays as it is; a plan that was made since then is gone."""
    scheduler.load_state_dict(copy.deepcopy(dict(saved)))
