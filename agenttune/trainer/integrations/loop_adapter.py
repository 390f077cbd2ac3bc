"""What loops beside transformers' Trainer share, as a session sees them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.adapter import Adapter, SettingValue, Trials
from agenttune.trainer.checkpoints.checkpoint_files import write_plain_model
from agenttune.trainer.checkpoints.generators import read_rng, restore_rng
from agenttune.trainer.checkpoints.training_state import (
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
from agenttune.trainer.distributed.engines import bare, engine_of, joins_unevenly, state_refusal
from agenttune.trainer.integrations.logged_metrics import Number
from agenttune.trainer.integrations.model_facts import facts_of, length_of
from agenttune.trainer.lr.planned_lr import make_plannable, restore_scheduler

Evaluate = Callable[[], Mapping[str, Number]]

DATASET_KINDS = ("update_dataset", "update_dataset_runtime_hyperparameters")
LAYER_KINDS = ("model_layer_operation", "model_layer_parameter_update", "read_model")
STATE_KINDS = ("save_checkpoint", "load_checkpoint")
CATALOG_KINDS = ("update_checkpoint", "delete_checkpoints")
"""About checkpoints that are there; the loop has no part in them."""
UNKNOWN = "this loop does not know the command"


class LoopAdapter(Adapter):
    """One loop: its optimizer, what else is known of it, and what was asked of it.

    Args:
        framework: The loop and its version.
        optimizer: As the loop steps it.
        lacking: Why some commands cannot be applied, as the loop is set up.
        model: The model, where it is known.
        scheduler: The schedule, where it is known.
        scaler: The gradient scaler of mixed precision, where there is one.
        max_steps: The step at which training ends, where the loop asks this session for it.

    Attributes:
        step: Completed steps.
        has_begun_step: Whether the loop has begun its next step, and looks at what it was told after that one only.
        updates: Updates of the optimizer that were seen.
        wants_stop: The loop is to end.
        report: Records the metrics of an evaluation.
    """

    commands: ClassVar[tuple[str, ...]] = (
        *("update_optimizer", "update_schedule", "set_knob", "do_evaluate", "add_note"),
        *("pause_training", "resume_training", "stop_training", *STATE_KINDS, *CATALOG_KINDS, *LAYER_KINDS),
    )
    """What a loop like this can apply where its parts are known; no other command reaches it."""
    ends_with_process = False
    """Whether the end of the process is the end of training, for a loop that tells nothing of it."""

    def __init__(
        self,
        framework: str,
        optimizer: Optimizer,
        lacking: Mapping[str, str],
        model: nn.Module | None = None,
        scheduler: object | None = None,
        max_steps: int | None = None,
        scaler: Any = None,
    ) -> None:
        self.framework = framework
        self.wrapped, self._optimizer, self._scheduler = model, optimizer, scheduler
        self._model = None if model is None else bare(model)
        refusal = state_refusal(self.engine())
        by_engine = dict.fromkeys((*STATE_KINDS, "probe"), refusal) if refusal else {}
        self._lacking = {**by_engine, **lacking}
        self.capabilities = tuple(kind for kind in self.commands if kind not in self._lacking)
        self._max_steps, self._scaler = max_steps, scaler
        make_plannable(scheduler, optimizer)
        self.step = 0
        self.has_begun_step = False
        self.updates = 0
        self._updates_at_boundary = 0
        self.wants_stop = False
        self.report: Callable[[Mapping[str, Number]], dict[str, float]] = _unrecorded

    def refusal(self, kind: str) -> str:
        return self._lacking.get(kind, UNKNOWN)

    # -- what the loop consists of ----------------------------------------------------------------------------

    def model(self) -> nn.Module:
        if self._model is None:
            raise NotSupported("the model is not known; give it with model=")
        return self._model

    def known_model(self) -> nn.Module | None:
        return self._model

    def optimizer(self) -> Optimizer:
        return self._optimizer

    def scheduler(self) -> object | None:
        return self._scheduler

    def replace_dataset(self, dataset: object, keeps_place: bool = False) -> str:
        raise NotSupported("this loop draws its batches itself; its dataset cannot be replaced while it runs")

    def redraw(self) -> str:
        return "batches that the loop has fetched ahead are still used"

    # -- steps ------------------------------------------------------------------------------------------------

    def update_was_skipped(self) -> bool:
        return self.updates == self._updates_at_boundary

    def end_boundary(self) -> None:
        """The boundary is over; from here on updates belong to the next step."""
        self._updates_at_boundary = self.updates

    def max_steps(self) -> int | None:
        return self._max_steps

    # -- settings ---------------------------------------------------------------------------------------------

    def facts(self) -> RunFacts:
        return facts_of(self.optimizer(), self.known_model(), samples=length_of(self.train_dataset()))

    def settings(self) -> list[KnobState]:
        return [KnobState(name="max_steps", unit="steps", effective=self._max_steps, command="update_training")]

    def check_setting(self, name: str, value: SettingValue, step: int) -> str:
        if name != "max_steps":
            raise NotSupported(
                f"{name} is this loop's own; register it as a knob with register_knob({name!r}, get, set)"
            )
        if value <= step:
            raise UserError(
                f"max_steps {value} is not after the current step {step}; use stop_training to end now",
                field="max_steps",
                allowed={"minimum": step + 1},
            )
        return ""

    def change_setting(self, name: str, value: SettingValue) -> None:
        self._max_steps = value if value is None else int(value)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def checkpoint_refusal(self) -> str:
        if self.known_model() is None:
            return "the model is not known; give it with model="
        return state_refusal(self.engine())

    def engine(self) -> str:
        """How the model is spread over processes: a key of `ENGINES`."""
        return engine_of(self.known_model(), self.optimizer())

    def joins_unevenly(self) -> bool:
        return joins_unevenly(self.wrapped)

    def resume_words(self, path: Path) -> str:
        return f"load its weights, optimizer and schedule from {str(path)!r}"

    def capture(self) -> TrainingState:
        return TrainingState(
            step=self.step,
            model=self.model().state_dict(),
            optimizer=self.optimizer().state_dict(),
            parts={name: part.state_dict() for name, part in self.parts().items()},
            rng=read_rng(),
            frozen=frozen_names(self.model()),
            buffers=buffer_names(self.model()),
            extra=model_extra(self.model()),
        )

    def parts(self) -> dict[str, Any]:
        """What else has a state that training changes, by name."""
        parts = {"scheduler": self.scheduler(), "scaler": self._scaler}
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def write_model(self, folder: Path) -> None:
        model: Any = self.model()
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder)
        else:
            write_plain_model(model, folder)

    def check_state(self, state: TrainingState) -> None:
        check_optimizer(self.optimizer(), state.optimizer)
        lacking = self.parts().keys() - state.parts.keys()
        if lacking:
            raise UserError(f"the checkpoint has no state of {', '.join(sorted(lacking))}", field="checkpoint_id")

    def restore(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        self.restore_in_place(state)
        restore_rng(state.rng)
        on_restored()

    def restore_in_place(self, state: TrainingState) -> None:
        restore_model(self.model(), state.model)
        restore_model_extra(self.model(), state.extra)
        restore_optimizer(self.optimizer(), state.optimizer)
        for name, part in self.parts().items():
            if name.startswith("scheduler"):
                restore_scheduler(part, state.parts[name])
            else:
                part.load_state_dict(copy.deepcopy(state.parts[name]))
        self.model().zero_grad()
        self.step = state.step

    def restore_note(self, state: TrainingState) -> str:
        return "the order of the data does not go back: the loop draws on from where it stands"

    # -- trials ---------------------------------------------------------------------------------------------

    def trial_refusal(self) -> str:
        return self.checkpoint_refusal() or "the data of this loop does not go back"

    def begin_trials(self, trials: Trials) -> None:
        """This loop does nothing by itself."""

    def end_trials(self) -> None:
        """Nothing to undo."""

    # -- actions ----------------------------------------------------------------------------------------------

    def request_save(self) -> None:
        raise NotSupported(f"this loop does not save by itself, and {self.checkpoint_refusal()}")

    def request_stop(self) -> None:
        self.wants_stop = True

    def evaluate(self) -> dict[str, float]:
        raise NotSupported("this loop has no evaluation")


def _unrecorded(metrics: Mapping[str, Number]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards each layer's mode and all random states are as they were.

    Layer by layer, as some keep frozen layers in evaluation mode while they train.
    """
    modes = [(module, module.training) for module in model.modules()]
    rng = read_rng()
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        restore_rng(rng)
