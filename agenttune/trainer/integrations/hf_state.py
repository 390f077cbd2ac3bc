"""The state of transformers' Trainer, captured and restored between two steps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState, TrainerControl

from agenttune.errors import UserError
from agenttune.trainer.checkpoints.checkpoint_files import write_plain_model
from agenttune.trainer.checkpoints.generators import read_rng, restore_rng
from agenttune.trainer.checkpoints.training_state import (
    LogRows,
    TrainingState,
    check_optimizer,
    restore_model,
    restore_optimizer,
)
from agenttune.trainer.checkpoints.unsaved_weights import (
    buffer_names,
    frozen_names,
    model_extra,
    restore_model_extra,
)
from agenttune.trainer.distributed.engines import engine_of_trainer, state_refusal
from agenttune.trainer.integrations.seekable_loader import DataFeed, Seek
from agenttune.trainer.lr.planned_lr import restore_scheduler

RESTORED = (
    "global_step",
    "num_input_tokens_seen",
    "total_flos",
    "best_metric",
    "best_global_step",
    "best_model_checkpoint",
)
"""Of the TrainerState, beside its history; the rest is the run's plan or its settings."""
DATA_WENT_ON = "data_went_on"
"""Marks a state whose place in the data is further on than its step."""


class HfState:
    """Takes and puts back the state of one Trainer.

    Args:
        trainer: From `make_interactive`.
        feed: Hands out its training data.
    """

    def __init__(self, trainer: Any, feed: DataFeed) -> None:
        self.trainer = trainer
        self.feed = feed
        self.batches = 1
        """Micro-batches in an epoch of the training data."""
        self._wrapped: Any = None
        self._model: Any = None

    def refusal(self) -> str:
        """Why this Trainer's state cannot be captured and restored; empty if it can."""
        return state_refusal(engine_of_trainer(self.trainer))

    def model(self) -> Any:
        wrapped = self.trainer.model
        if wrapped is not self._wrapped:  # seldom another: accelerate looks for packages on disk each time
            model = self.trainer.accelerator.unwrap_model(wrapped)
            # Out of torch.compile's wrapper, as the Trainer saves it: the names in its files are those without it.
            self._wrapped, self._model = wrapped, model._modules.get("_orig_mod", model)
        return self._model

    # -- taking -----------------------------------------------------------------------------------------------

    def capture(self) -> TrainingState:
        """The training state; its tensors are the live ones."""
        trainer, model = self.trainer, self.model()
        parts = {"scheduler": trainer.lr_scheduler.state_dict()}
        scaler = getattr(trainer.accelerator, "scaler", None)
        if scaler is not None:
            parts["scaler"] = scaler.state_dict()
        loop = {
            "trainer_state": self._trainer_state(),
            "epoch": self.feed.epoch,
            "batch": self.feed.batch,
            "total_loss": float(getattr(trainer, "_total_loss_scalar", 0.0)),
            "flos": float(trainer.current_flos),
        }
        running = getattr(trainer, "_tr_loss", None)  # 4.57 keeps it in a local variable
        if running is not None:
            loop |= {"running_loss": float(running), "last_logged": int(trainer._globalstep_last_logged)}
        return TrainingState(
            step=int(trainer.state.global_step),
            model=model.state_dict(),
            optimizer=trainer.optimizer.state_dict(),
            parts=parts,
            rng=read_rng(),
            loop=loop,
            frozen=frozen_names(model),
            buffers=buffer_names(model),
            extra={"draws": self.feed.draws(), **model_extra(model)},
        )

    def _trainer_state(self) -> dict[str, Any]:
        """As transformers writes it to `trainer_state.json`."""
        state = self.trainer.state
        values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        values["log_history"] = LogRows(state.log_history)
        values["stateful_callbacks"] = _callback_states(self._callbacks())
        return values

    def _callbacks(self) -> list[Any]:
        callbacks = [*self.trainer.callback_handler.callbacks, self.trainer.control]
        return [callback for callback in callbacks if isinstance(callback, ExportableState)]

    def write_model(self, folder: Path) -> None:
        """The model's files, as the Trainer writes them; never pushed anywhere."""
        if hasattr(self.model(), "save_pretrained"):
            self.trainer.save_model(str(folder), _internal_call=True)
        else:
            write_plain_model(self.model(), folder)

    # -- putting back -----------------------------------------------------------------------------------------

    def check(self, state: TrainingState) -> None:
        """Refuse a state that does not belong to this run.

        Raises:
            UserError: Its optimizer has other groups, or its files do not tell where the loop stood.
        """
        check_optimizer(self.trainer.optimizer, state.optimizer)
        if "scheduler" not in state.parts:
            raise UserError("the checkpoint has no scheduler.pt", field="checkpoint_id")
        if "trainer_state" not in state.loop:
            raise UserError("the checkpoint has no trainer_state.json", field="checkpoint_id")

    def with_data_of_now(self, state: TrainingState) -> TrainingState:
        """The same state at the place in the data, and with the random states, of now."""
        place = {"epoch": self.feed.epoch, "batch": self.feed.batch, DATA_WENT_ON: True}
        extra = state.extra | {"draws": self.feed.draws()}
        return dataclasses.replace(state, loop=state.loop | place, rng=read_rng(), extra=extra)

    def position(self, state: TrainingState, accumulation: int) -> tuple[int, int]:
        """Epoch and batch of a state: as it says, or, for a plain Trainer's checkpoint, worked out from its step."""
        if "epoch" in state.loop and "batch" in state.loop:
            return int(state.loop["epoch"]), int(state.loop["batch"])
        updates = max(1, math.ceil(self.batches / accumulation))
        return state.step // updates, (state.step % updates) * accumulation

    def request(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        """Restore a state when the training data is next opened."""
        epoch, batch = self.position(state, int(self.trainer.args.gradient_accumulation_steps))

        def restored() -> None:
            self.restore(state)
            on_restored()

        self.feed.seek(Seek(epoch, batch, state.rng, restored, state.extra.get("draws", {})))

    def restore(self, state: TrainingState) -> None:
        """Restore all but the place in the data and the random states."""
        trainer = self.trainer
        restore_model(self.model(), state.model)
        restore_model_extra(self.model(), state.extra)
        restore_optimizer(trainer.optimizer, state.optimizer)
        restore_scheduler(trainer.lr_scheduler, state.parts["scheduler"])
        scaler = getattr(trainer.accelerator, "scaler", None)
        if scaler is not None and "scaler" in state.parts:
            scaler.load_state_dict(state.parts["scaler"])
            if scaler._scale is not None:  # an update that broke off leaves it in the midst of a step
                scaler.update(scaler.get_scale())
        trainer.model.zero_grad()
        self._restore_trainer_state(state)

    def _restore_trainer_state(self, state: TrainingState) -> None:
        trainer, saved = self.trainer, state.loop["trainer_state"]
        for name in RESTORED:
            if name in saved:
                setattr(trainer.state, name, saved[name])
        # The list itself is kept: callbacks may hold it.
        trainer.state.log_history[:] = saved.get("log_history", [])
        _restore_callback_states(self._callbacks(), saved.get("stateful_callbacks", {}))
        trainer.current_flos = state.loop.get("flos", 0.0)
        # Where the loop remembers what it has logged; the names are the same in 4.57 and 5.x.
        trainer._globalstep_last_logged = state.loop.get("last_logged", trainer.state.global_step)
        trainer._total_loss_scalar = state.loop.get("total_loss", 0.0)
        running = getattr(trainer, "_tr_loss", None)
        if running is not None:
            running.fill_(state.loop.get("running_loss", 0.0))


def _callback_states(callbacks: list[Any]) -> dict[str, Any]:
    states: dict[str, Any] = {}
    for callback in callbacks:
        states.setdefault(type(callback).__name__, []).append(callback.state())
    return {name: found[0] if len(found) == 1 else found for name, found in states.items()}


def _restore_callback_states(callbacks: list[Any], states: dict[str, Any]) -> None:
    """Restore what callbacks count, such as early stopping's patience."""
    left = {name: list(found) if isinstance(found, list) else [found] for name, found in states.items()}
    for callback in callbacks:
        saved = left.get(type(callback).__name__)
        if saved and not isinstance(callback, TrainerControl):
            for attribute, value in saved.pop(0).get("attributes", {}).items():
                setattr(callback, attribute, value)


class EpochMender(TrainerCallback):  # type: ignore[misc]
    """After a restore the loop's own epoch number is wrong; shows the other callbacks the right one."""

    def __init__(self, feed: DataFeed, state: HfState) -> None:
        self._feed = feed
        self._state = state

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = self._feed.epoch + self._feed.batch / max(1, self._state.batches)


_FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")


@contextlib.contextmanager
def undisturbed(trainer: Any) -> Iterator[None]:
    """For an evaluation in the middle of training: restore all that it changes.

    Any evaluation draws from the global random state (a data loader's base seed), and its callbacks clear flags that
    the step under way has already set, and count for early stopping.
    """
    control, model = trainer.control, trainer.model
    flags = {name: getattr(control, name) for name in _FLAGS}
    stoppers = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    patience = [stopper.early_stopping_patience_counter for stopper in stoppers]
    was_training, rng = model.training, read_rng()
    try:
        yield
    finally:
        restore_rng(rng)
        for name, value in flags.items():
            setattr(control, name, value)
            setattr(trainer.control, name, value)
        for stopper, count in zip(stoppers, patience, strict=True):
            stopper.early_stopping_patience_counter = count
        model.train(was_training)
