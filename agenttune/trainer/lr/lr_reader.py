"""The learning rates of a step, read just before its update, at little cost."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from agenttune.protocol.metrics import rate_name
from agenttune.trainer.lr.schedule_kinds import KEY, ScheduleKind, as_float
from agenttune.trainer.lr.schedules import Schedule

LR_OF = itemgetter("lr")
FLOATS = frozenset({float})


class LearningRateReader:
    """Reads the learning rates of all parameter groups; the kind of schedule is looked up once.

    Attributes:
        lr: The first group's effective rate, which the next update uses.
        base_lr: The first group's base, which the schedule scales.
        others: Rates of groups that differ from the first one's, as a row of metrics names them.
    """

    def __init__(self) -> None:
        self.lr = self.base_lr = float("nan")
        self.others: dict[str, float] = {}
        self._schedule: Schedule | None = None
        self._optimizer: Optimizer | None = None
        self._scheduler: object | None = None
        self._holder: Any = None
        self._inner: Any = None
        """The scheduler whose `base_lrs` are the bases; None where they are to be asked for."""
        self._is_unscaled = self._is_planned = False
        self._state: Any = ()

    def read(self, optimizer: Optimizer, scheduler: object | None) -> None:
        """Read the rates of this moment."""
        schedule = self._schedule
        if (
            schedule is None
            or self._optimizer is not optimizer
            or self._scheduler is not scheduler
            or (KEY in self._state) is not self._is_planned
        ):
            schedule = self._schedule = self._look(optimizer, scheduler)
        rates = list(map(LR_OF, self._holder.param_groups))
        if not FLOATS.issuperset(map(type, rates)):
            rates = [as_float(rate) for rate in rates]
        bases: Any = rates
        if not self._is_unscaled:
            bases = None if self._inner is None else self._inner.base_lrs
            if type(bases) is not list or len(bases) != len(rates):  # as in `Schedule.base`: hardly ever
                bases = schedule.base()
            elif not FLOATS.issuperset(map(type, bases)):
                bases = [as_float(base) for base in bases]
        self.lr, self.base_lr = rates[0], bases[0]
        is_one = rates.count(rates[0]) == len(rates) == bases.count(bases[0])
        self.others = {} if is_one else _others(rates, bases)

    def _look(self, optimizer: Optimizer, scheduler: object | None) -> Schedule:
        schedule = Schedule(optimizer, scheduler)
        self._optimizer, self._scheduler = optimizer, scheduler
        self._state = getattr(schedule.scheduler, "__dict__", ())
        self._is_planned = KEY in self._state
        self._is_unscaled = schedule.kind in (ScheduleKind.NONE, ScheduleKind.METRIC, ScheduleKind.OWN)
        has_own = self._is_planned or isinstance(schedule.scheduler, (OneCycleLR, CyclicLR))
        self._inner = None if has_own or not hasattr(schedule.scheduler, "base_lrs") else schedule.scheduler
        inner = getattr(optimizer, "optimizer", None)  # within accelerate's wrapper, whose groups are a property
        self._holder = inner if getattr(inner, "param_groups", None) is optimizer.param_groups else optimizer
        return schedule


def _others(rates: list[float], bases: list[float]) -> dict[str, float]:
    found = {}
    for name, values in (("lr", rates), ("base_lr", bases)):
        for group, value in enumerate(values):
            if value != values[0]:
                found[rate_name(name, group)] = value
    return found
