"""Guardrails: automatic limits. Each refuses with its reason and the nearest allowed value, or says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agenttune.config import Bounds, BudgetSettings, GateSettings
from agenttune.events import RunInfo
from agenttune.gate.targets import Target, targets_of
from agenttune.proposals import CommandRecord, Proposal, Verdict


@dataclass(frozen=True)
class World:
    """What a guardrail may look at.

    Attributes:
        info: The run as it stands.
        history: The newest commands of agents that the trainer took or will take, oldest first.
        taken: How many there are in all.
        settings: The run's limits.
        budgets: The run's budgets.
    """

    info: RunInfo
    history: Sequence[CommandRecord]
    taken: int
    settings: GateSettings
    budgets: BudgetSettings


Guardrail = Callable[[Proposal, World], Verdict | None]


def forbidden(proposal: Proposal, world: World) -> Verdict | None:
    """Commands that the settings exclude."""
    kind = proposal.command.kind
    if kind not in world.settings.forbid:
        return None
    return _refuse("forbidden", f"{kind} is forbidden by gate.forbid")


def bounds(proposal: Proposal, world: World) -> Verdict | None:
    """Absolute bounds: those of the settings and those a knob was registered with."""
    for target in targets_of(proposal.command, world.info):
        for source, limit in _limits(target, world):
            nearest = _clip(target.value, limit)
            if target.implies is not None:
                nearest = _clip(nearest * target.implies, limit) / target.implies
            if not math.isclose(nearest, target.value, rel_tol=1e-12, abs_tol=0.0):
                return _out_of_bounds(target, nearest, limit, source)
    return None


def change_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change by one command of an agent."""
    factor = world.settings.max_change_factor
    if factor is None or proposal.author.principal != "agent":
        return None
    for target in targets_of(proposal.command, world.info):
        if not target.current or target.value <= 0 or target.current < 0:
            continue
        allowed = _clip(target.value, Bounds(minimum=target.current / factor, maximum=target.current * factor))
        if allowed != target.value:
            reason = (
                f"{target.knob} would change from {target.current:g} to {target.value:g}, by more than a factor of "
                f"{factor:g} (gate.max_change_factor)"
            )
            return _refuse("change_factor", reason, {target.field: allowed})
    return None


def cooldown(proposal: Proposal, world: World) -> Verdict | None:
    """Steps between two changes of the same knob by agents."""
    wait = world.settings.cooldown_steps
    if wait == 0 or proposal.author.principal != "agent":
        return None
    asked = {target.knob for target in targets_of(proposal.command, world.info)}
    for record in reversed(world.history):
        same = asked & {target.knob for target in targets_of(record.proposal.command, world.info)}
        since = world.info.step - (record.ack.step if record.ack else record.submitted_step or 0)
        # A change at a later step was left behind by going back to a checkpoint.
        if same and 0 <= since < wait:
            reason = f"{', '.join(sorted(same))} was changed {since} steps ago; gate.cooldown_steps is {wait}"
            return _refuse("cooldown", reason, {"based_on_step": world.info.step + wait - since})
    return None


def budget(proposal: Proposal, world: World) -> Verdict | None:
    """Commands of agents in one run."""
    limit = world.budgets.max_commands
    if limit is None or proposal.author.principal != "agent" or world.taken < limit:
        return None
    return _refuse("budget", f"the budget of {limit} agent commands is used up (budgets.max_commands)")


GUARDRAILS: tuple[Guardrail, ...] = (forbidden, budget, bounds, change_factor, cooldown)


def _limits(target: Target, world: World) -> Iterator[tuple[str, Bounds]]:
    if target.knob in world.settings.bounds:
        yield f"gate.bounds.{target.knob}", world.settings.bounds[target.knob]
    for knob in world.info.knobs:
        if knob.name == target.knob and (knob.minimum is not None or knob.maximum is not None):
            yield "the knob's own bounds", Bounds(minimum=knob.minimum, maximum=knob.maximum)


def _clip(value: float, limit: Bounds) -> float:
    if limit.minimum is not None and value < limit.minimum:
        return limit.minimum
    if limit.maximum is not None and value > limit.maximum:
        return limit.maximum
    return value


def _out_of_bounds(target: Target, nearest: float, limit: Bounds, source: str) -> Verdict:
    what = f"{target.knob} {target.value:g}"
    if target.implies is not None and target.value == _clip(target.value, limit):
        what += f" means {target.value * target.implies:g} for the other of base and effective rate, which"
    low = "-inf" if limit.minimum is None else f"{limit.minimum:g}"
    high = "inf" if limit.maximum is None else f"{limit.maximum:g}"
    return _refuse("bounds", f"{what} is outside [{low}, {high}] ({source})", {target.field: nearest})


def _refuse(guardrail: str, reason: str, nearest: dict[str, Any] | None = None) -> Verdict:
    return Verdict(decision="rejected", decided_by=f"guardrail:{guardrail}", reason=reason, nearest_allowed=nearest)
