"""What a session needs from a training loop. One class per loop implements it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn
from torch.optim import Optimizer

from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.checkpoints.branch_folders import LoopFolder
from agenttune.trainer.checkpoints.training_state import TrainingState

SettingValue = int | float
"""A setting of the loop: `max_grad_norm`, `gradient_accumulation_steps` or `max_steps`."""


class Trials(Protocol):
    """Told by the loop of what would end a trial: steps that will be undone."""

    def asked_to_end(self, why: str) -> None:
        """A callback wants training to end; that waits until the state before the trials is restored."""

    def fail(self, error: Exception) -> bool:
        """An error within a step; returns whether it belongs to a trial, which ends with this step."""

    def lose(self, error: Exception) -> bool:
        """An error between two steps; returns whether it belongs to a trial, which ends at once."""


def not_ours(error: Exception) -> bool:
    """While there is no trial, an error is the run's own."""
    return False


class Adapter(Protocol):
    """A training loop, as the session sees it at a step boundary; what most loops lack has an answer here."""

    framework: str
    """The loop and its version, such as `transformers.Trainer 5.23.0`."""
    capabilities: tuple[str, ...]
    """Kinds of the commands that this loop can apply, each named by it: one that it does not know is refused."""

    evaluates_everywhere: bool = False
    """Whether an evaluation of the loop's own is told of on every rank, at the same place."""

    def refusal(self, kind: str) -> str:
        """Why a command outside of `capabilities` cannot be applied."""

    def model(self) -> nn.Module:
        """The model in training, without wrappers."""

    def train_dataset(self) -> object | None:
        """The training dataset; None where the loop does not know it."""
        return None

    def replace_dataset(self, dataset: object, keeps_place: bool = False) -> str:
        """Draw from another dataset from the next batch on; steps, optimizer and schedule stay.

        Args:
            dataset: The other dataset.
            keeps_place: Go on at the place that a checkpoint knows, instead of beginning an epoch.

        Returns:
            What else this means, for the ack's message.

        Raises:
            UserError: This loop cannot; nothing has changed.
        """

    def replacement(self, dataset: object) -> Callable[[], str]:
        """Make all that drawing from another dataset needs, and change nothing yet.

        Returns:
            What changes over to it, as `replace_dataset` does: in a run of several processes once all have come so far.

        Raises:
            UserError: It cannot be made; nothing has changed.
        """
        return lambda: self.replace_dataset(dataset)

    def redraw(self) -> str:
        """Draw the next batch anew: what was fetched ahead was made before a dataset's parameter changed.

        Returns:
            For the ack's message; says so where batches made before the change will still be used.
        """

    def optimizer(self) -> Optimizer:
        """The optimizer, as the loop steps it."""

    def scheduler(self) -> object | None:
        """The learning-rate scheduler, if there is one."""

    def joins_unevenly(self) -> bool:
        """Whether ranks may come to the end of their batches one by one, within torch's `join()`."""
        return False

    def update_was_skipped(self) -> bool:
        """Whether the last update was dropped (an overflow in mixed precision), and the schedule with it."""

    def max_steps(self) -> int | None:
        """The step at which training ends, if that is known."""

    def facts(self) -> RunFacts:
        """What an expert would ask first of this training, as it is now; what is not known is left out."""

    def settings(self) -> list[KnobState]:
        """The loop's own tunable values, named as in `update_training`."""

    def check_setting(self, name: str, value: SettingValue, step: int) -> str:
        """What else changing a setting means, for the ack's message.

        Raises:
            UserError: It cannot be set to this; says why and what can be.
        """

    def is_ready_for(self, name: str, value: SettingValue) -> bool:
        """Whether the setting can change at this very boundary; if not, the command waits."""
        return True

    def change_setting(self, name: str, value: SettingValue) -> None:
        """Write one setting; checked and ready before."""

    def checkpoint_refusal(self) -> str:
        """Why the training state cannot be captured and restored; empty if it can."""

    def found_checkpoints(self) -> list[Path]:
        """Folders that earlier runs of this loop left where it saves, and the one that it resumed from."""
        return []

    def resumed_from(self) -> Path | None:
        """The folder of the checkpoint that this run began from; None if it began anew, or that cannot be known."""
        return None

    def loop_folder(self) -> LoopFolder | None:
        """Where the loop saves by itself, and a restart of it looks; None if this loop has no such place."""
        return None

    def saves_for_restart(self) -> bool:
        """Whether a save of the loop's own, asked for with the end of training, is one that a restart goes on from."""
        return False

    def resume_words(self, path: Path) -> str:
        """What a user types to resume the loop from a checkpoint."""

    def is_settled(self) -> bool:
        """Whether this step is complete: none of its logging, evaluation or saving is still to come."""
        return True

    def capture(self) -> TrainingState:
        """The training state; its tensors are the live ones. Only where `is_settled`."""

    def write_model(self, folder: Path) -> None:
        """Write the model's files into a folder, as the loop's users know them."""

    def check_state(self, state: TrainingState) -> None:
        """Refuse a state that this run cannot continue from.

        Raises:
            UserError: It belongs to another run, or would not continue exactly.
        """

    def restore(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        """Restore a checked state, now or before the next step, then call `on_restored`."""

    def repeats_data(self, state: TrainingState) -> bool:
        """Whether, after a restore of this state, the data that followed it comes again."""
        return False

    def with_data_of_now(self, state: TrainingState) -> TrainingState:
        """The same, but with the place in the data, and random states, of now; asked where `repeats_data`."""
        return state

    def restore_note(self, state: TrainingState) -> str:
        """What a state does not restore, for the ack's message; empty if it restores all."""

    def trial_refusal(self) -> str:
        """Why steps cannot be undone together with the data and the loop's end; empty if they can."""

    def begin_trials(self, trials: Trials) -> None:
        """Trials begin: no evaluation, save or end of the loop's own until `end_trials`.

        Args:
            trials: Told of what would end training or a step.
        """

    def end_trials(self) -> None:
        """The trials are over; the loop evaluates, saves and ends by itself again."""

    def restore_in_place(self, state: TrainingState) -> None:
        """Restore a state after the loop has ended: all but the place in the data and the random states."""

    def loads_best(self) -> bool:
        """Whether the loop itself puts its best weights into the model when training ends."""
        return False

    def can_end_here(self) -> bool:
        """Whether a save or a stop asked for now takes effect at this boundary."""
        return True

    def request_save(self) -> None:
        """Have the loop save a checkpoint of this step; it reports to `Session.checkpoint_saved`."""

    def request_stop(self) -> None:
        """Have the loop end after this step."""

    def evaluate(self) -> dict[str, float]:
        """Evaluate now, leaving random states, schedules and early stopping as they were.

        Raises:
            UserError: There is nothing to evaluate on.
        """
