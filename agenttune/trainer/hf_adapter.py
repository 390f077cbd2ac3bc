"""transformers' Trainer, as a session sees it."""

from __future__ import annotations

import math
from typing import Any

import transformers
from torch.optim import Optimizer

from agenttune.commands import COMMAND_KINDS
from agenttune.errors import NotSupported, UserError
from agenttune.events import KnobState
from agenttune.trainer.adapter import SettingValue
from agenttune.trainer.apply import NOT_YET
from agenttune.trainer.epochs import Accumulation, EpochPlan
from agenttune.trainer.undisturbed import undisturbed

ALL = tuple(kind for kind in COMMAND_KINDS if kind not in NOT_YET)
WITHOUT_TRAINER = tuple(kind for kind in ALL if kind != "do_evaluate")
REFUSAL = (
    "the callback alone has no access to the trainer; build the trainer with "
    "agenttune.make_interactive(Trainer) for this"
)


class HfAdapter:
    """Speaks to the loop through its control flags, its state, and public methods.

    Args:
        trainer: The trainer, from `make_interactive`; None for the callback alone.
    """

    refusal = REFUSAL

    def __init__(self, trainer: Any = None) -> None:
        self.trainer = trainer
        self.plan = EpochPlan()
        self.accumulation = Accumulation()
        self.capabilities = WITHOUT_TRAINER if trainer is None else ALL
        name = "Trainer" if trainer is None else type(trainer).__mro__[1].__name__
        self.framework = f"transformers {transformers.__version__} {name}"
        self._args: Any
        self._state: Any
        self._control: Any
        self._optimizer: Any
        self._scheduler: Any
        self._data: Any
        self._args = self._state = self._control = self._optimizer = self._scheduler = self._data = None
        self._planned_steps = 0
        self.first_step = 0

    @property
    def accumulation_steps(self) -> int:
        return int(self._args.gradient_accumulation_steps)

    def bind(self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        """Take the objects of the training that begins."""
        self._args, self._state, self._control = args, state, control
        self._optimizer, self._scheduler = kwargs["optimizer"], kwargs["lr_scheduler"]
        self._data = kwargs.get("train_dataloader")
        self._planned_steps = state.max_steps

    def follow(self, control: Any, kwargs: dict[str, Any]) -> None:
        """Take the objects of this step; a callback or a loaded checkpoint may have replaced them."""
        self._control, self._optimizer, self._scheduler = control, kwargs["optimizer"], kwargs["lr_scheduler"]

    def optimizer(self) -> Optimizer:
        optimizer: Optimizer = self._optimizer
        return optimizer

    def scheduler(self) -> object | None:
        scheduler: object | None = self._scheduler
        return scheduler

    def update_was_skipped(self) -> bool:
        return bool(getattr(self._optimizer, "step_was_skipped", False))

    def max_steps(self) -> int | None:
        steps = int(self._state.max_steps)
        return steps if steps > 0 else None

    # -- settings ---------------------------------------------------------------------------------------------

    def settings(self) -> list[KnobState]:
        values = {
            "max_grad_norm": self._args.max_grad_norm,
            "gradient_accumulation_steps": self._args.gradient_accumulation_steps,
            "max_steps": self._state.max_steps,
        }
        units = {"max_steps": "steps", "gradient_accumulation_steps": "micro-batches"}
        return [
            KnobState(name=name, unit=units.get(name, ""), effective=value, command="update_training")
            for name, value in values.items()
        ]

    def check_setting(self, name: str, value: SettingValue, step: int) -> str:
        if name == "max_steps":
            return self._check_max_steps(int(value), step)
        if name == "gradient_accumulation_steps":
            return self._check_accumulation(int(value))
        if str(getattr(getattr(self.trainer, "accelerator", None), "distributed_type", "")).endswith("DEEPSPEED"):
            raise NotSupported("DeepSpeed clips gradients by its own configuration, read once")
        return "gradients are no longer clipped" if value == 0 else ""

    def _check_max_steps(self, steps: int, now: int) -> str:
        if steps <= now:
            raise UserError(
                f"max_steps {steps} is not after the current step {now}; use stop_training to end now",
                field="max_steps",
                allowed={"minimum": now + 1},
            )
        if self._control.should_training_stop:
            raise UserError(f"training is ending at this step ({now}); it can no longer be extended")
        limit = None if self.trainer is not None else self._steps_of_planned_epochs()
        if limit is not None and steps > limit:
            raise NotSupported(f"max_steps above {limit}, the planned epochs' end: {self.refusal}")
        if steps == self._planned_steps:
            return ""
        return f"the schedule is still planned for {self._planned_steps} steps; re-plan it with update_schedule"

    def _steps_of_planned_epochs(self) -> int | None:
        try:
            batches: int = len(self._data)
        except TypeError:  # no length: the loop goes by steps alone
            return None
        updates = max(1, math.ceil(batches / self.accumulation_steps))
        epochs: int = self._state.num_train_epochs
        return updates * epochs

    def _check_accumulation(self, count: int) -> str:
        if self.trainer is None:
            raise NotSupported(f"gradient_accumulation_steps: {self.refusal}")
        if self.plan.epochs is None:
            return ""
        updates = math.ceil(self.plan.batches / count)
        return (
            f"an epoch now has {updates} steps (planned: {self.plan.updates}); the run still ends at step "
            f"{self._state.max_steps}"
        )

    def is_ready_for(self, name: str, value: SettingValue) -> bool:
        """Accumulation changes only where the batches seen in this epoch are a multiple of the new count."""
        if name != "gradient_accumulation_steps":
            return True
        seen = self._batches_seen()
        return self.accumulation.is_between_groups and (seen in (0, self.plan.batches) or seen % int(value) == 0)

    def _batches_seen(self) -> int:
        """Micro-batches of the current epoch that are done; the state's epoch is exactly this share."""
        return round(math.modf(float(self._state.epoch or 0.0))[0] * self.plan.batches)

    def change_setting(self, name: str, value: SettingValue) -> None:
        if name == "max_steps":
            self._state.max_steps = int(value)
            self.plan.is_extended = self.plan.is_extended or int(value) > self._planned_steps
        elif name == "gradient_accumulation_steps":
            self._args.gradient_accumulation_steps = int(value)
            self.accumulation.is_changed = self.plan.is_extended = True
        else:
            self._args.max_grad_norm = value
        self._show_epochs()

    def _show_epochs(self) -> None:
        """Keep the number of epochs in the state true, once the run no longer follows its plan."""
        if self.trainer is None or self.plan.epochs is None or not self.plan.is_extended:
            return
        updates = math.ceil(self.plan.batches / self._args.gradient_accumulation_steps)
        left = (self._state.max_steps - self._state.global_step) / updates
        self._state.num_train_epochs = math.ceil(round((self._state.epoch or 0.0) + left, 6))

    # -- actions ----------------------------------------------------------------------------------------------

    def can_end_here(self) -> bool:
        return int(self._state.global_step) > self.first_step

    def note_first_step(self) -> None:
        """Flags set before a call's first step are cleared by the loop: nothing can be saved or ended there."""
        self.first_step = int(self._state.global_step)

    def request_save(self) -> None:
        self._control.should_save = True

    def request_stop(self) -> None:
        self._control.should_training_stop = True

    def evaluate(self) -> dict[str, float]:
        trainer = self.trainer
        own_loader = type(trainer).get_eval_dataloader is not transformers.Trainer.get_eval_dataloader
        if trainer.eval_dataset is None and not own_loader:
            raise UserError("the trainer has no eval_dataset to evaluate on; give it one when it is built")
        with undisturbed(trainer):
            metrics = trainer.evaluate()
        return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
