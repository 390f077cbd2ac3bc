"""What commands do to a training, on this rank; `all_ranks` has every rank of a run do the same.

Rank 0 alone runs the executor. Wherever its work touches the training it goes through here: in a run of one process
that is a call, in a run of several an order to all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from agenttune.errors import UserError
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.proposals import Change, CommandRecord
from agenttune.trainer.adapter import Trials
from agenttune.trainer.captured_values import capture_registered, capture_values, restore_own_values
from agenttune.trainer.checkpoints.checkpoint_catalog import SavedCheckpoint
from agenttune.trainer.checkpoints.training_state import TrainingState, restore_model, weights_not_as_saved
from agenttune.trainer.checkpoints.unsaved_weights import restore_model_extra
from agenttune.trainer.commands.apply import apply_command
from agenttune.trainer.commands.load_checkpoint import Changed, change_with_restore
from agenttune.trainer.commands.outcomes import AwaitRestore, Outcome
from agenttune.trainer.run_state import RunState


@dataclass
class Restored:
    """What came of a return, on one rank.

    Attributes:
        changes: Values that were restored.
        changed: What was changed with it.
        problem: What went wrong.
    """

    changes: list[Change] = field(default_factory=list)
    changed: Changed = field(default_factory=Changed)
    problem: str = ""


class SingleRank:
    """A run of one process.

    Args:
        run_state: The run.
        on_restored: Called when the loop has restored a state.
        trials: Told by the loop of what would end a trial.

    Attributes:
        leads: Whether this process decides.
        wants_between: In a run of several processes: whether rank 0 has work for when the loop is done with the step.
    """

    is_single = True
    leads = True

    def __init__(self, run_state: RunState, on_restored: Callable[[], None], trials: Trials) -> None:
        self._run_state, self._on_restored, self._trials = run_state, on_restored, trials
        self.wants_between = False
        self.ended = ""
        """Why no more commands are taken: another rank has come to its end."""
        self.wish = ""
        """Why a callback of this rank wants training to end, in the midst of trials."""
        self._trial_state: TrainingState | None = None
        self._ratios: list[float] | None = None

    @contextmanager
    def meeting(self, place: str) -> Iterator[bool]:
        """All ranks are at one place of the loop. Yields whether this one leads; the others are done by then."""
        yield True

    @property
    def is_meeting(self) -> bool:
        """Whether this rank leads a meeting now."""
        return False

    def put_back(self) -> None:
        """Training ends, perhaps in the midst of a trial: on ranks that follow, restore the model of before it."""

    def beat(self) -> None:
        """All wait, for however long."""

    def begin(self) -> str:
        """Training begins; returns what there is to say of the other ranks."""
        return ""

    def meet(self) -> bool:
        """At a place that all ranks come to: whether the processes have met just now."""
        return False

    @property
    def has_met(self) -> bool:
        """Whether the processes have met."""
        return True

    def tell(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        return text

    def called(self) -> bool:
        """At the end of a step: whether rank 0 has called a meeting."""
        return True

    def skip(self) -> bool:
        """At the start of a step: whether it has no flag, and so no meeting at its end; counts it."""
        return False

    @property
    def will_skip(self) -> bool:
        """Whether the next step has no flag either."""
        return False

    def call(self, has_work: bool, most: int = 1) -> None:
        """At the start of a step: call a meeting for its end, or do not; and none for `most` steps at most."""

    def before_update(self) -> None:
        """Just before the optimizer's update."""

    def close(self, why: str = "") -> None:
        """The run has ended here; `why`: the error that ended it."""

    @property
    def process_group(self) -> Any:
        """A gloo group of torch's over which all ranks speak of the run; None in a run of one process."""
        return None

    def reason(self, error: BaseException) -> str:
        """Why training ended, where another rank is the cause; empty if none is known to be."""
        return ""

    # -- commands -----------------------------------------------------------------------------------------------

    def apply(self, record: CommandRecord, candidate: CommandBase | None = None) -> Outcome:
        """Apply a command, or a candidate of a probe.

        Raises:
            UserError: It cannot be applied as asked; nothing has changed.
            Exception: A defect; what was written has been put back.
        """
        return apply_command(self._run_state, record, candidate)

    def rate_problem(self, command_id: str) -> str:
        """Why a learning rate did not hold on another rank; empty if it did."""
        return ""

    def undo_rate(self, command_id: str) -> None:
        """Put it back on the other ranks."""

    def forget_rates(self) -> None:
        """No other rank need look any longer whether a rate holds."""

    def evaluate(self) -> dict[str, float]:
        return self._run_state.adapter.evaluate()

    def request_save(self) -> None:
        self._run_state.adapter.request_save()

    def request_stop(self) -> None:
        self._run_state.adapter.request_stop()

    # -- states -------------------------------------------------------------------------------------------------

    def captured(self) -> TrainingState:
        """The training state of this rank; its tensors are the live ones."""
        state = self._run_state.adapter.capture()
        state.steered = capture_values(self._run_state)
        state.extra["registered"] = capture_registered(self._run_state)
        return state

    def captured_for_disk(self) -> TrainingState:
        """The same, to be written for all ranks."""
        return self.captured()

    def hold(self, saved: SavedCheckpoint) -> None:
        """A snapshot is held in this rank's memory; the others hold theirs.

        Raises:
            UserError: One could not; none does.
        """

    def drop(self, checkpoint_ids: Sequence[str]) -> None:
        """Checkpoints are no more; the other ranks let go of theirs."""

    def restore(self, outcome: AwaitRestore) -> None:
        """Ask the loop to restore a state; it says when it has.

        Raises:
            UserError: It cannot; nothing has changed.
        """
        self._run_state.adapter.restore(_to_give_away(outcome.state), self._on_restored)

    def finish_restore(self, outcome: AwaitRestore) -> Restored:
        """The loop has restored a state: restore what it does not know of, then change what is to change with it."""
        run_state = self._run_state
        run_state.step = outcome.state.step
        changes, problem = restore_own_values(run_state, outcome.state, outcome.dataset)
        run_state.schedule()
        changed = Changed() if problem else change_with_restore(run_state, outcome)
        return Restored(changes, changed, problem)

    def load_best(self, best: SavedCheckpoint) -> list[str]:
        """Put a state's weights into the model; returns what does not stand as saved.

        Raises:
            AgenttuneError: It cannot be read.
        """
        model = self._run_state.adapter.model()
        state = self._run_state.checkpoints.read(best, model, self._run_state.adapter.optimizer())
        restore_model(model, state.model)
        restore_model_extra(model, state.extra)
        return weights_not_as_saved(model, state)

    # -- trials -------------------------------------------------------------------------------------------------

    def begin_trials(self, saved: SavedCheckpoint) -> TrainingState:
        """Trials begin, from a state that was saved for them; it is returned.

        Raises:
            UserError: It cannot be read.
        """
        run_state = self._run_state
        state = self._trial_state = run_state.checkpoints.read(
            saved, run_state.adapter.model(), run_state.adapter.optimizer()
        )
        self._ratios = run_state.ratios
        run_state.adapter.begin_trials(self._trials)
        return state

    def enter_trial(self, branch: str) -> None:
        """What follows is a trial."""
        self._run_state.trial = branch

    def end_wish(self) -> str:
        """Why a callback of another rank wants training to end; empty if none does."""
        return ""

    def leave_trial(self) -> None:
        """Ask the loop to restore the state before the trials."""
        state = self._trial_state
        if state is None:
            return
        self._run_state.adapter.restore(_to_give_away(state), self._on_restored)

    def finish_leaving(self) -> str:
        """The loop has restored it: restore what the loop does not know of; returns what went wrong."""
        run_state, state = self._run_state, self._trial_state
        if state is None:
            return ""
        _, problem = restore_own_values(run_state, state, None)
        run_state.step, run_state.trial = state.step, None
        run_state.ratios = self._ratios
        run_state.schedule()
        return problem

    def end_trials(self) -> None:
        """The trials are over."""
        if self._trial_state is not None:
            self._run_state.step, self._run_state.trial = self._trial_state.step, None
        self._trial_state = None
        self._run_state.adapter.end_trials()


def _to_give_away(state: TrainingState) -> TrainingState:
    """The state, for a loop to restore: a schedule takes over the lists that it is given, and writes into them."""
    parts, loop, steered = (copy.deepcopy(part) for part in (state.parts, state.loop, state.steered))
    return replace(state, parts=parts, loop=loop, steered=steered)


def held_here(run_state: RunState, told: SavedCheckpoint) -> SavedCheckpoint:
    """A checkpoint that rank 0 names, as this rank has it.

    Raises:
        UserError: It was in memory, and this rank has none of that name.
    """
    own = run_state.checkpoints.known.get(told.checkpoint_id)
    if own is not None:
        return own
    if told.path is None:
        raise UserError(f"this rank holds no snapshot {told.checkpoint_id}", field="checkpoint_id")
    return told
