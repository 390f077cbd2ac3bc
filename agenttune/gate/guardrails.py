"""Guardrails: automatic limits. Each refuses with its reason and the nearest allowed value, or says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from agenttune.gate.approval_rules import asks_person, is_by_approvers
from agenttune.gate.change_limits import change_factor, window_factor
from agenttune.gate.context import Guardrail, World, refused, step_of
from agenttune.gate.feasibility import feasible
from agenttune.gate.knob_targets import changed_by
from agenttune.gate.pauses import is_person, pause_against
from agenttune.gate.value_bounds import bounds
from agenttune.protocol.commands import Probe, Risk
from agenttune.protocol.proposals import Proposal, State, Verdict

FEWEST_TRIAL_STEPS = 2
"""Of a trial: the `Probe` command takes no fewer."""


def forbidden(proposal: Proposal, world: World) -> Verdict | None:
    """Refuses kinds of commands in `gate.forbid`."""
    kind = proposal.command.kind
    if kind not in world.settings.forbid:
        return None
    return refused("forbidden", f"{kind} is forbidden by gate.forbid")


def persons_pause(proposal: Proposal, world: World) -> Verdict | None:
    """Keeps agents from ending a person's pause, or going back over it, unless a person allows that."""
    history = world.history
    holder = pause_against(proposal, world.info, history.queued)
    if holder is None or is_person(history.approved_by):
        return None
    if not history.approved_by and asks_person(proposal, world.settings.approval, world.info):
        return None
    reason = (
        f"{holder.name} has paused training, and a person's pause holds against agents: they may neither resume nor "
        "stop it, nor go back to a checkpoint; a person lets it go on, on the page or with: agenttune send "
        f"{world.info.run_id} resume_training"
    )
    return refused("persons_pause", reason)


def cooldown(proposal: Proposal, world: World) -> Verdict | None:
    """Keeps `gate.cooldown_steps` between two changes of the same knob by agents.

    A return to a checkpoint may come at any time, with the rate that it sets: it takes back what was changed since
    then, and `budgets.max_returns` limits it.
    """
    wait = world.settings.cooldown_steps
    if wait == 0 or proposal.author.principal != "agent" or proposal.command.is_return:
        return None
    asked = proposal.command.touched()
    for record in reversed(world.history.commands):
        same = asked & changed_by(record)
        since = world.steps_since(record)
        if same and since is not None and since < wait:
            reason = f"{', '.join(sorted(same))} was changed {since} steps ago; gate.cooldown_steps is {wait}"
            return refused("cooldown", reason, {"based_on_step": world.info.step + wait - since})
    return None


def after_revert(proposal: Proposal, world: World) -> Verdict | None:
    """Keeps `probation.cooldown_steps` after a change of a knob that was undone; a return may come at any time."""
    wait = world.probation.cooldown_steps
    if wait == 0 or proposal.author.principal != "agent" or proposal.command.is_return:
        return None
    asked = proposal.command.touched()
    for record in reversed(world.history.commands):
        if record.state is not State.REVERTED:
            continue
        same = asked & changed_by(record)
        since = world.info.step - step_of(record)
        if same and since < wait:
            reason = (
                f"a change of {', '.join(sorted(same))} at step {step_of(record)} hurt and was undone; "
                f"probation.cooldown_steps is {wait}"
            )
            return refused("after_revert", reason, {"based_on_step": world.info.step + wait - max(since, 0)})
    return None


def budget(proposal: Proposal, world: World) -> Verdict | None:
    """Limits agents' commands in one run (`budgets.max_commands`)."""
    limit = world.budgets.max_commands
    if limit is None or proposal.author.principal != "agent" or world.history.count_taken() < limit:
        return None
    return refused("budget", f"the budget of {limit} agent commands is used up (budgets.max_commands)")


def returns(proposal: Proposal, world: World) -> Verdict | None:
    """Limits how often agents go back to a checkpoint in one run (`budgets.max_returns`)."""
    limit = world.budgets.max_returns
    if limit is None or proposal.author.principal != "agent" or not proposal.command.is_return:
        return None
    done = world.history.count_returns()
    if done < limit:
        return None
    reason = (
        f"agents have gone back to a checkpoint {done} times in this run, and budgets.max_returns allows {limit}: what "
        "going back did not mend so often needs another change, or a person, who may still go back"
    )
    return refused("returns", reason)


def extra_steps(proposal: Proposal, world: World) -> Verdict | None:
    """Limits the extra training steps of probes, and refuses trials that would reach the run's end."""
    command, info = proposal.command, world.info
    if not isinstance(command, Probe):  # how long a trial takes, and the field that says so, are a probe's own
        return None
    if info.max_steps is not None and not command.is_return and info.step + command.steps >= info.max_steps:
        left = max(0, info.max_steps - info.step - 1)
        reason = f"trials of {command.steps} steps would reach the run's end; {left} are left at step {info.step}"
        return refused("extra_steps", reason, {"steps": left} if left >= FEWEST_TRIAL_STEPS else None)
    if proposal.author.principal != "agent":
        return None
    for source, limit in _extra_limits(world):
        if world.history.extra_steps + command.extra_steps > limit:
            used = f"{command.extra_steps} extra steps, with {world.history.extra_steps} used up"
            reason = f"{used}; {source} allows {limit} in this run"
            each = (limit - world.history.extra_steps) // (command.extra_steps // command.steps)
            return refused("extra_steps", reason, {"steps": each} if each >= FEWEST_TRIAL_STEPS else None)
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
    """Refuses a command that those who were asked have refused a short time ago, or that waits for them already.

    What guardrails and conditions refused is not repeated here: they look again, at the run as it stands now.
    """
    wait = world.settings.repeat_cooldown_steps
    if wait == 0 or proposal.author.principal != "agent":
        return None
    if any(record.proposal.command == proposal.command for record in world.history.waiting):
        return refused("repeated", "the same waits for a decision already")
    for record in reversed(world.history.refused):
        verdict, since = record.verdict, world.steps_since(record)
        if verdict is None or since is None or since >= wait or record.proposal.command != proposal.command:
            continue
        if is_by_approvers(verdict, record.request):
            why = f" ({verdict.reason})" if verdict.reason else ""
            reason = (
                f"the same was refused {since} steps ago by {verdict.decided_by}{why}; "
                f"gate.repeat_cooldown_steps is {wait}, ask for something else"
            )
            return refused("repeated", reason)
    return None


def quiet_steps(proposal: Proposal, world: World) -> Verdict | None:
    """Lets agents change nothing in the first and last steps of a run."""
    if proposal.author.principal != "agent" or proposal.command.risk is Risk.OBSERVE:
        return None
    first, last, info = world.settings.quiet_first_steps, world.settings.quiet_last_steps, world.info
    if info.step < first:
        return refused(
            "quiet_steps",
            f"agents change nothing before step {first} (gate.quiet_first_steps); the run is at step {info.step}",
            {"based_on_step": first},
        )
    if last and info.max_steps is not None and info.step >= info.max_steps - last:
        return refused(
            "quiet_steps",
            f"agents change nothing in the last {last} steps (gate.quiet_last_steps); the run is at step {info.step} "
            f"of {info.max_steps}",
        )
    return None


def layers(proposal: Proposal, world: World) -> Verdict | None:
    """Lets agents change only `gate.allowed_layers`."""
    allowed, command = world.settings.allowed_layers, proposal.command
    if not allowed or proposal.author.principal != "agent":
        return None
    layer = command.changed_layer()
    if layer is None or any(fnmatchcase(layer, pattern) for pattern in allowed):
        return None
    return refused(
        "layers",
        f"agents may not change layer {layer!r:.120}; gate.allowed_layers is {', '.join(allowed)}",
        {"layer_name": allowed},
    )


def window_commands(proposal: Proposal, world: World) -> Verdict | None:
    """Limits agents' commands within `gate.window`."""
    window = world.settings.window
    if window.max_commands is None or proposal.author.principal != "agent":
        return None
    if len(world.recent) < window.max_commands:
        return None
    reason = (
        f"{len(world.recent)} commands of agents within the last {window.steps} steps; "
        f"gate.window.max_commands is {window.max_commands}"
    )
    return refused("window", reason)


GUARDRAILS: tuple[Guardrail, ...] = (
    forbidden,
    persons_pause,
    budget,
    returns,
    extra_steps,
    repeated,
    quiet_steps,
    layers,
    window_commands,
    feasible,
    bounds,
    change_factor,
    window_factor,
    cooldown,
    after_revert,
)
LIMITS: tuple[Guardrail, ...] = (feasible, bounds, change_factor, window_factor)
"""Guardrails that the nearest allowed values must all pass."""
CLAMPING = frozenset({"guardrail:bounds", "guardrail:change_factor", "guardrail:window"})
"""Guardrails whose nearest allowed value may be taken instead, where `gate.clamp` asks for it."""
REPAIRED = CLAMPING | {"guardrail:feasible"}
"""Guardrails whose nearest allowed values are checked against `LIMITS`."""
PER_KNOB = REPAIRED | {"guardrail:cooldown", "guardrail:after_revert"}
"""Guardrails about single values; they judge a probe's candidates one by one."""
