"""`agenttune.session`: a training loop of your own, with one call a step."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.config.plugins import PluginUse, find_class
from agenttune.errors import UserError
from agenttune.trainer.integrations.logged_metrics import Given, Number, taken
from agenttune.trainer.integrations.loop_adapter import Evaluate
from agenttune.trainer.integrations.loop_batches import Batches
from agenttune.trainer.integrations.loop_capabilities import Offers
from agenttune.trainer.integrations.loop_run import LoopRun, TrainingStopped
from agenttune.trainer.integrations.plain_adapter import PlainAdapter
from agenttune.trainer.options import Options
from agenttune.trainer.session import Session

logger = logging.getLogger("agenttune")

STEPS_WITHOUT_UPDATE = 3
"""Mixed precision skips one or two updates at its start; three in a row are no accident (guess)."""


def session(
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: object | None = None,
    dataset: object | None = None,
    evaluate: Evaluate | None = None,
    max_steps: int | None = None,
    start_step: int = 0,
    resumed_from: str | Path | None = None,
    scaler: Any = None,
    adapter: type[PlainAdapter] | str = PlainAdapter,
    name: str | None = None,
    options: Options | None = None,
) -> PlainSession:
    """Record and steer a training loop of your own.

        with agenttune.session(model=model, optimizer=optimizer, scheduler=scheduler, max_steps=1000) as s:
            for batch in s.batches(loader):
                loss = model(batch)
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if s.step({"loss": loss}):
                    break

    Call `step` once for each optimizer step, after `scheduler.step()`. With no command issued, losses are
    bit-identical to those of the loop without it.

    Args:
        model: The model in training.
        optimizer: The optimizer that the loop steps.
        scheduler: Its learning-rate schedule, if there is one.
        dataset: The training dataset, where `batches` is not used or is given a function.
        evaluate: Returns metrics by name; called for `do_evaluate` with the model in evaluation mode and without
            gradients. Afterwards random states and modes are restored.
        max_steps: The step at which `step` says to stop. Without it, the loop ends as it likes.
        start_step: Completed steps of a loop that goes on from a checkpoint of its own, such as after a restart.
        resumed_from: Folder of the checkpoint of an earlier run that the loop has loaded before it comes here: what
            commands had set there and is not in force is warned of.
        scaler: The gradient scaler of mixed precision, where there is one; checkpoints keep its state.
        adapter: How the loop is spoken to where it differs from a plain one: a class that extends
            `agenttune.trainer.PlainAdapter`, or what names one (`./mine.py:Mine`, or an installed name).
        name: The run's id is this name with the time of its start.
        options: Where to record, and whether to start a control server.

    Raises:
        UserError: An argument is of the wrong kind.
        ConfigError: `adapter` names no adapter.
    """
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer", field="optimizer")
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}, not a torch.nn.Module", field="model")
    if max_steps is not None and max_steps < 1:
        raise UserError(f"max_steps is a number of steps from 1 on, not {max_steps}", field="max_steps")
    if start_step < 0:
        raise UserError(f"start_step is a number of completed steps, not {start_step}", field="start_step")
    made = _adapter_class(adapter)(model, optimizer, scheduler, dataset, evaluate, max_steps, scaler)
    made.step = start_step
    if resumed_from is not None:
        made.resumed = Path(resumed_from).absolute()
        if not made.resumed.is_dir():
            raise UserError(
                f"resumed_from is the folder of a checkpoint; there is none at {made.resumed}", field="resumed_from"
            )
    if name is not None:
        options = dataclasses.replace(options or Options(), run_name=name)
    return PlainSession(made, options)


def _adapter_class(adapter: type[PlainAdapter] | str) -> type[PlainAdapter]:
    if isinstance(adapter, str):
        found: type[PlainAdapter] = find_class(PluginUse("adapter", adapter, (Path.cwd(),)), PlainAdapter).cls
        return found
    if not (isinstance(adapter, type) and issubclass(adapter, PlainAdapter)):
        raise UserError(f"adapter is {adapter!r:.80}, not a class that extends PlainAdapter", field="adapter")
    return adapter


class PlainSession(Offers):
    """A run of a loop of your own; made by `agenttune.session`, used in a `with` block.

    Attributes:
        run: The run behind it.
    """

    def __init__(self, adapter: PlainAdapter, options: Options | None = None) -> None:
        super().__init__()
        self._adapter = adapter
        self.run = LoopRun(adapter, options, self.registry)
        self._remove_hooks: Callable[[], None] | None = None
        self._steps_without_update = 0
        self._waits_in_step = False
        self._warned_of_epochs = False

    def __enter__(self) -> PlainSession:
        remove = self._remove_hooks = self.run.follow_updates(self._adapter.optimizer())
        try:
            self.run.begin({"max_steps": self._adapter.max_steps()})
        except BaseException:
            self._remove_hooks()
            raise
        if self.run.session is not None and self.run.session.is_in_lockstep:
            hook = self._adapter.model().register_forward_pre_hook(self._before_forward)

            def remove_all() -> None:
                remove()
                hook.remove()

            self._remove_hooks = remove_all
        return self

    def _before_forward(self, model: nn.Module, inputs: Any) -> None:
        """In lockstep: the first training pass after a step, when the loop's own evaluation of it is done."""
        session = self.run.session
        if session is not None and session.waits_for_decision and model.training and torch.is_grad_enabled():
            self.run.between()
            if self._adapter.wants_stop:
                raise TrainingStopped

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._remove_hooks is not None:
            self._remove_hooks()
        stopped = isinstance(error, TrainingStopped)
        if error is None or stopped:
            self.run.close_normally(self._data_end())
        else:
            self.run.close_after(error)
        return stopped

    def _live_session(self) -> Session | None:
        return self.run.session

    @property
    def run_id(self) -> str | None:
        """The run's id; None outside of the `with` block."""
        return self.run.run_id

    @property
    def global_step(self) -> int:
        """Completed steps; after a return to a checkpoint, those of the checkpoint."""
        return self._adapter.step

    @property
    def should_stop(self) -> bool:
        """Whether the loop should end now: told to, at `max_steps`, or asked for more data than there is."""
        drawn = self._adapter.batches
        return self._adapter.should_stop() or (drawn is not None and drawn.is_exhausted)

    def step(self, metrics: Given = None) -> bool:
        """One optimizer step is complete: record it, and apply what was asked for.

        Args:
            metrics: Numbers and one-element tensors by name, or the loss alone. Tensors are read in the background;
                the device is not waited for. `loss` and `grad_norm` (before clipping) are the names that detectors
                look at.

        Returns:
            Whether the loop should end now.

        Raises:
            UserError: Called outside of the `with` block, or with something that is no metric.
            TrainingStopped: The loop was told to end, and went on; leaves the `with` block.
        """
        if self.run.session is None:
            raise UserError("step() was called outside of `with agenttune.session(...) as s:`")
        if self._adapter.wants_stop:
            raise TrainingStopped
        values = taken(metrics)
        # Neither a batch was drawn here nor the model called: such a loop shows itself at the end of a step only.
        self._waits_in_step = self._waits_in_step or self.run.session.waits_for_decision
        self._adapter.step += 1
        self._check_updates()
        self.run.record_step(values)
        self.run.boundary()
        if self._waits_in_step:
            self.run.between()
        return self.should_stop

    def _check_updates(self) -> None:
        """Say once if steps come without updates: a loop that calls `step` for each micro-batch, for example."""
        self._steps_without_update = self._steps_without_update + 1 if self._adapter.update_was_skipped() else 0
        if self._steps_without_update == STEPS_WITHOUT_UPDATE:
            logger.warning(
                "agenttune: %d calls of step() with no optimizer.step() in between; call it once for each optimizer "
                "step, of the optimizer that agenttune.session was given",
                STEPS_WITHOUT_UPDATE,
            )

    def batches(self, loader: Any, epochs: int | None = None) -> Iterator[Any]:
        """The batches of a loader, epoch after epoch, until the loop should end; with `epochs=1`, one pass a call.

        Drawn this way, a return to a checkpoint puts the data back too, shuffling included, and the dataset can be
        changed while training runs. A sampler or dataset that has `set_epoch` is told of each epoch. The next call with
        the same loader goes on with its next epoch. Data that has an end, such as a generator's, ends there.

        Args:
            loader: A torch `DataLoader`; or a function that makes one of a dataset, with `session(dataset=...)`; or
                any iterable, whose place cannot be restored.
            epochs: Epochs of the loader that this call hands out. After a return to a state of another pass, the call
                goes on to the end of that pass; a state that was kept between two passes is the beginning of the later.

        Raises:
            UserError: `epochs` is less than 1, or a function was given without a dataset.
        """
        if epochs is not None and epochs < 1:
            raise UserError(f"epochs is a number of passes from 1 on, not {epochs}", field="epochs")
        drawn = self._adapter.batches
        if drawn is not None and drawn.given is loader and not drawn.is_open:
            if epochs is None and drawn.epoch > 0 and not drawn.ended:
                self._warn_of_epochs(f"a call of s.batches(loader) has gone through {drawn.epoch + 1} epochs already")
        else:
            goes_on, note = lambda: not self.should_stop, self.run.meter.add_batch
            drawn = Batches(loader, self._adapter.train_dataset(), goes_on, note, self.run.between)
            self._adapter.batches = drawn
            if self.run.session is not None:
                self.run.session.data_opened()
        drawn.epoch_begins = self._epoch_begins if epochs is None else lambda epoch: None
        return drawn.draw(epochs)

    def _epoch_begins(self, epoch: int) -> None:
        if self._adapter.max_steps() is None:
            self._warn_of_epochs(
                f"s.batches(loader) begins epoch {epoch} (from 0), and there is no max_steps to end it"
            )

    def _warn_of_epochs(self, what: str) -> None:
        """Say once, to who reads the terminal and in the run's log, that one call is not one epoch."""
        if self._warned_of_epochs:
            return
        self._warned_of_epochs = True
        text = f"{what}; it goes on until the loop ends. For one pass a call: s.batches(loader, epochs=1)"
        logger.warning("agenttune: %s", text)
        if self.run.session is not None:
            self.run.session.add_note(text)

    def _data_end(self) -> str:
        """That the data ended before the training did; empty if it did not."""
        drawn, steps = self._adapter.batches, self._adapter.max_steps()
        if drawn is None or not drawn.ended or self._adapter.should_stop():
            return ""
        reason = f"the data ended at step {self.global_step}"
        if steps is None:
            return reason
        logger.warning("agenttune: %s of %d", reason, steps)
        return f"{reason} of {steps}"

    def log_eval(self, metrics: Mapping[str, Number]) -> None:
        """Record an evaluation of the loop's own; its metrics get the prefix `eval_`, unless they have it.

        Raises:
            UserError: They are not numbers by name.
        """
        self.run.log_evaluation(metrics)
        self.run.keep_states()
