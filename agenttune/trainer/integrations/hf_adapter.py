"""transformers' Trainer, as a session sees it."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.text import some
from agenttune.trainer.adapter import Trials, not_ours
from agenttune.trainer.checkpoints.branch_folders import LoopFolder
from agenttune.trainer.checkpoints.manifest import LOOP_STATE
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.checkpoints.unsaved_weights import lost
from agenttune.trainer.datasets.mixture import Mixture
from agenttune.trainer.integrations.hf_epochs import Alignment
from agenttune.trainer.integrations.hf_facts import hf_facts
from agenttune.trainer.integrations.hf_settings import REFUSAL, HfSettings
from agenttune.trainer.integrations.hf_state import DATA_WENT_ON, EpochMender, HfState, undisturbed
from agenttune.trainer.integrations.hf_trials import EVENTS, Shield, TrialGuard
from agenttune.trainer.integrations.loop_adapter import CATALOG_KINDS, LAYER_KINDS, UNKNOWN
from agenttune.trainer.integrations.seekable_loader import DataFeed, Seek
from agenttune.trainer.lr.planned_lr import make_plannable
from agenttune.trainer.recording.logged_rows import numbers_of

NEED_TRAINER = ("do_evaluate", "load_checkpoint", "probe", "update_dataset")
WITHOUT_TRAINER = (
    *("update_optimizer", "update_schedule", "update_training", "set_knob", "add_note", "save_checkpoint"),
    *("pause_training", "resume_training", "stop_training", "update_dataset_runtime_hyperparameters", *LAYER_KINDS),
    *CATALOG_KINDS,
)
"""What this loop can apply, with the trainer and without; no other command reaches it."""
AHEAD = "batches that were fetched ahead are still used"


class HfAdapter(HfSettings):
    """Speaks to the loop through its control flags, its state, and public methods.

    Args:
        trainer: The trainer, from `make_interactive`; None for the callback alone.
        loop: The name of its class, as its user knows it.
    """

    def __init__(self, trainer: Any = None, loop: str = "Trainer") -> None:
        super().__init__(trainer)
        self.alignment = Alignment()
        self.feed = DataFeed()
        self.state = HfState(trainer, self.feed) if trainer is not None else None
        self.settled = False
        self.has_begun_step = False
        self._guard: TrialGuard | None = None
        self._shield: Shield | None = None
        self.after_restoring: Callable[[], None] = lambda: None
        self.resumed: Path | None = None
        self.capabilities: tuple[str, ...] = WITHOUT_TRAINER if trainer is None else (*WITHOUT_TRAINER, *NEED_TRAINER)
        self.framework = f"transformers {transformers.__version__} {loop}"
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._model: Any = None
        self.first_step = 0
        self._lacking: dict[str, str] = {}
        self.evaluates_everywhere = True

    def refusal(self, kind: str) -> str:
        if self.trainer is None:
            return REFUSAL if kind in NEED_TRAINER else UNKNOWN
        return self._lacking.get(kind, UNKNOWN)

    def _learn_engine(self) -> None:
        """What cannot be done as the model is spread over processes is no capability."""
        refusal = self.checkpoint_refusal()
        self._lacking = dict.fromkeys(("load_checkpoint", "probe"), refusal) if self.trainer and refusal else {}
        if self.trainer is not None:
            self.capabilities = tuple(k for k in (*WITHOUT_TRAINER, *NEED_TRAINER) if k not in self._lacking)

    def bind(self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        """Take the objects of the training that begins."""
        self._args, self._state, self._control = args, state, control
        self._optimizer, self._scheduler = kwargs["optimizer"], kwargs["lr_scheduler"]
        self._data = kwargs.get("train_dataloader")
        self._model = kwargs["model"]
        self._planned_steps = state.max_steps
        make_plannable(self._scheduler, self._optimizer)  # also one that no Trainer of ours has made
        self._learn_engine()
        if self.trainer is None and state.global_step:
            self.resumed = _resumed_from(args, state)
        self._begin_data(int(state.global_step))

    def _begin_data(self, step: int) -> None:
        """Tell the feed where a resumed run begins, as the loop works it out."""
        updates = max(1, self.plan.updates)
        done = 0 if self._args.ignore_data_skip else (step % updates) * self.accumulation_steps
        self.feed.begin(step // updates, done)
        dataset = self.train_dataset()
        if isinstance(dataset, Mixture):  # a loader that skips batches does not tell it
            dataset.set_epoch(self.feed.epoch)
        self.feed.is_over = lambda: bool(self._control.should_training_stop)
        if self.state is not None:
            self.state.batches = self.plan.batches

    def follow(self, control: Any, kwargs: dict[str, Any]) -> None:
        """Take the objects of this step; a callback or a loaded checkpoint may have replaced them."""
        self._control, self._optimizer, self._scheduler = control, kwargs["optimizer"], kwargs["lr_scheduler"]

    def model(self) -> nn.Module:
        model: nn.Module = self._model if self.state is None else self.state.model()
        return model

    def optimizer(self) -> Optimizer:
        optimizer: Optimizer = self._optimizer
        return optimizer

    def scheduler(self) -> object | None:
        scheduler: object | None = self._scheduler
        return scheduler

    def joins_unevenly(self) -> bool:
        return False

    def update_was_skipped(self) -> bool:
        return bool(getattr(self._optimizer, "step_was_skipped", False))

    def max_steps(self) -> int | None:
        steps = int(self._state.max_steps)
        return steps if steps > 0 else None

    def facts(self) -> RunFacts:
        return hf_facts(self.trainer, self._args, self._state, self._data, self.model(), self._optimizer, self.plan)

    # -- data -------------------------------------------------------------------------------------------------

    def train_dataset(self) -> object | None:
        dataset: object | None = getattr(
            self.trainer or self._data, "train_dataset" if self.trainer else "dataset", None
        )
        return dataset

    def replace_dataset(self, dataset: object, keeps_place: bool = False) -> str:
        return self._draw_from(dataset, self._loader_of(dataset), keeps_place)

    def replacement(self, dataset: object) -> Callable[[], str]:
        loader = self._loader_of(dataset)
        return lambda: self._draw_from(dataset, loader, keeps_place=False)

    def _loader_of(self, dataset: object) -> Any:
        if self.trainer is None:
            raise NotSupported(f"replacing the dataset: {REFUSAL}")
        if self.feed.refusal():
            raise NotSupported(f"replacing the dataset: {self.feed.refusal()}")
        old = self.trainer.train_dataset
        self.trainer.train_dataset = dataset
        try:
            return self.trainer.make_train_dataloader()
        except Exception as error:
            raise UserError(f"no data loader can be made of it, the old one stays: {error}") from error
        finally:
            self.trainer.train_dataset = old

    def _draw_from(self, dataset: object, loader: Any, keeps_place: bool) -> str:
        self.trainer.train_dataset = dataset
        self.feed.replace(loader, keeps_place)
        self._leave_plan()
        try:
            self.plan.batches = len(loader)
        except TypeError:
            return "the new data has no length"
        if self.state is not None:
            self.state.batches = self.plan.batches
        return f"an epoch now has {self.plan.batches} batches; the run still ends at step {self._state.max_steps}"

    def _leave_plan(self) -> None:
        """The loop's own epochs no longer are the data's."""
        self.plan.is_extended = self.plan.is_extended or self.plan.epochs is not None
        self._mend_epochs()
        if not self.feed.is_open:
            self._end_epoch()

    def redraw(self) -> str:
        if self.feed.refusal():
            return AHEAD
        if self.feed.is_open:
            self.feed.redraw()
        else:
            self.feed.seek(Seek(self.feed.epoch, self.feed.batch, {}, lambda: None))
            self._mend_epochs()
            self._end_epoch()
        return ""

    def _end_epoch(self) -> None:
        """Have the loop open its data anew; what it has not logged is logged now, so that nothing is mixed."""
        self._control.should_epoch_stop = self._control.should_log = True

    def _mend_epochs(self) -> None:
        """From now on the epoch that callbacks see is the data's."""
        callbacks = self.trainer.callback_handler.callbacks
        if self.state is not None and not any(isinstance(callback, EpochMender) for callback in callbacks):
            self.trainer.callback_handler.callbacks = [EpochMender(self.feed, self.state), *callbacks]

    # -- checkpoints ------------------------------------------------------------------------------------------

    def checkpoint_refusal(self) -> str:
        if self.state is None:
            return REFUSAL
        return self.state.refusal() or self.feed.refusal()

    def found_checkpoints(self) -> list[Path]:
        found = {path.absolute() for path in Path(self._args.output_dir).glob("checkpoint-*")}
        return list(found if self.resumed is None else found | {self.resumed})

    def resumed_from(self) -> Path | None:
        return self.resumed

    def note_resume(self, asked: object) -> None:
        """Take note of what `train(resume_from_checkpoint=...)` was given, read as the Trainer reads it.

        Args:
            asked: A path, or True for the newest in the output folder; anything else begins anew.
        """
        if asked is True:
            output_dir = self.trainer.args.output_dir
            asked = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
        self.resumed = Path(asked).absolute() if isinstance(asked, (str, Path)) else None

    def saves_for_restart(self) -> bool:
        strategy = str(getattr(self._args.save_strategy, "value", self._args.save_strategy))
        if self.trainer is None or strategy == "best" or self._args.save_only_model:
            return False  # "best" drops the request where it evaluates
        # Once it has ended, the loop would delete the newest in favour of the best.
        return not (self._args.load_best_model_at_end and self._args.save_total_limit == 1)

    def resume_words(self, path: Path) -> str:
        return f"resume_from_checkpoint={str(path)!r}"

    def is_settled(self) -> bool:
        return self.settled or bool(self._control.should_training_stop)

    def _own_state(self) -> HfState:
        if self.state is None:
            raise NotSupported(REFUSAL)
        return self.state

    def capture(self) -> TrainingState:
        return self._own_state().capture()

    def write_model(self, folder: Path) -> None:
        self._own_state().write_model(folder)

    def check_state(self, state: TrainingState) -> None:
        self._own_state().check(state)

    def restore(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        def restored() -> None:
            if state.loop.get(DATA_WENT_ON) and self.plan.epochs is not None:
                self.plan.is_extended = True  # the planned epochs are over before the last step
            self.plan.done = self.feed.epoch
            ends_ragged = self.plan.epochs is not None and self.plan.batches % self.accumulation_steps
            self.alignment.due = self.feed.batch % self.plan.batches if ends_ragged else 0
            self.first_step = -1  # flags are heeded from here on
            self._mend_epochs()
            self._state.epoch = self.feed.epoch + self.feed.batch / max(1, self.plan.batches)
            self.settled = True
            try:
                on_restored()
            finally:
                self.settled = False
                self.after_restoring()

        self._own_state().request(state, restored)
        if self.feed.must_end_epoch:
            self._end_epoch()

    def repeats_data(self, state: TrainingState) -> bool:
        return True

    def with_data_of_now(self, state: TrainingState) -> TrainingState:
        return self._own_state().with_data_of_now(state)

    def restore_in_place(self, state: TrainingState) -> None:
        self._own_state().restore(state)

    def restore_note(self, state: TrainingState) -> str:
        draws = state.extra.get("draws", {})
        _, batch = self._own_state().position(state, self.accumulation_steps)
        notes = ["what data-loader workers draw at random by themselves is drawn anew"] if self.feed.workers else []
        names = [*self.feed.lost(draws, batch), *lost(self.model(), state.extra)]
        if names:
            notes.append(f"the checkpoint does not tell these, which stay as they are: {some(names)}")
        if batch and "opened" not in draws and self.feed.may_reorder:
            notes.append("the rest of this epoch may come in another order: the checkpoint does not tell how it began")
        return "; ".join(notes)

    def output_dir(self) -> Path:
        """Where the loop saves, or one level below in a hyperparameter search."""
        return Path(self._args.output_dir).absolute()

    def loop_folder(self) -> LoopFolder:
        folder = self.output_dir()
        if self.trainer is not None:  # in a hyperparameter search, that of the trial
            folder = Path(self.trainer._get_output_dir(getattr(self.trainer, "_trial", None))).absolute()
        is_used = str(getattr(self._args.save_strategy, "value", self._args.save_strategy)) != "no"
        return LoopFolder(folder, self._args.save_total_limit, is_used)

    # -- trials -----------------------------------------------------------------------------------------------

    def trial_refusal(self) -> str:
        if self._control.should_training_stop:
            return "training ends at this step"
        return self.checkpoint_refusal()

    def begin_trials(self, trials: Trials) -> None:
        callbacks = self.trainer.callback_handler.callbacks
        self._guard = TrialGuard(trials, int(self.trainer._globalstep_last_logged))
        self._shield = Shield(trials.fail)
        for callback in callbacks:
            if callback is not self.trainer.interactive:
                self._shield.cover(callback, EVENTS)
        self._shield.cover(self._optimizer, ["step"])
        self._shield.cover(self._scheduler, ["step"])
        self.feed.failed = trials.lose
        # A new list: the handler may be walking through the old one.
        self.trainer.callback_handler.callbacks = [*callbacks, self._guard]

    def end_trials(self) -> None:
        guard, shield = self._guard, self._shield
        if guard is None or shield is None:
            return
        self._guard = self._shield = None
        shield.lift()
        self.feed.failed = not_ours
        callbacks = self.trainer.callback_handler.callbacks
        self.trainer.callback_handler.callbacks = [c for c in callbacks if c is not guard]
        self.trainer._globalstep_last_logged = guard.last_logged

    def loads_best(self) -> bool:
        return bool(self._args.load_best_model_at_end)

    # -- actions ----------------------------------------------------------------------------------------------

    def can_end_here(self) -> bool:
        # Where the next step has begun, the loop looks at its flags after that step only.
        return int(self._state.global_step) > self.first_step and not self.has_begun_step

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
        return numbers_of(metrics)


def _resumed_from(args: Any, state: Any) -> Path | None:
    """The checkpoint that the loop's state was read from, as far as a callback can tell: it is not told the path.

    One that the arguments name, or of this step in the output folder, if its own state has the same steps and log.
    """
    asked = getattr(args, "resume_from_checkpoint", None)
    named = [Path(asked)] if isinstance(asked, str) else []
    for folder in (*named, Path(args.output_dir) / f"checkpoint-{state.global_step}"):
        file = folder / LOOP_STATE
        if file.is_file():
            saved = TrainerState.load_from_json(str(file))
            # As JSON: a loss that is no number equals itself there.
            if saved.global_step == state.global_step and dumps(saved.log_history) == dumps(state.log_history):
                return folder.absolute()
    return None
