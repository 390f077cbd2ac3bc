"""Reading and changing the learning rate under any schedule.

Two rates: *effective* is `group["lr"]`, what the next update uses; *base* is what the schedule scales. Changing one
without the other is the usual defect: the schedule overwrites the rate at its next step. Lists of rates are
[n_groups], one rate for each parameter group.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.commands import SMALLEST
from agenttune.protocol.lr_plans import planned_factor
from agenttune.trainer.lr import planned_schedule
from agenttune.trainer.lr.planned_lr import lambda_name, make_plannable
from agenttune.trainer.lr.schedule_kinds import (
    ScheduleKind,
    as_float,
    bare_scheduler,
    kind_of,
    like,
    members_of,
    own_kind_of,
    store,
)

LARGEST = 100.0
"""Largest rate that commands take."""


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of an earlier moment, to be restored.

    Attributes:
        effective: [n_groups], of the next update.
        base: [n_groups], what the schedule scales.
        plan: The plan in force; empty for the run's own schedule.
        clock: What the schedule had counted.
    """

    effective: list[float]
    base: list[float]
    plan: dict[str, Any]
    clock: int


class Schedule:
    """The rates of one optimizer, with the scheduler that drives them.

    Args:
        optimizer: Read afresh each time: loading a checkpoint replaces its group dicts.
        scheduler: The scheduler or None.
        ratios: Last known ratio of each group's base to the first group's, for a return from a rate of 0.
    """

    def __init__(self, optimizer: Optimizer, scheduler: object | None, ratios: list[float] | None = None) -> None:
        self.optimizer = optimizer
        self.scheduler = bare_scheduler(scheduler)
        self.kind = kind_of(optimizer, self.scheduler)
        self.ratios = ratios if ratios is not None and len(ratios) == len(optimizer.param_groups) else None

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def name(self) -> str:
        return "no schedule" if self.scheduler is None else type(self.scheduler).__name__

    @property
    def clock(self) -> int:
        """Steps that the schedule has counted; updates, where a plan counts those."""
        if self.kind is ScheduleKind.PLANNED:
            return int(planned_schedule.record_of(self.scheduler)["t"])
        return next((int(m.last_epoch) for m in members_of(self.scheduler) if hasattr(m, "last_epoch")), 0)

    @property
    def counts(self) -> bool:
        """Whether there is a schedule that counts its steps."""
        return self.kind is ScheduleKind.PLANNED or any(hasattr(m, "last_epoch") for m in members_of(self.scheduler))

    @property
    def follows_function(self) -> bool:
        """Whether the rate is a function of the steps counted, times a base."""
        return self.kind in (ScheduleKind.LAMBDA, ScheduleKind.PLANNED)

    def functions(self) -> list[Callable[[int], float]]:
        """[n_groups]: the factors of the base, where there are such functions."""
        if self.kind is ScheduleKind.PLANNED:
            plan = planned_schedule.record_of(self.scheduler)["plan"]
            return [functools.partial(planned_factor, plan) for _ in self.groups]
        return list(self.scheduler.lr_lambdas)

    def plan(self) -> dict[str, Any]:
        """The plan in force; empty for the run's own schedule."""
        if self.kind is ScheduleKind.PLANNED:
            return dict(planned_schedule.record_of(self.scheduler)["plan"])
        return {}

    @property
    def own_name(self) -> str:
        """The run's own schedule, as people call it."""
        is_function = own_kind_of(self.scheduler) is ScheduleKind.LAMBDA
        return lambda_name(self.scheduler.lr_lambdas[0]) if is_function else self.name

    # -- reading ----------------------------------------------------------------------------------------------

    def effective(self) -> list[float]:
        """[n_groups]: the rate of the next update."""
        return [as_float(group["lr"]) for group in self.groups]

    def base(self) -> list[float]:
        """[n_groups]: what the schedule scales; the rate itself where nothing scales it."""
        if self.kind in (ScheduleKind.NONE, ScheduleKind.METRIC, ScheduleKind.OWN):
            return self.effective()
        if self.kind is ScheduleKind.PLANNED:
            return list(planned_schedule.record_of(self.scheduler)["bases"])
        if isinstance(self.scheduler, OneCycleLR):
            return [as_float(group["max_lr"]) for group in self.groups]
        if isinstance(self.scheduler, CyclicLR):
            return [as_float(rate) for rate in self.scheduler.max_lrs]
        listed = getattr(self.scheduler, "base_lrs", None)
        if isinstance(listed, list) and len(listed) == len(self.groups):
            return [as_float(rate) for rate in listed]
        return [as_float(group.get("initial_lr", group["lr"])) for group in self.groups]

    @property
    def knows_base(self) -> bool:
        """Whether there is something that stays as it is while the rate moves."""
        held = hasattr(self.scheduler, "base_lrs") or "initial_lr" in self.groups[0]
        return self.kind is not ScheduleKind.UNKNOWN or held

    def current_ratios(self) -> list[float] | None:
        """[n_groups]: each group's base over the first group's, or the last known ratios if that is 0."""
        base = self.base()
        return [rate / base[0] for rate in base] if base[0] > 0 else self.ratios

    def next_effective(self) -> list[float] | None:
        """[n_groups]: the rate after the schedule's next step; None if that cannot be predicted."""
        if self.kind in (ScheduleKind.NONE, ScheduleKind.METRIC):
            return self.effective()
        if self.follows_function:
            return [b * fn(self.clock + 1) for b, fn in zip(self.base(), self.functions(), strict=True)]
        rehearsed = self.rehearse(1) if self.kind is ScheduleKind.SCALING else []
        return rehearsed[1] if len(rehearsed) > 1 else None

    def rehearse(self, steps: int) -> list[list[float]]:
        """[up to steps + 1, n_groups]: the rates of now and after each of the next steps; nothing is changed."""
        undo, found = self.snapshot(), [self.effective()]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of a step before the first update
                for _ in range(steps):
                    self.scheduler.step()
                    found.append(self.effective())
        except ValueError:  # OneCycleLR refuses to go past its end
            pass
        finally:
            undo()
        return found

    def snapshot(self) -> Callable[[], None]:
        """Remember all rates and the scheduler's state; returns the function that restores them."""
        saved_groups = [_saved_group(group) for group in self.groups]
        members = members_of(self.scheduler)
        saved_members = [_saved_state(member) for member in members]

        def undo() -> None:
            for group, saved in zip(self.groups, saved_groups, strict=True):
                _restore_group(group, saved)
            for member, state in zip(members, saved_members, strict=True):
                member.__dict__.clear()
                member.__dict__.update(state)
            self.kind = kind_of(self.optimizer, self.scheduler)

        return undo

    @contextlib.contextmanager
    def without_plan(self) -> Iterator[Schedule]:
        """The run's own schedule beneath a plan, as it would go on; the plan is in force again afterwards."""
        undo = self.snapshot()
        try:
            planned_schedule.drop(self.scheduler)
            yield Schedule(self.optimizer, self.scheduler, self.ratios)
        finally:
            undo()

    # -- writing ----------------------------------------------------------------------------------------------

    def set_effective(self, rate: float, only: int | None) -> None:
        """Make `rate` the next update's, the schedule keeping its shape from here.

        Raises:
            UserError: The schedule's factor is 0 here, or the ratio of the groups is lost.
            NotSupported: Something else sets the rate.
        """
        self._refuse_foreign()
        lead = only or 0
        if self.follows_function:
            factor = self._factors()[lead]
            if factor == 0:
                raise UserError(
                    f"the schedule's factor is 0 after step {self.clock}, so no base gives an effective rate of "
                    f"{rate:g}; use lr_sets 'base', or re-plan with update_schedule",
                    field="lr_sets",
                )
            self._set_bases(self._spread(self.base(), rate / factor, only))
        elif self.kind in (ScheduleKind.NONE, ScheduleKind.METRIC):
            self._set_rates(self._spread(self.effective(), rate, only))
        else:
            self._scale(self._ratio(rate, self.effective()[lead]), only)
        self._pin(lead, rate)

    def set_base(self, rate: float, only: int | None) -> None:
        """Set what the schedule scales; the effective rate follows at once.

        Raises:
            UserError, NotSupported: As for `set_effective`.
        """
        self._refuse_foreign()
        lead = only or 0
        if self.follows_function:
            self._set_bases(self._spread(self.base(), rate, only))
        elif self.kind in (ScheduleKind.NONE, ScheduleKind.METRIC):
            self._set_rates(self._spread(self.effective(), rate, only))
        else:
            self._scale(self._ratio(rate, self.base()[lead]), only)

    def rates(self) -> LearningRates:
        """What `restore` restores."""
        return LearningRates(self.effective(), self.base(), self.plan(), self.clock)

    def restore(self, rates: LearningRates, groups: Iterable[int]) -> None:
        """Undo a change of some groups' rates, at a later step: the schedule goes on as if it had not been made."""
        chosen, was_planned = set(groups), self.kind is ScheduleKind.PLANNED
        if len(chosen) == len(self.groups):
            self._follow(rates.plan, rates.base)
            if was_planned and not self.knows_base:  # beneath the plan it has gone on with its own
                return
        if self.follows_function:
            self._set_bases([rates.base[i] if i in chosen else rate for i, rate in enumerate(self.base())])
        elif self.kind is ScheduleKind.NONE or (self.kind is ScheduleKind.METRIC and self.clock == rates.clock):
            self._set_rates([rates.effective[i] if i in chosen else rate for i, rate in enumerate(self.effective())])
        elif self.kind in (ScheduleKind.SCALING, ScheduleKind.UNKNOWN):
            ratios = {i: rates.base[i] / self.base()[i] for i in chosen if self.base()[i] > 0}
            if len(chosen) == len(self.groups) and len(set(ratios.values())) == 1:
                self._scale(next(iter(ratios.values())), None)
            else:
                for i, ratio in ratios.items():
                    self._scale(ratio, i)

    def _follow(self, plan: Mapping[str, Any], bases: list[float]) -> None:
        """Let the rates be a plan's, or the run's own again; those of now are to be written after it."""
        if plan:
            planned_schedule.follow(self.scheduler, plan, bases, self.clock)
        elif self.kind is ScheduleKind.PLANNED:
            planned_schedule.drop(self.scheduler)
        self.kind = kind_of(self.optimizer, self.scheduler)

    def refuse_impossible(self) -> None:
        """Raises UserError if a rate is not finite, too large to train with, or too small to be changed again."""
        for what, rates in (("effective", self.effective()), ("base", self.base())):
            for group, rate in enumerate(rates):
                if not math.isfinite(rate) or rate > LARGEST or 0 < rate < SMALLEST:
                    raise UserError(
                        f"the {what} rate of parameter group {group} would be {rate:g}; a rate is 0, or from "
                        f"{SMALLEST:.3g} to {LARGEST:g}",
                        field="lr",
                        allowed={"minimum": SMALLEST, "maximum": LARGEST},
                    )

    def install_plan(self, bases: list[float], plan: dict[str, Any]) -> None:
        """Follow `plan` from here, scaled by `bases`; with none, the run's own schedule again."""
        make_plannable(self.scheduler, self.optimizer)
        self._follow(plan, bases)
        if self.follows_function:
            self._set_bases(bases)

    def refuse_unplannable(self) -> None:
        """Raises NotSupported unless `install_plan` can work."""
        self._refuse_foreign()
        if problem := self.unplannable():
            raise NotSupported(problem)

    def unplannable(self) -> str:
        """Why `update_schedule` cannot work here; empty if it can."""
        if self.kind is ScheduleKind.NONE:
            return "this run has no schedule that update_schedule could replan; change its rate with update_optimizer"
        if self.kind is ScheduleKind.OWN:
            return f"{_inner_name(self.optimizer)} computes its own rate"
        if planned_schedule.is_plannable(self.scheduler):
            return ""
        problem = planned_schedule.why_unplannable(self.scheduler, self.optimizer)
        return problem and f"update_schedule cannot replan this run's schedule: {problem}; use update_optimizer"

    def _refuse_foreign(self) -> None:
        if self.kind is ScheduleKind.OWN:
            raise NotSupported(
                f"{_inner_name(self.optimizer)} computes its own rate here (relative_step); start it with "
                "relative_step=False and a learning rate to steer it"
            )
        if _inner_name(self.optimizer) == "Rprop":
            raise NotSupported("Rprop adapts a step size per weight and reads lr only at its first step")

    def _factors(self) -> list[float]:
        return [float(fn(self.clock)) for fn in self.functions()]

    def _spread(self, rates: list[float], lead_rate: float, only: int | None) -> list[float]:
        """New rates: the named group alone, or all groups in their ratio to the first."""
        if only is not None:
            return [lead_rate if i == only else rate for i, rate in enumerate(rates)]
        if rates[0] > 0:
            return [rate * (lead_rate / rates[0]) for rate in rates]
        if any(rate > 0 for rate in rates) or self.ratios is None:
            if len(rates) == 1:
                return [lead_rate]
            raise UserError(
                "the first group's rate is 0, so the other groups have no ratio to it; name one with param_group",
                field="param_group",
                allowed=list(range(len(rates))),
            )
        return [lead_rate * ratio for ratio in self.ratios]

    def _ratio(self, rate: float, current: float) -> float:
        if current == 0 or rate == 0:
            raise UserError(
                f"{self.name} multiplies the rate, so a rate of 0 could never be left again "
                f"(now {current:g}, asked {rate:g}); use a very small rate instead",
                field="lr",
            )
        return rate / current

    def _set_bases(self, bases: list[float]) -> None:
        if self.kind is ScheduleKind.PLANNED:
            planned_schedule.set_bases(self.scheduler, bases)
            self._set_rates([b * f for b, f in zip(bases, self._factors(), strict=True)])
            return
        for i, (group, rate) in enumerate(zip(self.groups, bases, strict=True)):
            self.scheduler.base_lrs[i] = like(self.scheduler.base_lrs[i], rate)
            if "initial_lr" in group:
                group["initial_lr"] = like(group["initial_lr"], rate)
        self._set_rates([b * f for b, f in zip(bases, self._factors(), strict=True)])

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.groups, rates, strict=True):
            store(group, "lr", rate)
        self._publish()

    def _publish(self) -> None:
        """What `get_last_lr` says, which is what loggers show."""
        for member in members_of(self.scheduler):
            if hasattr(member, "_last_lr"):
                member._last_lr = [like(group["lr"], as_float(group["lr"])) for group in self.groups]

    def _pin(self, lead: int, rate: float) -> None:
        """Remove the rounding of base times factor from the rate that was asked for."""
        store(self.groups[lead], "lr", rate)
        self._publish()

    def _scale(self, ratio: float, only: int | None) -> None:
        """Multiply all numbers that the schedule's rates are proportional to."""
        members = members_of(self.scheduler)
        if only is not None and any(getattr(m, "eta_min", 0) for m in members):
            raise UserError(
                f"{self.name} has one eta_min for all groups, so one group alone cannot be scaled; leave out "
                "param_group",
                field="param_group",
            )
        chosen = range(len(self.groups)) if only is None else (only,)
        one_cycle = any(isinstance(m, OneCycleLR) for m in members)
        for i in chosen:
            for key in ("lr", "initial_lr", *(("max_lr", "min_lr") if one_cycle else ())):
                if key in self.groups[i]:
                    store(self.groups[i], key, as_float(self.groups[i][key]) * ratio)
        for member in members:
            held = [getattr(member, name, None) for name in ("base_lrs", "max_lrs")]
            for rates in [rates for rates in held if isinstance(rates, list)]:
                for i in chosen:
                    rates[i] = like(rates[i], as_float(rates[i]) * ratio)
            if getattr(member, "eta_min", 0):
                member.eta_min *= ratio
        self._publish()


def _inner_name(optimizer: Optimizer) -> str:
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def _saved_group(group: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in group.items() if k != "params"}


def _restore_group(group: dict[str, Any], saved: dict[str, Any]) -> None:
    for key in [k for k in group if k != "params" and k not in saved]:
        del group[key]
    for key, value in saved.items():
        current = group.get(key)
        if isinstance(current, torch.Tensor) and isinstance(value, torch.Tensor):
            current.copy_(value)
        else:
            group[key] = value


def _saved_state(scheduler: Any) -> dict[str, Any]:
    """One level of copies is enough: schedulers replace the numbers in their lists, they do not change them."""
    return {
        key: list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
        for key, value in scheduler.__dict__.items()
    }
