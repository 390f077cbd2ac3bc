"""`update_optimizer`: the learning rate under its schedule, and every other hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.commands.outcomes import AwaitLearningRate, Done, Expectation, Outcome, applies
from agenttune.trainer.lr.optimizers import Write, apply_writes, check_group, differing, plan_writes, read_value, same
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule
from agenttune.trainer.run_state import RunState


@applies(UpdateOptimizer)
def update_optimizer(run_state: RunState, record: CommandRecord, command: UpdateOptimizer) -> Outcome:
    optimizer = run_state.adapter.optimizer()
    writes = plan_writes(optimizer, command, run_state.exempt)
    refuse_scheduled(run_state, writes)
    if command.weight_decay is not None and not any(w.name == "weight_decay" for w in writes):
        raise UserError(
            "every parameter group is exempt from weight decay; name one with param_group", field="param_group"
        )
    schedule = run_state.schedule()
    rates = schedule.rates()
    undo_all = schedule.snapshot()
    before = {w.name: read_value(optimizer, w.name) for w in writes}
    undo_state: Callable[[], None] = nothing
    run_state.agree()
    try:
        rate = _set_learning_rate(schedule, command) if command.lr is not None else None
        schedule.refuse_impossible()
        undo_state = apply_writes(optimizer, writes)
        wrong = differing(optimizer, writes)
        if wrong:
            raise UserError(f"did not read back as written, all put back: {'; '.join(wrong)}")
    except BaseException:
        undo_state()
        undo_all()
        raise
    done = Done(changes=_changes(run_state, writes, before), expectations=_expectations(run_state, writes))

    def undo_all_at_once() -> None:
        apply_writes(optimizer, [Write(w.group, w.name, _old(before, w)) for w in writes])
        undo_state()
        undo_all()

    done.undo = undo_all_at_once
    if rate is None:
        return done
    done.changes.insert(0, rate)

    groups = range(len(rates.base)) if command.param_group is None else [command.param_group]

    def undo() -> None:
        run_state.schedule().restore(rates, groups)
        apply_writes(optimizer, [Write(w.group, w.name, _old(before, w)) for w in writes])
        undo_state()

    return await_learning_rate(run_state, done, command.param_group, undo)


def nothing() -> None:
    """Nothing to undo."""


def _old(before: dict[str, list[Any]], write: Write) -> Any:
    value = before[write.name][write.group]
    return tuple(value) if isinstance(write.value, tuple) else value


def refuse_scheduled(run_state: RunState, writes: list[Write]) -> None:
    """OneCycleLR and CyclicLR write momentum or betas at each step, if asked to cycle them."""
    scheduler = run_state.schedule().scheduler
    names = {w.name for w in writes} & {"momentum", "betas"}
    if names and getattr(scheduler, "cycle_momentum", False):
        raise NotSupported(f"{type(scheduler).__name__} sets {', '.join(names)} at each step (cycle_momentum)")


def _set_learning_rate(schedule: Schedule, command: UpdateOptimizer) -> Change:
    """Write the rate, read it back at once, and describe it."""
    rate, only = cast("float", command.lr), command.param_group
    check_group(schedule.optimizer, only)
    lead = only or 0
    before, base_before = schedule.effective(), schedule.base()
    to_base = command.lr_sets == "base"
    (schedule.set_base if to_base else schedule.set_effective)(rate, only)
    found = (schedule.base() if to_base else schedule.effective())[lead]
    if not same(found, rate):
        raise UserError(f"the rate was set to {rate:g} but reads {found:g}; put back", field="lr")
    return learning_rate_change(schedule, lead, before, base_before, rate)


def learning_rate_change(
    schedule: Schedule, lead: int, before: list[float], base_before: list[float], requested: Any
) -> Change:
    """What became of the rates of all groups."""
    effective, base = schedule.effective(), schedule.base()
    return Change(
        name="lr",
        previous=before[lead],
        requested=requested,
        effective=effective[lead],
        previous_base=base_before[lead],
        base=base[lead],
        groups=effective,
        previous_groups=before,
        factors=[_factors(*rates) for rates in zip(before, effective, base_before, base, strict=True)],
    )


def _factors(before: float, now: float, base_before: float, base: float) -> tuple[float, float]:
    """By what the rates to come are multiplied, down and up."""
    old, new = (base_before, base) if base_before else (before, now)
    factor = 1.0 if old == new else math.inf if old == 0 else new / old
    return factor, factor


def await_learning_rate(
    run_state: RunState, done: Done, only: int | None, undo: Callable[[], None]
) -> AwaitLearningRate:
    """Describe what the next step has to confirm, and what should be unchanged a few steps later."""
    schedule = run_state.schedule()
    count = len(schedule.groups)
    groups = frozenset(range(count) if only is None else {only})
    done.expectations.append(learning_rate_expectation(run_state, groups))
    return AwaitLearningRate(done, groups, schedule.effective(), schedule.next_effective(), schedule.clock, undo)


def learning_rate_expectation(run_state: RunState, groups: frozenset[int]) -> Expectation:
    """The base rate should not change; without one, the rate itself, until an evaluation-driven schedule moves it."""
    schedule = run_state.schedule()
    clock, expected = schedule.clock, [schedule.base()[i] for i in sorted(groups)]

    def read() -> list[float] | None:
        now = run_state.schedule()
        moved = (now.kind is ScheduleKind.METRIC and now.clock != clock) or not now.knows_base
        return None if moved else [now.base()[i] for i in sorted(groups)]

    unscaled = schedule.kind in (ScheduleKind.NONE, ScheduleKind.METRIC)
    return Expectation("lr" if unscaled else "lr (base)", expected, read, groups, knob="lr")


def _changes(run_state: RunState, writes: list[Write], before: dict[str, list[Any]]) -> list[Change]:
    optimizer = run_state.adapter.optimizer()
    changes = []
    for name in before:
        mine = [w for w in writes if w.name == name]
        now, lead = read_value(optimizer, name), mine[0].group
        changes.append(
            Change(
                name=name,
                previous=before[name][lead],
                requested=mine[0].value,
                effective=now[lead],
                groups=now,
                previous_groups=before[name],
            )
        )
    return changes


def _expectations(run_state: RunState, writes: list[Write]) -> list[Expectation]:
    return [_expect_value(run_state, name, writes) for name in dict.fromkeys(w.name for w in writes)]


def _expect_value(run_state: RunState, name: str, writes: list[Write]) -> Expectation:
    groups = sorted(w.group for w in writes if w.name == name)

    def read() -> list[Any]:
        values = read_value(run_state.adapter.optimizer(), name)
        return [values[i] for i in groups]

    return Expectation(name, read(), read, frozenset(groups))
