"""The compact form of a language-model policy: one line about the run in, one of a few actions out.

For models that cannot read raw curves: they are told in words what the curve does, and choose from a short list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from agenttune.detectors import detect
from agenttune.detectors.trend import Trend, changes
from agenttune.errors import UserError
from agenttune.llm.answer_text import answer_in, without_thinking
from agenttune.llm.prompts import fenced
from agenttune.llm.tools import Toolbox
from agenttune.policy.base import by_agents
from agenttune.policy.llm.conversation import MAX_REPAIRS, Conversation
from agenttune.policy.llm.history import interventions_of
from agenttune.protocol.commands import CommandBase, DoEvaluate, SaveCheckpoint, UpdateOptimizer
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Change, CommandRecord, State
from agenttune.protocol.text import clean, number

FACTORS = {"halve": 0.5, "double": 2.0, "tenfold_down": 0.1, "tenfold_up": 10.0}
ACTIONS = ("hold", *FACTORS, "undo", "save", "evaluate")
WHY_LETTERS = 200
UNDO = "undo of "
"""Beginning of an undo's rationale; the id of the undone command follows."""
STATES = {
    "non_finite": "NOT FINITE, the loss or the gradients are NaN or infinite",
    "divergence": "DIVERGING, the loss has risen far above its best",
    "gradient_explosion": "EXPLODING, the gradient norm has jumped",
    "slow_start": "TOO SLOW, the loss falls steadily but far too slowly",
    "overfitting": "OVERFITTING, evaluations get worse while the training loss falls",
    "plateau": "PLATEAU, the loss has stopped falling",
    "goal_plateau": "NO PROGRESS, the goal metric has not moved for several evaluations",
    "spike": "SPIKE, the loss jumped for a moment",
    "stall": "STALLED, no step for a long time",
}
"""A finding in words, the gravest first."""
CLEAR_SIGMAS = 2.0
"""A trend over the newest points is clear when it moves the loss by so many standard deviations of one step (guess)."""
SLOPE_STEPS = 64
IN_FORCE = frozenset({State.APPLIED, State.KEPT})


def state_of(observation: Observation) -> str:
    """What the curve does, in one of a few phrases."""
    # A spike that is over says nothing about the run now.
    kinds = {f.kind for f in detect(observation) if f.kind != "spike" or f.severity != "info"}
    for kind, words in STATES.items():
        if kind in kinds:
            return words
    trend = Trend.of(observation)
    if trend is None:
        return "UNKNOWN, no loss yet"
    moved = trend.slope() * min(SLOPE_STEPS, len(trend))
    if abs(moved) < CLEAR_SIGMAS * trend.noise_value:
        return "FLAT, the loss moves less than its noise"
    return "HEALTHY, the loss is falling" if moved < 0 else "RISING, the loss goes up"


def line_of(observation: Observation) -> str:
    """A run in one line."""
    of = f" of {observation.max_steps}" if observation.max_steps else ""
    trend, lr = Trend.of(observation), _learning_rate(observation)
    parts = [f"state: {state_of(observation)}", f"step {observation.step}{of}"]
    if trend is not None:
        noise = 100 * trend.noise_value / abs(trend.level) if trend.level else 0.0
        parts.append(
            f"loss now {number(trend.level)}, first {number(trend.start)}, best {number(trend.best)}, "
            f"noise {noise:.0f} %"
        )
    parts += [
        f"learning rate {'unknown' if lr is None else number(lr)}",
        _evaluated(observation),
        _changed(observation),
    ]
    return " | ".join(part for part in parts if part)


def _evaluated(observation: Observation) -> str:
    name = observation.goal_metric
    values = [e.metrics[name] for e in observation.evaluations if name in e.metrics]
    if not values:
        return "no evaluation yet"
    newest = f"{fenced(name, 64)} {number(values[-1])}"
    return newest if len(values) == 1 else f"{newest}, before that {number(values[-2])}"


def _changed(observation: Observation) -> str:
    done = changes(observation)
    if not done:
        return "nothing was changed yet"
    last = next(one for one in reversed(interventions_of(observation)) if one.command_id == done[-1].command_id)
    return f"last change {observation.step - (last.applied_at_step or 0)} steps ago: {fenced(last.summary, 120)}"


def _learning_rate(observation: Observation) -> float | None:
    knob = observation.knob("lr")
    value = knob.effective if knob is not None else None
    return float(value) if isinstance(value, (int, float)) and value > 0 and math.isfinite(value) else None


def command_for(action: str, observation: Observation) -> tuple[CommandBase | None, str]:
    """The command of an action, None for `hold`, and the beginning of its rationale.

    Raises:
        UserError: It cannot be done as things stand; says why.
    """
    make: dict[str, Callable[[], CommandBase]] = {"save": SaveCheckpoint, "evaluate": DoEvaluate}
    if action == "hold":
        return None, ""
    if action in make:
        return make[action](), ""
    if action == "undo":
        return _undo(observation)
    lr = _learning_rate(observation)
    if lr is None:
        raise UserError(f"{action}: the learning rate is not known or zero")
    return UpdateOptimizer(lr=lr * FACTORS[action]), ""


def _undo(observation: Observation) -> tuple[CommandBase, str]:
    """Sets the learning rate from before the agents' newest change: its base, so that the schedule is as before."""
    own = {record.command_id for record in by_agents(observation)}
    mine, change = _undoable(observation)
    later = [c for c in changes(observation) if c.submitted_seq > mine.submitted_seq and c.command_id not in own]
    if any(_lr_change(record) for record in later):
        raise UserError("undo: the learning rate was changed by somebody else since")
    if change.previous_base is not None:
        return UpdateOptimizer(lr=change.previous_base, lr_sets="base"), f"{UNDO}{mine.command_id}"
    return UpdateOptimizer(lr=float(change.previous)), f"{UNDO}{mine.command_id}"


def _undoable(observation: Observation) -> tuple[CommandRecord, Change]:
    """The agents' newest change of the learning rate that is in force and was not undone."""
    here = {record.command_id for record in changes(observation)}
    mine = [r for r in by_agents(observation) if r.command_id in here and r.state in IN_FORCE]
    undoing = [r for r in mine if r.proposal.rationale.startswith(UNDO)]
    undone = {r.proposal.rationale.removeprefix(UNDO).split(":")[0] for r in undoing}
    for record in reversed(mine):
        change = _lr_change(record)
        if change is not None and record not in undoing and record.command_id not in undone:
            return record, change
    raise UserError("undo: there is no change of the learning rate by an agent to take back")


def _lr_change(record: CommandRecord) -> Change | None:
    found = record.ack.changes if record.ack is not None else []
    return next((c for c in found if c.name == "lr" and isinstance(c.previous, (int, float))), None)


def allowed_now(observation: Observation) -> list[str]:
    """The actions that this trainer can carry out and that make sense now."""
    return [action for action in ACTIONS if _can(action, observation)]


def _can(action: str, observation: Observation) -> bool:
    try:
        command, _ = command_for(action, observation)
    except UserError:
        return False
    return command is None or command.kind in observation.capabilities


def action_schema(actions: Sequence[str]) -> dict[str, Any]:
    """JSON schema of `{"action": ..., "why": ...}`; the reason comes last, as small models do better so (guess)."""
    return {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": list(actions)},
            "why": {"type": "string", "maxLength": WHY_LETTERS},
        },
        "required": ["action", "why"],
        "additionalProperties": False,
    }


def read_action(text: str) -> tuple[str, str]:
    """The action and the reason of a JSON answer; words in thinking or beside the answer never count.

    Raises:
        UserError: There is none, or not just one.
    """
    found = answer_in(text, "action", choices=ACTIONS)
    action = str(found.get("action", "")).strip().lower()
    if action not in ACTIONS:
        raise UserError(f"{action!r:.80} is no action; choose one of {', '.join(ACTIONS)}", field="answer")
    return action, str(found.get("why") or "")


def choose(talk: Conversation, toolbox: Toolbox) -> None:
    """Ask until an action is accepted, at most `MAX_REPAIRS` times more.

    Args:
        talk: The conversation, with the line in it.
        toolbox: Asks the gate.

    Raises:
        BudgetSpent, ModelUnavailable: In the middle.
    """
    actions = allowed_now(talk.observation)
    for corrections_left in reversed(range(MAX_REPAIRS + 1)):
        answer = talk.ask(schema=action_schema(actions))
        if not without_thinking(answer.content):
            return
        try:
            _take(talk, toolbox, answer.content or "", actions)
        except UserError as error:
            talk.said = ""
            talk.refuse(error.message)
            if corrections_left:
                talk.tell(f"{fenced(error.message)} Choose again, one of: {', '.join(actions)}")
            else:
                talk.trouble(f"given up after {MAX_REPAIRS} corrections: {error.message}")
        else:
            return


def _take(talk: Conversation, toolbox: Toolbox, text: str, actions: list[str]) -> None:
    action, why = read_action(text)
    if action not in actions:
        raise UserError(f"{action} cannot be done now")
    talk.said = f"{action}: {clean(why, WHY_LETTERS)}"
    if action != "hold":
        actions.remove(action)  # not again, should it be refused
    command, prefix = command_for(action, talk.observation)
    if command is not None:
        reason = f"{prefix}: {clean(why, WHY_LETTERS)}" if prefix else talk.said
        toolbox.call(command.kind, {**command.model_dump(exclude={"kind"}, exclude_defaults=True), "reason": reason})
        talk.draft(command, rationale=reason)
