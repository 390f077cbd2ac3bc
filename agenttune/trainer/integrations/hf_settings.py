"""The settings of transformers' loop that commands change while it runs, and what a change means for its epochs."""

from __future__ import annotations

import math
from typing import Any

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.adapter import SettingValue
from agenttune.trainer.integrations.hf_epochs import Accumulation, EpochPlan

REFUSAL = (
    "the callback alone has no access to the trainer; build the trainer with "
    "agenttune.make_interactive(Trainer) for this"
)


class HfSettings:
    """Reads and writes `max_steps`, `max_grad_norm` and `gradient_accumulation_steps` where the loop looks for them.

    Args:
        trainer: The trainer; None for the callback alone.

    Attributes:
        plan: The epochs that the loop has planned.
        accumulation: Micro-batches of a step.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.plan = EpochPlan()
        self.accumulation = Accumulation()
        self._args: Any = None
        self._state: Any = None
        self._control: Any = None
        self._data: Any = None
        self._planned_steps = 0

    @property
    def accumulation_steps(self) -> int:
        return int(self._args.gradient_accumulation_steps)

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
            raise NotSupported(f"max_steps above {limit}, the planned epochs' end: {REFUSAL}")
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
            raise NotSupported(f"gradient_accumulation_steps: {REFUSAL}")
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
