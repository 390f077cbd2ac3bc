"""`update_schedule`: a new plan for the learning rate, from this step to a new end."""

from __future__ import annotations

from typing import Any

from agenttune.errors import UserError
from agenttune.gate.lr_forecast import prospects
from agenttune.protocol.commands import UpdateSchedule
from agenttune.protocol.lr_plans import make_plan, plan_as_told, plan_text
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.commands.outcomes import Done, Expectation, Outcome, applies
from agenttune.trainer.commands.update_optimizer import await_learning_rate
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.planned_lr import PREVIOUS
from agenttune.trainer.lr.schedules import Schedule
from agenttune.trainer.run_state import RunState


@applies(UpdateSchedule)
def update_schedule(run_state: RunState, record: CommandRecord, command: UpdateSchedule) -> Outcome:
    schedule = run_state.schedule()
    schedule.refuse_unplannable()
    rates, old_plan = schedule.rates(), _told(schedule, run_state.step)
    old_words = _words(schedule, run_state.step)
    factors = _factors(run_state, command)
    plan, bases, wanted = _previous(schedule) if command.shape == "previous" else _new(command, run_state, schedule)
    undo = schedule.snapshot()
    run_state.agree()
    try:
        schedule.install_plan(bases, plan)
        schedule.refuse_impossible()
        found = schedule.effective()[0]
        if wanted is not None and not same(found, wanted):
            raise UserError(f"the plan starts at {wanted:g} but the rate reads {found:g}; put back")
    except BaseException:
        undo()
        raise
    effective = schedule.effective()
    rate = Change(
        name="lr",
        previous=rates.effective[0],
        requested=wanted if command.peak_lr is None else command.peak_lr,
        effective=effective[0],
        previous_base=rates.base[0],
        base=schedule.base()[0],
        groups=effective,
        previous_groups=rates.effective,
        factors=factors,
    )
    words = _words(schedule, run_state.step)
    planned = Change(name="schedule", previous=old_words, requested=command.shape, effective=words)
    told = _told(schedule, run_state.step)
    done = Done(
        changes=[rate, planned],
        result={"schedule": {"previous": old_plan, "requested": command.arguments(), "effective": told}},
        expectations=[_expect_plan(run_state, _plan_in_force(schedule))],
        undo=undo,
    )
    everywhere = range(len(effective))
    return await_learning_rate(run_state, done, None, lambda: run_state.schedule().restore(rates, everywhere))


def _factors(run_state: RunState, command: UpdateSchedule) -> list[tuple[float, float]] | None:
    """How far each group's rates to come are moved, by the gate's own arithmetic; None where it cannot tell."""
    info = run_state.as_info()
    found = prospects(command, info)
    return [prospect.factors() for prospect in found] or None


def _words(schedule: Schedule, step: int) -> str:
    """The current schedule, in words."""
    plan = schedule.plan()
    if plan:
        return plan_text(plan, schedule.base()[0], step - schedule.clock)
    return f"the run's own {schedule.own_name}, base {schedule.base()[0]:g}"


def _new(
    command: UpdateSchedule, run_state: RunState, schedule: Schedule
) -> tuple[dict[str, Any], list[float], float | None]:
    """The plan asked for, its bases, and the rate that it starts at; it remembers the schedule that it replaces."""
    now = schedule.effective()
    peak = command.peak_lr if command.peak_lr is not None else now[0]
    if peak <= 0:
        raise UserError("the effective rate is 0 now, so the plan needs a peak_lr", field="peak_lr")
    plan = make_plan(command, run_state.step, run_state.adapter.max_steps(), peak, schedule.clock)
    plan[PREVIOUS] = {"plan": schedule.plan(), "bases": schedule.base()}
    return plan, _bases(schedule, peak, now), plan["start"] * peak if command.warmup_steps else peak


def _previous(schedule: Schedule) -> tuple[dict[str, Any], list[float], float | None]:
    """The plan that the one in force replaced, empty for the run's own schedule, and its bases."""
    found = schedule.plan().get(PREVIOUS)
    if found is None:
        raise UserError("the run follows its own schedule; there is no plan to go back from", field="shape")
    return dict(found["plan"]), list(found["bases"]), None


def _bases(schedule: Schedule, peak: float, rates: list[float]) -> list[float]:
    """The peak of each group, in the ratio that the groups' rates have now."""
    if rates[0] > 0:
        return [peak * rate / rates[0] for rate in rates]
    ratios = schedule.current_ratios()
    if ratios is None and len(rates) > 1:
        raise UserError("all rates are 0, so the groups' ratio is not known; set a rate with update_optimizer first")
    return [peak * ratio for ratio in ratios or [1.0]]


def _plan_in_force(schedule: Schedule) -> dict[str, Any] | str:
    """For people: without what it replaced."""
    plan = schedule.plan()
    plan.pop(PREVIOUS, None)
    return plan or schedule.name


def _told(schedule: Schedule, step: int) -> dict[str, Any] | str:
    """The plan in force for people, with rates and steps that need no explanation."""
    plan = _plan_in_force(schedule)
    return plan if isinstance(plan, str) else plan_as_told(plan, schedule.base()[0], step - schedule.clock)


def _expect_plan(run_state: RunState, plan: dict[str, Any] | str) -> Expectation:
    return Expectation("schedule", [plan], lambda: [_plan_in_force(run_state.schedule())])
