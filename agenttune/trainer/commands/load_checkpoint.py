"""`load_checkpoint`: a return to a saved state, with what caused the trouble changed in the same step."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from agenttune.errors import AgenttuneError, NotSupported, UserError
from agenttune.protocol.commands import LoadCheckpoint
from agenttune.protocol.proposals import CommandRecord
from agenttune.trainer.captured_values import prepare_dataset
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.commands.outcomes import AwaitLearningRate, AwaitRestore, Done, Outcome, RateAsked, applies
from agenttune.trainer.commands.update_optimizer import await_learning_rate, learning_rate_change
from agenttune.trainer.layers.reset import check_clearable, clear_state
from agenttune.trainer.lr.optimizers import same
from agenttune.trainer.lr.planned_lr import restore_scheduler
from agenttune.trainer.lr.schedule_kinds import members_of, store
from agenttune.trainer.lr.schedules import Schedule
from agenttune.trainer.run_state import RunState, ToldByLeader

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What of a parameter group says where its rate stands in its schedule."""


@applies(LoadCheckpoint)
def load_checkpoint(run_state: RunState, record: CommandRecord, command: LoadCheckpoint) -> Outcome:
    adapter, checkpoints = run_state.adapter, run_state.checkpoints
    refusal = adapter.checkpoint_refusal()
    if refusal:
        raise NotSupported(f"load_checkpoint: {refusal}")
    found = run_state.told or find_there(run_state, record, command)
    checkpoint, branch = found.checkpoint, found.branch
    run_state.agree()  # of shards, all ranks read together
    state = checkpoints.read(checkpoint, adapter.model(), adapter.optimizer(), run_state.agree)
    adapter.check_state(state)
    if command.reset_optimizer:
        check_clearable(adapter.optimizer())
    rate = None if command.lr is None else RateAsked(command.lr, run_state.schedule().rates())
    if rate is not None:
        _rehearse(run_state, state, record, command, rate.base)
    dataset = prepare_dataset(run_state, state.steered)
    wanted = AwaitRestore(checkpoint, branch, state, dataset, rate, bool(command.reset_optimizer))
    return _skipping_data(run_state, wanted) if command.skip_seen_data else wanted


def _skipping_data(run_state: RunState, wanted: AwaitRestore) -> AwaitRestore:
    """The same, going on with the data where it stands now.

    Raises:
        UserError: The data of now is not that of then.
    """
    if wanted.dataset is not None:
        told = "the data was reloaded since that checkpoint, which goes back too: there is no place to go on from"
        raise UserError(f"{told}; leave out skip_seen_data", field="skip_seen_data")
    if not run_state.adapter.repeats_data(wanted.state):
        return wanted  # it goes on anyway, and the ack says so
    state = run_state.adapter.with_data_of_now(wanted.state)
    place = f"epoch {state.loop['epoch']}, batch {state.loop['batch']}, both from 0"
    return replace(wanted, state=state, skips_data=True, message=f"the data goes on where it stood ({place})")


def find_there(run_state: RunState, record: CommandRecord, command: LoadCheckpoint) -> ToldByLeader:
    """The checkpoint that a return asks for, and the branch that training is on from there.

    Raises:
        UserError: There is no such checkpoint, or there is a branch of that name.
    """
    checkpoints = run_state.checkpoints
    branch = checkpoints.branches.new_name(command.branch_name)
    is_agents = record.proposal.author.principal == "agent"
    return ToldByLeader(checkpoints.find(command.checkpoint_id, is_agents), branch)


def _rehearse(
    run_state: RunState, state: TrainingState, record: CommandRecord, command: LoadCheckpoint, base: float
) -> None:
    """Refuse a rate that could not be set there, or would be out of bounds there, while nothing has changed.

    Raises:
        UserError: Says why.
    """
    now = run_state.as_info()
    with _rates_of(run_state, state) as there:
        refusal = run_state.refusal_there(record, command, now, run_state.as_info())
        if refusal:
            raise UserError(f"at step {state.step}, where it would go back to: {refusal}", field="lr")
        _set_base(there, base)


@contextlib.contextmanager
def _rates_of(run_state: RunState, state: TrainingState) -> Iterator[Schedule]:
    """The schedule as it stood in a state; afterwards everything is as it was."""
    now, scheduler = run_state.schedule(), run_state.adapter.scheduler()
    undo, step, ratios = now.snapshot(), run_state.step, run_state.ratios
    held = _held_by_lambdas(now)
    try:
        for group, saved in zip(now.groups, state.optimizer["param_groups"], strict=True):
            for name in RATES:
                if name in saved:
                    store(group, name, float(saved[name]))
        if "scheduler" in state.parts and scheduler is not None:
            restore_scheduler(scheduler, state.parts["scheduler"])
        run_state.step = state.step
        yield run_state.schedule()
    finally:
        for function, values in held:
            function.__dict__.clear()
            function.__dict__.update(values)
        undo()
        run_state.step, run_state.ratios = step, ratios


def _held_by_lambdas(schedule: Schedule) -> list[tuple[Any, dict[str, Any]]]:
    """What callables of a `LambdaLR` hold, which loading its state writes over."""
    found = [fn for member in members_of(schedule.scheduler) for fn in getattr(member, "lr_lambdas", ())]
    return [
        (fn, dict(fn.__dict__)) for fn in found if not isinstance(fn, types.FunctionType) and hasattr(fn, "__dict__")
    ]


def _set_base(schedule: Schedule, base: float) -> None:
    schedule.set_base(base, None)
    schedule.refuse_impossible()
    found = schedule.base()[0]
    if not same(found, base):
        raise UserError(f"the base rate was set to {base:g} but reads {found:g}", field="lr")


@dataclass
class Changed:
    """What was changed with a restore.

    Attributes:
        result: For the ack.
        rate: The rate that was set; its ack waits until the next step has confirmed it.
        rate_as_saved: Of the first parameter group as it was saved, where another was set.
        problem: What went wrong.
    """

    result: dict[str, Any] = field(default_factory=dict)
    rate: AwaitLearningRate | None = None
    rate_as_saved: float | None = None
    problem: str = ""


def change_with_restore(run_state: RunState, outcome: AwaitRestore) -> Changed:
    """Change what a return was asked to change, right after the state was restored."""
    changed = Changed()
    if outcome.reset_optimizer:
        optimizer = run_state.adapter.optimizer()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        changed.result["optimizer_state_cleared"] = clear_state(optimizer, parameters)
    if outcome.rate is not None:
        try:
            changed.rate_as_saved = run_state.schedule().rates().effective[0]
            changed.rate = _set_rate(run_state, outcome.rate)
        except AgenttuneError as error:  # it was rehearsed, so something else has changed the schedule since
            changed.problem = f"its rate could not be set: {error}"
    return changed


def _set_rate(run_state: RunState, asked: RateAsked) -> AwaitLearningRate:
    schedule = run_state.schedule()
    as_saved, undo_all = schedule.rates(), schedule.snapshot()
    try:
        _set_base(schedule, asked.base)
    except BaseException:
        undo_all()
        raise
    groups = range(len(as_saved.base))
    change = learning_rate_change(schedule, 0, asked.before.effective, asked.before.base, asked.base)

    def undo() -> None:
        run_state.schedule().restore(as_saved, groups)

    return await_learning_rate(run_state, Done(changes=[change]), None, undo)
