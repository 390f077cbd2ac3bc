"""What the guardrails have left for agents: the settings of the gate beside what was used up of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from agenttune.config import ApprovalRule, rule_name
from agenttune.gate.change_limits import moves_within
from agenttune.gate.context import World, step_of
from agenttune.gate.knob_targets import changed_by
from agenttune.protocol.guardrail_use import Allowance, Guardrails
from agenttune.protocol.overview import Spent
from agenttune.protocol.proposals import State
from agenttune.protocol.text import number


def guardrails_of(world: World, spent: Spent) -> Guardrails:
    """The limits of a run with what is left of each.

    Args:
        world: The run as it stands, with what agents did.
        spent: What calls of models took so far.
    """
    settings = world.settings
    return Guardrails(
        step=world.info.step,
        allowances=[
            *_counts(world),
            *_spent(world, spent),
            *_window(world),
            *_cooldowns(world),
            *_quiet(world),
        ],
        bounds={name: (bounds.minimum, bounds.maximum) for name, bounds in settings.bounds.items()},
        forbid=settings.forbid,
        allowed_layers=settings.allowed_layers,
        approval=[rule_words(rule, i) for i, rule in enumerate(settings.approval, 1)],
    )


def _of(name: str, what: str, limit: float, used: float, unit: str, free_at_step: int | None = None) -> Allowance:
    left = max(0.0, limit - used) if math.isfinite(used) else math.nan
    words = f"{what}: {number(used)} of {number(limit)} {unit} used, {number(left)} left ({name})."
    return Allowance(name=name, words=words, limit=limit, used=used, left=left, unit=unit, free_at_step=free_at_step)


def _counts(world: World) -> Iterator[Allowance]:
    budgets, history = world.budgets, world.history
    if budgets.max_commands is not None:
        yield _of(
            "budgets.max_commands",
            "Commands of agents in this run",
            budgets.max_commands,
            history.count_taken(),
            "commands",
        )
    if budgets.max_returns is not None:
        yield _of(
            "budgets.max_returns", "Returns to a checkpoint", budgets.max_returns, history.count_returns(), "returns"
        )
    if budgets.max_probe_steps is not None:
        yield _of(
            "budgets.max_probe_steps", "Extra steps of probes", budgets.max_probe_steps, history.extra_steps, "steps"
        )
    if budgets.max_probe_frac is not None:
        whole = world.info.step if world.info.max_steps is None else world.info.max_steps
        limit = int(budgets.max_probe_frac * whole)
        yield _of("budgets.max_probe_frac", "Extra steps of probes", limit, history.extra_steps, "steps")


def _spent(world: World, spent: Spent) -> Iterator[Allowance]:
    budgets = world.budgets
    if budgets.max_calls is not None:
        yield _of("budgets.max_calls", "Calls of models", budgets.max_calls, spent.calls, "calls")
    if budgets.max_tokens is not None:
        yield _of("budgets.max_tokens", "Tokens of models", budgets.max_tokens, spent.tokens, "tokens")
    if budgets.max_usd is not None:
        used = math.nan if spent.usd is None else spent.usd  # of a model without a price: not known
        yield _of("budgets.max_usd", "Money for models", budgets.max_usd, used, "USD")


def _window(world: World) -> Iterator[Allowance]:
    window, recent = world.settings.window, world.recent
    free = None if not recent else step_of(recent[0]) + window.steps
    if window.max_commands is not None:
        what = f"Commands of agents in {window.steps} steps"
        yield _of("gate.window.max_commands", what, window.max_commands, len(recent), "commands", free)
    if window.max_change_factor is not None:
        for (knob, group, index), (down, up) in moves_within(world).items():
            used = max(up, 1 / down)
            if group in (None, 0) and index is None and used > 1:
                left = max(1.0, window.max_change_factor / used)
                yield Allowance(
                    name="gate.window.max_change_factor",
                    words=f"{knob} was changed {used:.3g}-fold in {window.steps} steps; {left:.3g}-fold is left of "
                    f"{window.max_change_factor:g} (gate.window.max_change_factor).",
                    knob=knob,
                    limit=window.max_change_factor,
                    used=used,
                    left=left,
                    unit="factor",
                    free_at_step=free,
                )
    if world.settings.max_change_factor is not None:
        limit = world.settings.max_change_factor
        yield Allowance(
            name="gate.max_change_factor",
            words=f"One command changes a value at most {limit:g}-fold (gate.max_change_factor).",
            limit=limit,
            left=limit,
            unit="factor",
        )


def _cooldowns(world: World) -> Iterator[Allowance]:
    """Knobs that wait, each until the later of its two times."""
    until: dict[str, tuple[int, str]] = {}
    for record in world.history.commands:
        stands = world.steps_since(record) is not None
        waits = [("gate.cooldown_steps", world.settings.cooldown_steps)] if stands else []
        if record.state is State.REVERTED:
            waits.append(("probation.cooldown_steps", world.probation.cooldown_steps))
        for name, steps in waits:
            free = step_of(record) + steps
            for knob in changed_by(record):
                if free > max(world.info.step, until.get(knob, (0, ""))[0]):
                    until[knob] = (free, name)
    for knob, (free, name) in until.items():
        left = free - world.info.step
        yield Allowance(
            name=name,
            words=f"{knob} rests for {left} more steps, until step {free} ({name}).",
            knob=knob,
            left=left,
            unit="steps",
            free_at_step=free,
        )


def _quiet(world: World) -> Iterator[Allowance]:
    first, last, info = world.settings.quiet_first_steps, world.settings.quiet_last_steps, world.info
    if info.step < first:
        yield Allowance(
            name="gate.quiet_first_steps",
            words=f"Agents change nothing before step {first} (gate.quiet_first_steps).",
            limit=first,
            left=first - info.step,
            unit="steps",
            free_at_step=first,
        )
    if last and info.max_steps is not None:
        left = max(0, info.max_steps - last - info.step)
        yield Allowance(
            name="gate.quiet_last_steps",
            words=f"Agents change nothing from step {info.max_steps - last} on (gate.quiet_last_steps).",
            limit=last,
            left=left,
            unit="steps",
        )


def rule_words(rule: ApprovalRule, place: int) -> str:
    """A rule of approval in one sentence."""
    about = [f"kinds {', '.join(rule.commands)}"] if rule.commands else []
    about += [f"risks {', '.join(risk.value for risk in rule.risks)}"] if rule.risks else []
    about += [f"knobs {', '.join(rule.knobs)}"] if rule.knobs else []
    about += [f"changes up to {rule.max_factor:g}-fold"] if rule.max_factor is not None else []
    who = ", then ".join(rule.approvers)
    silence = "" if rule.approvers == ["auto"] else f", {rule.timeout_s:g} s, then {rule.on_timeout}"
    return f"{rule_name(rule, place)}: {'; '.join(about) or 'everything'}: {who}{silence}."
