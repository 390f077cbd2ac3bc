"""Guardrails: automatic limits. Each refuses with its reason and the nearest allowed value, or says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from agenttune.commands import ModelLayerOperation, ModelLayerParameterUpdate, Probe, Risk
from agenttune.config import Bounds, BudgetSettings, GateSettings, ProbationSettings
from agenttune.events import RunInfo
from agenttune.gate.targets import Target, changed_by, targets_of
from agenttune.proposals import CommandRecord, Proposal, State, Verdict


@dataclass(frozen=True)
class World:
    """What a guardrail may look at.

    Attributes:
        info: The run as it stands.
        history: The newest commands of agents that the trainer took or will take, oldest first.
        count_taken: Counts them all.
        settings: The run's limits.
        budgets: The run's budgets.
        probation: How changes are watched.
        refused: The newest commands of agents that were refused, oldest first.
        waiting: Those that wait for a decision.
        extra_steps: Training steps that probes have taken so far.
    """

    info: RunInfo
    history: Sequence[CommandRecord]
    count_taken: Callable[[], int]
    settings: GateSettings
    budgets: BudgetSettings
    probation: ProbationSettings = field(default_factory=ProbationSettings)
    refused: Sequence[CommandRecord] = ()
    waiting: Sequence[CommandRecord] = ()
    extra_steps: int = 0

    @cached_property
    def recent(self) -> list[CommandRecord]:
        """Commands of `history` within `gate.window.steps`, oldest first."""
        now, steps = self.info.step, self.settings.window.steps
        return [record for record in self.history if 0 <= now - _step_of(record) < steps]


FEWEST_TRIAL_STEPS = 2
"""That a probe takes for a trial."""
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
        same = asked & changed_by(record, world.info)
        since = world.info.step - _step_of(record)
        # A change at a later step was left behind by going back to a checkpoint.
        if same and 0 <= since < wait:
            reason = f"{', '.join(sorted(same))} was changed {since} steps ago; gate.cooldown_steps is {wait}"
            return _refuse("cooldown", reason, {"based_on_step": world.info.step + wait - since})
    return None


def after_revert(proposal: Proposal, world: World) -> Verdict | None:
    """A knob whose last change was undone rests for a while."""
    wait = world.probation.cooldown_steps
    if wait == 0 or proposal.author.principal != "agent":
        return None
    asked = {target.knob for target in targets_of(proposal.command, world.info)}
    for record in reversed(world.history):
        if record.state is not State.REVERTED:
            continue
        same = asked & changed_by(record, world.info)
        since = world.info.step - _step_of(record)
        if same and since < wait:
            reason = (
                f"a change of {', '.join(sorted(same))} at step {_step_of(record)} hurt and was undone; "
                f"probation.cooldown_steps is {wait}"
            )
            return _refuse("after_revert", reason, {"based_on_step": world.info.step + wait - max(since, 0)})
    return None


def budget(proposal: Proposal, world: World) -> Verdict | None:
    """Commands of agents in one run."""
    limit = world.budgets.max_commands
    if limit is None or proposal.author.principal != "agent" or world.count_taken() < limit:
        return None
    return _refuse("budget", f"the budget of {limit} agent commands is used up (budgets.max_commands)")


def extra_steps(proposal: Proposal, world: World) -> Verdict | None:
    """Training steps that the probes of a run take beside its own, and those that would reach its end."""
    command, info = proposal.command, world.info
    if not isinstance(command, Probe):
        return None
    if info.max_steps is not None and info.step + command.steps >= info.max_steps:
        left = max(0, info.max_steps - info.step - 1)
        reason = f"trials of {command.steps} steps would reach the run's end; {left} are left at step {info.step}"
        return _refuse("extra_steps", reason, {"steps": left} if left >= FEWEST_TRIAL_STEPS else None)
    if proposal.author.principal != "agent":
        return None
    for source, limit in _extra_limits(world):
        if world.extra_steps + command.extra_steps > limit:
            used = f"{command.extra_steps} extra steps, with {world.extra_steps} used up"
            reason = f"{used}; {source} allows {limit} in this run"
            each = (limit - world.extra_steps) // (command.extra_steps // command.steps)
            return _refuse("extra_steps", reason, {"steps": each} if each >= FEWEST_TRIAL_STEPS else None)
    return None


def _extra_limits(world: World) -> Iterator[tuple[str, int]]:
    budgets, info = world.budgets, world.info
    if budgets.max_probe_steps is not None:
        yield "budgets.max_probe_steps", budgets.max_probe_steps
    if budgets.max_probe_frac is not None:
        # Without a known end, a part of what has been done.
        whole = info.step if info.max_steps is None else info.max_steps
        yield f"budgets.max_probe_frac ({budgets.max_probe_frac:g})", int(budgets.max_probe_frac * whole)


def repeated(proposal: Proposal, world: World) -> Verdict | None:
    """The same command again, soon after it was refused: whoever asks has not read the reason."""
    wait = world.settings.repeat_cooldown_steps
    if wait == 0 or proposal.author.principal != "agent":
        return None
    if any(record.proposal.command == proposal.command for record in world.waiting):
        return _refuse("repeated", "the same waits for a decision already")
    for record in reversed(world.refused):
        since = world.info.step - (record.submitted_step or 0)
        if record.proposal.command == proposal.command and 0 <= since < wait:
            why = record.verdict.reason if record.verdict else ""
            reason = (
                f"the same was refused {since} steps ago ({why}); "
                f"gate.repeat_cooldown_steps is {wait}, ask for something else"
            )
            return _refuse("repeated", reason)
    return None


def quiet_steps(proposal: Proposal, world: World) -> Verdict | None:
    """The first and last steps of a run, in which agents change nothing."""
    if proposal.author.principal != "agent" or proposal.command.risk is Risk.OBSERVE:
        return None
    first, last, info = world.settings.quiet_first_steps, world.settings.quiet_last_steps, world.info
    if info.step < first:
        return _refuse(
            "quiet_steps",
            f"agents change nothing before step {first} (gate.quiet_first_steps); the run is at step {info.step}",
            {"based_on_step": first},
        )
    if last and info.max_steps is not None and info.step >= info.max_steps - last:
        return _refuse(
            "quiet_steps",
            f"agents change nothing in the last {last} steps (gate.quiet_last_steps); the run is at step {info.step} "
            f"of {info.max_steps}",
        )
    return None


def layers(proposal: Proposal, world: World) -> Verdict | None:
    """Layers that agents may touch."""
    allowed, command = world.settings.allowed_layers, proposal.command
    if not allowed or proposal.author.principal != "agent":
        return None
    if not isinstance(command, (ModelLayerOperation, ModelLayerParameterUpdate)):
        return None
    if any(fnmatchcase(command.layer_name, pattern) for pattern in allowed):
        return None
    return _refuse(
        "layers",
        f"agents may not change layer {command.layer_name!r:.120}; gate.allowed_layers is {', '.join(allowed)}",
        {"layer_name": allowed},
    )


def window_commands(proposal: Proposal, world: World) -> Verdict | None:
    """Commands of agents within the newest steps."""
    window = world.settings.window
    if window.max_commands is None or proposal.author.principal != "agent":
        return None
    if len(world.recent) < window.max_commands:
        return None
    reason = (
        f"{len(world.recent)} commands of agents within the last {window.steps} steps; "
        f"gate.window.max_commands is {window.max_commands}"
    )
    return _refuse("window", reason)


def window_factor(proposal: Proposal, world: World) -> Verdict | None:
    """The largest relative change of a knob by agents over the newest steps."""
    window = world.settings.window
    factor = window.max_change_factor
    if factor is None or proposal.author.principal != "agent":
        return None
    for target in targets_of(proposal.command, world.info):
        first = _value_before(target.knob, world)
        start = target.current if first is None else first
        if not start or start < 0 or target.value <= 0:
            continue
        allowed = _clip(target.value, Bounds(minimum=start / factor, maximum=start * factor))
        if allowed != target.value:
            reason = (
                f"{target.knob} was {start:g} within the last {window.steps} steps and would be {target.value:g}, a "
                f"change by more than a factor of {factor:g} (gate.window.max_change_factor)"
            )
            return _refuse("window", reason, {target.field: allowed})
    return None


def _step_of(record: CommandRecord) -> int:
    return record.ack.step if record.ack else record.submitted_step or 0


def _value_before(knob: str, world: World) -> float | None:
    """What a knob was before the first change of it within the window; None if there was none."""
    for record in world.recent:
        for change in record.ack.changes if record.ack is not None else ():
            if change.name == knob and isinstance(change.previous, (int, float)):
                return float(change.previous)
    return None


GUARDRAILS: tuple[Guardrail, ...] = (
    forbidden,
    budget,
    extra_steps,
    repeated,
    quiet_steps,
    layers,
    window_commands,
    bounds,
    change_factor,
    window_factor,
    cooldown,
    after_revert,
)
CLAMPING = frozenset({"guardrail:bounds", "guardrail:change_factor", "guardrail:window"})
"""Guardrails whose nearest allowed value may be taken instead, where `gate.clamp` asks for it."""
PER_KNOB = CLAMPING | {"guardrail:cooldown", "guardrail:after_revert"}
"""Guardrails that speak of single values; of a probe, of those of one candidate."""


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
