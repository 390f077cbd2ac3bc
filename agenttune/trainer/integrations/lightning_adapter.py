"""Lightning's Trainer, as a session sees it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
from torch import nn
from torch.optim import Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.adapter import SettingValue
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.distributed.engines import engine_of_strategy
from agenttune.trainer.integrations.logged_metrics import Number
from agenttune.trainer.integrations.loop_adapter import LoopAdapter, undisturbed
from agenttune.trainer.integrations.model_facts import facts_of, loader_facts

OWN_FILE = "lightning.ckpt"
"""What `Trainer.fit(ckpt_path=...)` reads, beside the files that a restore reads."""
VALIDATION_PREFIXES = ("val_", "val/", "valid_", "valid/", "validation_", "validation/")
LACKING = {
    "update_dataset": "Lightning draws from loaders of its own, whose dataset cannot be replaced",
    "probe": "steps cannot be taken back: Lightning's data, epochs and callbacks would not go back with them",
}


def as_evaluation(metrics: Mapping[str, Any]) -> dict[str, Number]:
    """Validation metrics under the names that all loops share: `val_loss` is `eval_loss`."""
    return {_shared_name(name): value for name, value in metrics.items()}


def _shared_name(name: str) -> str:
    prefix = next((prefix for prefix in VALIDATION_PREFIXES if name.startswith(prefix)), "")
    return f"eval_{name[len(prefix) :]}" if prefix else name


class LightningAdapter(LoopAdapter):
    """Speaks to Lightning through its public attributes, and its loops' counters to restore a step.

    Args:
        trainer: Lightning's, when training begins.
        optimizer: The one that is steered: the first.
    """

    evaluates_everywhere = True
    commands = (*LoopAdapter.commands, "update_training", "update_dataset_runtime_hyperparameters")

    def __init__(self, trainer: Any, optimizer: Optimizer) -> None:
        self.trainer = trainer
        configs = trainer.lr_scheduler_configs
        scheduler = configs[0].scheduler if configs else None
        super().__init__(f"lightning {lightning.__version__}", optimizer, self._why_lacking(), None, scheduler)
        self.step = int(trainer.global_step)

    def _why_lacking(self) -> dict[str, str]:
        lacking = dict(LACKING)
        loop = self._validation()
        if not loop.trainer.enable_validation:
            lacking["do_evaluate"] = "the LightningModule has no validation_step, or the fit no validation data"
        return lacking

    def _validation(self) -> Any:
        return self.trainer.fit_loop.epoch_loop.val_loop

    def engine(self) -> str:
        return engine_of_strategy(self.trainer.strategy, self.model())

    def known_model(self) -> nn.Module | None:
        return self.model()

    def model(self) -> nn.Module:
        model: nn.Module = self.trainer.lightning_module
        return model

    def train_dataset(self) -> object | None:
        return getattr(self.trainer.train_dataloader, "dataset", None)

    def redraw(self) -> str:
        loader = self.trainer.train_dataloader
        return "" if getattr(loader, "num_workers", 1) == 0 and hasattr(loader, "__len__") else super().redraw()

    # -- settings ---------------------------------------------------------------------------------------------

    def max_steps(self) -> int | None:
        steps = int(self.trainer.max_steps)
        return steps if steps > 0 else None

    def facts(self) -> RunFacts:
        trainer = self.trainer
        group, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
        data = loader_facts(trainer.train_dataloader, group)
        if math.isfinite(batches):
            data["epoch_steps"] = max(1, math.ceil(batches / group))
        epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
        every = trainer.log_every_n_steps
        return facts_of(
            self.optimizer(),
            self.model(),
            **data,
            replicas=trainer.world_size,
            epochs=epochs,
            evaluation=self._evaluations() if trainer.enable_validation else None,
            logging=Rhythm(every=every) if every else None,
        )

    def _evaluations(self) -> Rhythm | None:
        """As Lightning plans them: at ends of epochs, or after so many micro-batches."""
        trainer, every = self.trainer, self.trainer.val_check_batch
        epochs, batches = trainer.check_val_every_n_epoch, trainer.num_training_batches
        if every is None:  # it goes by the clock
            return None
        if epochs is not None and every >= batches:
            return Rhythm(every=epochs, unit="epochs")
        # Within an epoch it counts from the epoch's start, which only agrees with this where it divides it.
        fits = epochs is None or (epochs == 1 and batches % every == 0)
        return Rhythm(every=max(1, round(every / trainer.accumulate_grad_batches))) if fits else None

    def settings(self) -> list[KnobState]:
        trainer = self.trainer
        values = {
            "max_grad_norm": ("", trainer.gradient_clip_val),
            "gradient_accumulation_steps": ("micro-batches", trainer.accumulate_grad_batches),
            "max_steps": ("steps", self.max_steps()),
        }
        return [
            KnobState(name=name, unit=unit, effective=value, command="update_training")
            for name, (unit, value) in values.items()
        ]

    def check_setting(self, name: str, value: SettingValue, step: int) -> str:
        if name == "max_steps":
            note = super().check_setting(name, value, step)
            epochs = self.trainer.max_epochs
            return f"training also ends after max_epochs={epochs}" if epochs not in (None, -1) else note
        if not self.trainer.lightning_module.automatic_optimization:
            raise NotSupported(f"{name} is the module's own in manual optimization")
        if name == "max_grad_norm" and self.trainer.gradient_clip_algorithm not in (None, "norm"):
            raise NotSupported("this Trainer clips by value (gradient_clip_algorithm), not by norm")
        return ""

    def is_ready_for(self, name: str, value: SettingValue) -> bool:
        """Lightning counts micro-batches from an epoch's start; a group must begin at this very batch."""
        if name != "gradient_accumulation_steps":
            return True
        ready: int = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return (ready - int(self.has_begun_step)) % int(value) == 0

    def change_setting(self, name: str, value: SettingValue) -> None:
        if name == "max_steps":
            self.trainer.fit_loop.epoch_loop.max_steps = -1 if value is None else int(value)
        elif name == "gradient_accumulation_steps":
            self.trainer.accumulate_grad_batches = int(value)
        else:
            self.trainer.gradient_clip_val = value

    # -- checkpoints ------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        configs = self.trainer.lr_scheduler_configs
        parts = {f"scheduler_{i}" if i else "scheduler": config.scheduler for i, config in enumerate(configs)}
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return parts if scaler is None else parts | {"scaler": scaler}

    def checkpoint_refusal(self) -> str:
        if len(self.trainer.optimizers) > 1:
            return "going back inside the process is for one optimizer"
        return super().checkpoint_refusal()

    def capture(self) -> TrainingState:
        state = super().capture()
        state.loop["batches_that_stepped"] = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        return state

    def write_model(self, folder: Path) -> None:
        super().write_model(folder)
        if self.trainer.world_size == 1:
            self.trainer.save_checkpoint(folder / OWN_FILE)
            return
        # `save_checkpoint` waits for all ranks in the end, and rank 0 alone writes a checkpoint of ours.
        trainer = self.trainer
        trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), folder / OWN_FILE)

    def resume_words(self, path: Path) -> str:
        return f"ckpt_path={str(path / OWN_FILE)!r}"

    def resumed_from(self) -> Path | None:
        asked = self.trainer.ckpt_path
        is_ours = isinstance(asked, (str, Path)) and Path(asked).name == OWN_FILE
        return Path(asked).absolute().parent if is_ours else None

    def restore(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        loop = self.trainer.fit_loop.epoch_loop
        counted = (
            loop.automatic_optimization.optim_progress.optimizer.step,
            loop.manual_optimization.optim_step_progress,
        )
        for progress in counted:
            progress.total.ready = progress.total.completed = state.step
        loop._batches_that_stepped = state.loop.get("batches_that_stepped", state.step)
        super().restore(state, on_restored)

    def restore_note(self, state: TrainingState) -> str:
        return f"{super().restore_note(state)}; so do Lightning's epochs and what its callbacks count"

    # -- actions ----------------------------------------------------------------------------------------------

    def can_end_here(self) -> bool:
        """Not before `min_steps` and `min_epochs`."""
        return bool(self.trainer.fit_loop._can_stop_early) and not self.has_begun_step

    def request_stop(self) -> None:
        super().request_stop()
        self.trainer.should_stop = True

    def evaluate(self) -> dict[str, float]:
        loop = self._validation()
        with undisturbed(self.model()), self._validating():
            outputs = loop.run()
        if not outputs:
            raise UserError("the validation ran on no batches (see limit_val_batches)")
        metrics = {name: value for output in outputs for name, value in output.items()}
        return self.report(as_evaluation(metrics))

    @contextlib.contextmanager
    def _validating(self) -> Iterator[None]:
        """As Lightning itself validates within an epoch; callbacks that count evaluations do not see this one."""
        trainer = self.trainer
        connector, callbacks = trainer._logger_connector, trainer.callbacks
        known = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(connector).items()}
        trainer.validating, trainer.callbacks = True, []
        try:
            yield
        finally:
            trainer.training, trainer.callbacks = True, callbacks
            vars(connector).update(known)
