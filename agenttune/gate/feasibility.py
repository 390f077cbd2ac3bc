"""Refuses what the trainer could only fail at, by what is known of the run, before anybody is asked to approve it."""

from __future__ import annotations

import math
from typing import Any

from agenttune.errors import UserError
from agenttune.gate.context import World, refused
from agenttune.protocol.commands import AskedValue, CommandBase, ModelLayerParameterUpdate, UpdateSchedule
from agenttune.protocol.lr_plans import make_plan
from agenttune.protocol.metrics import is_number
from agenttune.protocol.proposals import Proposal, Verdict
from agenttune.protocol.run_info import ModuleInfo, ParameterInfo, RunInfo

NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
"""How a log writes numbers that JSON does not have."""


def feasible(proposal: Proposal, world: World) -> Verdict | None:
    """Commands that fit the run: its steps, its schedule, its parameter groups, its knobs and their types."""
    command = proposal.command
    try:
        if (plan := command.lr_plan()) is not None:
            _check_plan(plan, world)
        for asked in () if command.tries() else command.asked():  # candidates are judged one by one
            if asked.owner == "optimizer":
                _check_group(asked, world.info)
                _check_type(asked, world.info)
            elif asked.owner == "script":
                _check_knob(asked, world.info)
    except UserError as error:
        nearest = _nearest(command, error)
        return refused("feasible", str(error), nearest)
    return None


def fits_layer(command: ModelLayerParameterUpdate, model: ModuleInfo) -> Verdict | None:
    """Refuses a value that a layer's hyperparameter cannot have, by what the trainer has told of the model.

    What it has not told of, such as tensors and layers of other names, is the trainer's to check.
    """
    layer = _layer_named(model, command.layer_name)
    known = next((one for one in layer.hyperparameters if one.name == command.param_name), None) if layer else None
    if known is None or known.type == "tensor":
        return None
    try:
        _check_parameter(known, command.value)
    except UserError as error:
        return refused("feasible", str(error), _nearest(command, error))
    return None


def _layer_named(layer: ModuleInfo, name: str) -> ModuleInfo | None:
    if layer.name == name:
        return layer
    return next(filter(None, (_layer_named(child, name) for child in layer.children)), None)


def _check_parameter(known: ParameterInfo, value: object) -> None:
    name, low, high = known.name, known.minimum, known.maximum
    # Where a probability stands as the whole number 0, it may be a fraction.
    takes_numbers = known.type == "float" or (known.type == "int" and high is not None)
    if takes_numbers and not is_number(value):
        raise UserError(f"{name} is a number (now {known.value!r}), not {value!r:.80}", field="value")
    if not takes_numbers and type(value).__name__ != known.type:
        raise UserError(f"{name} is a {known.type} (now {known.value!r}), not {value!r:.80}", field="value")
    if not is_number(value):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = {key: limit for key, limit in (("minimum", low), ("maximum", high)) if limit is not None}
        span = f"between {-math.inf if low is None else low:g} and {math.inf if high is None else high:g}"
        raise UserError(f"{name} is {span}, not {value!r}", field="value", allowed=allowed)
    if known.above is not None and value <= known.above:
        raise UserError(f"{name} is above {known.above:g}, not {value!r}", field="value")


def _nearest(command: CommandBase, error: UserError) -> dict[str, Any] | None:
    """The nearest value for the field that the error names, if it gives a minimum or maximum."""
    limits = error.allowed
    if error.field is None or not isinstance(limits, dict):
        return None
    value, most = command.arguments().get(error.field), limits.get("maximum")
    limit = most if most is not None and (value is None or value > most) else limits.get("minimum")
    return None if limit is None else {error.field: limit}


# -- plans ---------------------------------------------------------------------------------------------------------


def _check_plan(command: UpdateSchedule, world: World) -> None:
    info = world.info
    course = info.schedule
    if course is not None and not course.can_be_planned:
        raise UserError(
            f"the schedule is {course.kind}, which cannot be replanned (one of your own can if it has step, state_dict "
            "and load_state_dict, and no __slots__); change its rate"
        )
    if _will_change(world):
        return  # how the run will stand is the trainer's to see
    if command.shape == "previous":
        if course is not None and course.before is None:
            raise UserError("the run follows its own schedule; there is no plan to go back from", field="shape")
        return
    knob = info.knob("lr")
    now = knob.effective if knob is not None else None
    peak = command.peak_lr if command.peak_lr is not None else now
    if not isinstance(peak, (int, float)):
        # Of the rate nothing is known; the steps can still be looked at.
        peak = max(command.start_lr or 0.0, 1.0)
    if peak <= 0:
        raise UserError("the effective rate is 0 now, so the plan needs a peak_lr", field="peak_lr")
    if command.end_step is None and info.max_steps is None and not info.capabilities:
        return  # it has not begun to tell where it ends
    make_plan(command, info.step, info.max_steps, float(peak))


def _will_change(world: World) -> bool:
    """Whether a queued command will move the run to another step, end or schedule before this one is applied."""
    return any(record.command.reschedules for record in world.history.queued)


# -- parameter groups and knobs ------------------------------------------------------------------------------------


def _check_group(asked: AskedValue, info: RunInfo) -> None:
    count = max((len(knob.groups or ()) for knob in info.knobs), default=0)
    if count and asked.group is not None and asked.group >= count:
        raise UserError(
            f"param_group {asked.group} does not exist; this optimizer has {count}, 0 to {count - 1}",
            field="param_group",
            allowed=list(range(count)),
        )


def _check_type(asked: AskedValue, info: RunInfo) -> None:
    name, value = asked.name, asked.value
    if asked.is_rate or value is None:
        return
    knob = info.knob(name)
    now = knob.effective if knob is not None else None
    if isinstance(now, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(now)
        what = f"a list of {len(now)} numbers"
    elif isinstance(now, bool):
        fits, what = isinstance(value, bool), "true or false"
    elif isinstance(now, (int, float)):
        fits, what = is_number(value), "a number"
    else:
        return
    if not fits:
        raise UserError(f"{name} is {what} (now {now!r}), not {value!r}", field=name)


def _check_knob(asked: AskedValue, info: RunInfo) -> None:
    if not info.knobs:
        return  # the trainer has not told them yet
    known = sorted(knob.name for knob in info.knobs if knob.is_registered)
    if asked.name not in known:
        other = info.knob(asked.name)
        hint = f"; {other.command} sets it" if other is not None else ""
        raise UserError(
            f"no knob {asked.name!r}{hint}; registered: {', '.join(known) or 'none (see register_knob)'}",
            field="name",
            allowed=known,
        )
    knob = info.knob(asked.name)
    now, value = (knob.effective if knob is not None else None), asked.value
    if knob is None or now is None or (isinstance(now, str) and now in NOT_FINITE):
        return
    wanted: tuple[type, ...] = (type(now),)
    if type(now) is float or (type(now) is int and knob.minimum is not None and knob.maximum is not None):
        wanted = (int, float)  # of a count or not, bounds do not tell any more
    if type(value) not in wanted:
        raise UserError(f"knob {knob.name!r} is a {type(now).__name__} (now {now!r}), not {value!r}", field="value")
