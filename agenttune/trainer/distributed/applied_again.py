"""What was changed by command before a job was started again: what is set again, and what is not, with the reason.

A value can be set again: of the optimizer, of a layer, whether it is frozen, a plan of the learning rate. An act can't:
a reset that the restored state has not seen would be another one, at another step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from agenttune.protocol.commands import (
    CommandBase,
    Impact,
    LoadCheckpoint,
    ModelLayerOperation,
    ModelLayerParameterUpdate,
    UpdateSchedule,
    parse_command,
)
from agenttune.protocol.commands.dataset_and_layers import FREEZE
from agenttune.protocol.events import KnobsRead
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer.probation.own_commands import FOR_AGENT, FOR_OTHERS

SAME = 1e-6
"""Relative difference of two learning rates that are the same but for rounding."""
PLAN = "plan of the learning rate"


class InForce(NamedTuple):
    """What was changed by command and is in force.

    Attributes:
        lost: What is not as it was set: to be set again, in order.
        left: What is not, and is not set again: what it was, and why.
    """

    lost: list[tuple[CommandRecord, CommandBase]]
    left: list[str]


def in_force(log: RunLog, info: RunInfo, knobs: list[KnobState], step: int) -> InForce:
    """What commands have changed in the attempts before.

    Args:
        log: The run's.
        info: Its card as the attempt before has left it, with its branch.
        knobs: As they are now.
        step: At which the loop goes on.
    """
    line = log.lineage(info.branch)
    taken = log.commands(State.APPLIED, State.KEPT, limit=10_000)
    changes = [(r, c) for r in taken if (c := change_of(r)) is not None and is_on(line, r)]
    found = InForce([], [])
    covered: set[str] = set()
    replans = 0  # of the newest plans, those that were taken back
    for record, command in reversed(changes):
        names = _names(command)
        if isinstance(command, UpdateSchedule) and command.shape == "previous":
            replans += 1
            continue
        if isinstance(command, UpdateSchedule) and replans:
            replans -= 1
            continue
        if names - covered and not _holds(log, line, record, command, knobs, step):
            if why := _why_not(record, command, step):
                if why != KEPT:
                    found.left.append(f"{_what(command)} ({record.command_id}): {why}")
            else:
                found.lost.append((record, _as_it_was(record, command)))
        covered |= names
    return InForce(found.lost[::-1], found.left[::-1])


KEPT = "the restored state has it"


def _why_not(record: CommandRecord, command: CommandBase, step: int) -> str:
    """Why a change is not made again; `KEPT` where it need not be, empty if it is."""
    at_step = -1 if record.ack is None else record.ack.step
    if isinstance(command, UpdateSchedule):
        text = f"begun at step {at_step}, and what was restored is of step {step} and has no such plan"
        return text if at_step < step else ""
    if command.is_set_again or _freezes(command):
        return ""
    if not isinstance(command, ModelLayerOperation):
        return "a command of your own; ask for it again if it is wanted and the restored state has not got it"
    return KEPT if at_step <= step else f"done at step {at_step}, after what was restored; ask for it again if wanted"


def _freezes(command: CommandBase) -> bool:
    return isinstance(command, ModelLayerOperation) and command.operation_name == FREEZE


def _what(command: CommandBase) -> str:
    if isinstance(command, ModelLayerOperation):
        return f"{command.operation_name} of layer {command.layer_name}"
    return f"the {PLAN}" if isinstance(command, UpdateSchedule) else command.kind


def _as_it_was(record: CommandRecord, command: CommandBase) -> CommandBase:
    """A plan without a peak began at the rate of its moment, which is written down."""
    if not isinstance(command, UpdateSchedule) or record.ack is None or not record.ack.changes:
        return command
    return parse_command({"kind": command.kind, **command.as_applied(record.ack.changes)})


def _names(command: CommandBase) -> frozenset[str]:
    """What it sets, so that a later command for the same takes its place."""
    if isinstance(command, UpdateSchedule):  # a later rate leaves it in force
        return command.touched() | {PLAN}
    if isinstance(command, ModelLayerParameterUpdate):
        return frozenset({f"{command.layer_name}.{command.param_name}"})
    if isinstance(command, ModelLayerOperation):
        return frozenset({f"{command.operation_name} {command.layer_name}"})
    return command.touched()


def change_of(record: CommandRecord) -> CommandBase | None:
    """What a command that was applied has changed, in force as a change; None for any other one."""
    command = record.command if record.ack is None else record.command.in_force(record.ack)
    if isinstance(command, LoadCheckpoint):
        return command.change_there()
    return command if command is not None and command.impact is Impact.CHANGE else None


def is_on(line: Lineage, record: CommandRecord) -> bool:
    """Whether a command was applied on the way to where a branch stands."""
    return record.ack is not None and line.has(record.ack.branch, record.ack.step)


def _holds(
    log: RunLog, line: Lineage, record: CommandRecord, command: CommandBase, knobs: list[KnobState], step: int
) -> bool:
    """Whether a change came with the state that the loop has restored."""
    if record.ack is None or record.ack.step > step:
        return False
    now = {knob.name: knob for knob in knobs}
    then = knobs_at(log, line, step)
    return all(name in now and name in then and is_same(now[name], then[name]) for name in command.touched())


def knobs_at(log: RunLog, line: Lineage, step: int) -> dict[str, KnobState]:
    """As they were last read up to a step."""
    events = log.events(kinds=["knobs_read"], limit=10_000)
    on = [e.body for e in events if (e.step or 0) <= step and line.has(e.branch, e.step or 0)]
    newest = on[-1] if on else None
    return {knob.name: knob for knob in newest.knobs} if isinstance(newest, KnobsRead) else {}


def is_same(one: KnobState, other: KnobState) -> bool:
    """Whether two readings of a knob tell of one value; a rate's base counts, as a schedule moves the rest."""
    if one.base is not None and other.base is not None:
        return math.isclose(one.base, other.base, rel_tol=SAME)
    return bool(one.effective == other.effective)


def again(record: CommandRecord, command: CommandBase, attempt: int) -> Proposal:
    """The proposal to set a value again."""
    is_agents = record.proposal.author.principal == "agent" or record.proposal.author.name == FOR_AGENT
    author = record.proposal.author
    rationale = f"in force when attempt {attempt - 1} ended: {command.kind} by {author.name} ({record.command_id})"
    return Proposal(
        command=command,
        author=Author(principal="trainer", name=FOR_AGENT if is_agents else FOR_OTHERS),
        rationale=rationale,
    )
