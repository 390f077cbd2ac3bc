"""Plans for the learning rate, as numbers: what `update_schedule` asks for, and the rate at each step that it means.

One copy of the arithmetic: the trainer follows it, and the gate foretells by it, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import UpdateSchedule

DEFAULT_DECAY_FRAC = 0.2
"""wsd: the share of the remaining steps in which the rate decays (as the command's description promises)."""
DECAYING = frozenset({"linear", "cosine", "wsd"})
"""Shapes that end at `final_lr`."""


def planned_factor(plan: Mapping[str, Any], t: float) -> float:
    """The rate at scheduler step `t` as a multiple of the plan's peak.

    Args:
        plan: shape; start_t, start (factor there); peak_t (end of the warm-up); decay_t (wsd only); end_t, final.
        t: Scheduler steps done.
    """
    start_t, peak_t, end_t = plan["start_t"], plan["peak_t"], plan["end_t"]
    if t < peak_t:
        return float(plan["start"] + (1.0 - plan["start"]) * max(0.0, t - start_t) / (peak_t - start_t))
    if plan["shape"] == "constant":
        return 1.0
    if t >= end_t:
        return float(plan["final"])
    if plan["shape"] == "wsd":
        peak_t = plan["decay_t"]
    progress = max(0.0, (t - peak_t) / (end_t - peak_t))
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if plan["shape"] == "cosine" else 1.0 - progress
    return float(plan["final"] + (1.0 - plan["final"]) * left)


def corners(plan: Mapping[str, Any]) -> list[int]:
    """Scheduler steps between which a plan only rises or only falls."""
    return [int(plan[name]) for name in ("start_t", "peak_t", "decay_t", "end_t")]


def make_plan(
    command: UpdateSchedule, step: int, max_steps: int | None, peak: float, clock: int | None = None
) -> dict[str, Any]:
    """The plan that a command asks for, in the scheduler's own steps, rates as multiples of the peak.

    Args:
        command: Any shape but `previous`.
        step: Completed steps of the run.
        max_steps: Where the run ends, if that is known.
        peak: Effective rate at the start of the shape, above 0.
        clock: Steps that the schedule has counted; those of the run if left out.

    Raises:
        UserError: The steps of it do not fit between now and its end, or its warm-up would go down.
    """
    clock = step if clock is None else clock
    left = _steps_left(command, step, max_steps)
    decay = command.decay_steps or max(1, round(DEFAULT_DECAY_FRAC * left))
    if command.shape != "constant" and command.warmup_steps >= left:
        raise UserError(
            f"warmup_steps {command.warmup_steps} leaves nothing of the {left} steps to the plan's end",
            field="warmup_steps",
            allowed={"maximum": left - 1},
        )
    if command.shape == "wsd" and command.decay_steps and decay > left - command.warmup_steps:
        raise UserError(
            f"decay_steps {decay} is more than the {left - command.warmup_steps} steps after the warm-up",
            field="decay_steps",
            allowed={"maximum": left - command.warmup_steps},
        )
    start = command.start_lr or 0.0
    if start > peak:
        raise UserError(
            f"a warm-up from start_lr {start:g} to {peak:g} would go down; leave out warmup_steps, or raise peak_lr",
            field="start_lr",
            allowed={"maximum": peak},
        )
    peak_t = clock + command.warmup_steps
    return {
        "shape": command.shape,
        "start_t": clock,
        "start": start / peak,
        "peak_t": peak_t,
        "decay_t": max(peak_t, clock + left - decay),
        "end_t": clock + left,
        "final": command.final_lr / peak,
    }


def _steps_left(command: UpdateSchedule, step: int, max_steps: int | None) -> int:
    end = command.end_step or max_steps
    if command.shape == "constant":
        end = max(end or 0, step + command.warmup_steps + 1)
    if end is None:
        raise UserError("the run's last step is not known; give end_step", field="end_step")
    if end <= step:
        raise UserError(
            f"end_step {end} is not after the current step {step}",
            field="end_step",
            allowed={"minimum": step + 1},
        )
    return end - step


def plan_as_told(plan: Mapping[str, Any], peak: float, steps_ahead: int = 0) -> dict[str, Any]:
    """A plan with its rates as learning rates and its places as steps of the run, beside its own numbers.

    Args:
        plan: As `make_plan` makes it: `start` and `final` are multiples of the peak, `..._t` are steps as the schedule
            counts them.
        peak: The rate of the first parameter group that they are multiples of.
        steps_ahead: How many steps the run is ahead of what the schedule has counted.
    """
    final = 1.0 if plan["shape"] == "constant" else plan["final"]
    rates = {"start_lr": plan["start"] * peak, "peak_lr": peak, "final_lr": final * peak}
    places = {f"{name}_step": plan[f"{name}_t"] + steps_ahead for name in ("start", "peak", "decay", "end")}
    return {**plan, **rates, **places}


def plan_text(plan: Mapping[str, Any], peak: float, steps_ahead: int = 0) -> str:
    """A plan as people say it.

    Args:
        plan: As `make_plan` makes it.
        peak: The rate that its factors are multiples of.
        steps_ahead: How many steps the run is ahead of what the schedule has counted.
    """
    peak_step, end = plan["peak_t"] + steps_ahead, plan["end_t"] + steps_ahead
    words = []
    if plan["peak_t"] > plan["start_t"]:
        began = plan["start_t"] + steps_ahead
        words.append(f"warm-up from {plan['start'] * peak:g} at step {began} to {peak:g} at step {peak_step}")
    if plan["shape"] == "constant":
        words.append(f"constant {peak:g} from step {peak_step}")
    elif plan["shape"] == "wsd":
        words.append(f"constant {peak:g} until step {plan['decay_t'] + steps_ahead}")
        words.append(f"linear to {plan['final'] * peak:g} at step {end}")
    else:
        words.append(f"{plan['shape']} from {peak:g} at step {peak_step} to {plan['final'] * peak:g} at step {end}")
    return ", then ".join(words)
