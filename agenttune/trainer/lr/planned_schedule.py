"""A plan of the learning rate over a schedule of any class, its own, torch's or the user's.

The plan counts updates of the optimizer, whenever the schedule itself is stepped: at each update, each epoch or each
evaluation. Beneath it the schedule goes on with the rates that it would have had, so that it can be gone back to. All
of the plan is in the schedule's state, as plain numbers, so that every checkpoint of the loop keeps it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from agenttune.protocol.lr_plans import planned_factor
from agenttune.trainer.lr.schedule_kinds import KEY, as_float, like, members_of, store

_COUNTED: dict[int, Optimizer] = {}
"""Of schedules with a plan, by `id` (one's own may have no hash): the optimizer whose updates it counts."""
_GIVEN: dict[int, Optimizer] = {}
"""Of schedules that do not name their optimizer themselves, by `id`: the one that they were made plannable with."""


class _Plannable:
    """What a schedule's class is given: with no plan it does what it did before."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        if KEY not in self.__dict__:
            return super().step(*args, **kwargs)  # type: ignore[misc]
        groups = _optimizer_of(self).param_groups
        _write(groups, self.__dict__[KEY]["own"])
        try:
            return super().step(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.__dict__[KEY] = {**self.__dict__[KEY], "own": [as_float(group["lr"]) for group in groups]}
            _write_planned(self)

    def state_dict(self) -> Any:
        state = super().state_dict()  # type: ignore[misc]
        return {**state, KEY: dict(self.__dict__[KEY])} if KEY in self.__dict__ else state

    def load_state_dict(self, state: Any) -> Any:
        self.__dict__.pop(KEY, None)  # torch only adds what was saved: a plan would outlive the return
        record = state.get(KEY) if isinstance(state, Mapping) else None
        own = state if record is None else {key: value for key, value in state.items() if key != KEY}
        done = super().load_state_dict(own)  # type: ignore[misc]
        if record is not None:
            self.__dict__[KEY] = dict(record)
            _count_updates(self, _optimizer_of(self))
        return done

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is one of the class that it was: the other is made at run time, and no file could name it."""
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _made, (type(self).__bases__[1],), state


def _made(cls: Any) -> Any:
    return cls.__new__(cls)


@functools.cache
def _plannable(cls: type) -> type:
    return type(cls.__name__, (_Plannable, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def is_plannable(scheduler: object) -> bool:
    """Whether a schedule was made one that can be given a plan."""
    return isinstance(scheduler, _Plannable)


def let_plan(scheduler: Any, optimizer: Optimizer) -> None:
    """Make it one that can be given a plan; left as it is if checkpoints could not keep one.

    Its class is exchanged and not an attribute set: what stands in its `__dict__` is saved with its state.
    """
    if is_plannable(scheduler) or why_unplannable(scheduler, optimizer):
        return
    if _optimizer_of(scheduler) is None:
        _remember(_GIVEN, scheduler, _bare(optimizer))
    cls: type = type(scheduler)
    scheduler.__class__ = _plannable(cls)
    if KEY in scheduler.__dict__:  # the state of an earlier run was loaded already
        _count_updates(scheduler, _optimizer_of(scheduler))


def why_unplannable(scheduler: Any, optimizer: Any) -> str:
    """Why a schedule cannot be given a plan; empty if it can."""
    cls = type(scheduler)
    lacking = [name for name in ("step", "state_dict", "load_state_dict") if not callable(getattr(cls, name, None))]
    if lacking:
        return f"{cls.__name__} has no {' and no '.join(lacking)}, so a plan could not be followed, saved and restored"
    if not isinstance(_optimizer_of(scheduler) or _bare(optimizer), Optimizer):
        return f"the updates of a {type(optimizer).__name__} cannot be counted, as a plan would"
    if not hasattr(scheduler, "__dict__") or any(getattr(base, "__slots__", ()) for base in cls.__mro__):
        return f"{cls.__name__} has __slots__, so nothing can be added to it"
    return ""


def has_plan(scheduler: object) -> bool:
    """Whether a plan is in force over it."""
    return isinstance(scheduler, _Plannable) and KEY in scheduler.__dict__


def record_of(scheduler: Any) -> dict[str, Any]:
    """plan: as `make_plan` makes it; bases, own: [n_groups], what it scales and the schedule's own rates; t: its clock.

    Replaced as a whole, never written into: states that were saved hold it.
    """
    record: dict[str, Any] = scheduler.__dict__[KEY]
    return record


def follow(scheduler: Any, plan: Mapping[str, Any], bases: list[float], t: int) -> None:
    """Let a plan be followed from here; the rates themselves are written by whoever asks for it."""
    optimizer = _optimizer_of(scheduler)
    if has_plan(scheduler):
        record = {**record_of(scheduler), "plan": dict(plan), "bases": list(bases)}
    else:
        own = [as_float(group["lr"]) for group in optimizer.param_groups]
        record = {"plan": dict(plan), "bases": list(bases), "own": own, "t": t}
    scheduler.__dict__[KEY] = record
    _count_updates(scheduler, optimizer)


def set_bases(scheduler: Any, bases: list[float]) -> None:
    """Scale the plan by others."""
    scheduler.__dict__[KEY] = {**record_of(scheduler), "bases": list(bases)}


def drop(scheduler: Any) -> None:
    """Let the schedule go on as if there had been no plan."""
    own = scheduler.__dict__.pop(KEY)["own"]
    _write(_optimizer_of(scheduler).param_groups, own)
    _publish(scheduler)


def _optimizer_of(scheduler: Any) -> Any:
    optimizer = _bare(getattr(scheduler, "optimizer", None))
    return optimizer if isinstance(optimizer, Optimizer) else _GIVEN.get(id(scheduler))


def _bare(optimizer: Any) -> Any:
    inner = getattr(optimizer, "optimizer", None)  # within accelerate's wrapper
    return inner if isinstance(inner, Optimizer) else optimizer


def _remember(table: dict[int, Optimizer], scheduler: Any, optimizer: Optimizer) -> None:
    """For as long as the schedule lives."""
    if id(scheduler) not in table:
        weakref.finalize(scheduler, table.pop, id(scheduler), None)
    table[id(scheduler)] = optimizer


def _count_updates(scheduler: Any, optimizer: Optimizer) -> None:
    if _COUNTED.get(id(scheduler)) is optimizer:
        return
    _remember(_COUNTED, scheduler, optimizer)
    found = weakref.ref(scheduler)

    def count(*_: Any) -> None:
        held = found()
        if held is not None and KEY in held.__dict__:
            held.__dict__[KEY] = {**held.__dict__[KEY], "t": held.__dict__[KEY]["t"] + 1}
            _write_planned(held)

    optimizer.register_step_post_hook(count)


def _write_planned(scheduler: Any) -> None:
    record = record_of(scheduler)
    factor = planned_factor(record["plan"], record["t"])
    _write(_optimizer_of(scheduler).param_groups, [base * factor for base in record["bases"]])
    _publish(scheduler)


def _write(groups: list[dict[str, Any]], rates: list[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        store(group, "lr", rate)


def _publish(scheduler: Any) -> None:
    """What `get_last_lr` says, which is what loggers show."""
    groups = _optimizer_of(scheduler).param_groups
    for member in members_of(scheduler):
        if hasattr(member, "_last_lr"):
            member._last_lr = [like(group["lr"], as_float(group["lr"])) for group in groups]
