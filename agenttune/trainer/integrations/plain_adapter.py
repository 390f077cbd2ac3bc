"""A loop written by hand, as a session sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.errors import NotSupported
from agenttune.protocol.run_facts import RunFacts
from agenttune.trainer.adapter import Trials, not_ours
from agenttune.trainer.checkpoints.generators import read_rng
from agenttune.trainer.checkpoints.training_state import TrainingState
from agenttune.trainer.integrations.loop_adapter import DATASET_KINDS, Evaluate, LoopAdapter, undisturbed
from agenttune.trainer.integrations.loop_batches import Batches, DataPlace
from agenttune.trainer.integrations.model_facts import facts_of, loader_facts


class PlainAdapter(LoopAdapter):
    """A loop written by hand."""

    commands = (*LoopAdapter.commands, "update_training", "probe", *DATASET_KINDS)

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: object | None,
        dataset: object | None,
        evaluate: Evaluate | None,
        max_steps: int | None,
        scaler: Any,
    ) -> None:
        lacking = {}
        if evaluate is None and type(self).evaluate is PlainAdapter.evaluate:  # an adapter may evaluate by itself
            lacking["do_evaluate"] = "agenttune.session was given no evaluate= (a function that returns metrics)"
        super().__init__(f"PyTorch {torch.__version__} loop", optimizer, lacking, model, scheduler, max_steps, scaler)
        self._dataset, self._evaluate = dataset, evaluate
        self.batches: Batches | None = None
        self.resumed: Path | None = None

    def resumed_from(self) -> Path | None:
        return self.resumed

    def resume_words(self, path: Path) -> str:
        return f"{super().resume_words(path)}, and name it to agenttune.session as resumed_from"

    def train_dataset(self) -> object | None:
        return self.batches.dataset if self.batches is not None else self._dataset

    def facts(self) -> RunFacts:
        if self.batches is None:
            return super().facts()
        data = loader_facts(self.batches.loader)
        length = data["epoch_steps"]
        epochs = self._max_steps / length if length and self._max_steps is not None else None
        return facts_of(self.optimizer(), self.model(), **data, epochs=epochs)

    def replace_dataset(self, dataset: object, keeps_place: bool = False) -> str:
        if self.batches is None:
            raise NotSupported("this loop draws its batches itself; iterate over s.batches(loader) to reload its data")
        return self.batches.replace(dataset, keeps_place)

    def replacement(self, dataset: object) -> Callable[[], str]:
        is_own = type(self).replace_dataset is not PlainAdapter.replace_dataset
        if is_own or self.batches is None:
            return super().replacement(dataset)
        return self.batches.replacement(dataset)

    def redraw(self) -> str:
        return super().redraw() if self.batches is None else self.batches.redraw()

    def evaluate(self) -> dict[str, float]:
        if self._evaluate is None:
            raise NotSupported(self.refusal("do_evaluate"))
        with undisturbed(self.model()):
            return self.report(self._evaluate())

    def capture(self) -> TrainingState:
        state = super().capture()
        if self.batches is not None:
            place, state.rng = self._place(state.rng)
            state.loop |= place
        return state

    def with_data_of_now(self, state: TrainingState) -> TrainingState:
        place, rng = self._place(read_rng())
        return replace(state, loop=state.loop | place, rng=rng)

    def _place(self, rng: dict[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
        """Where the data stands, and the random states that belong to it; `rng`: those of the process."""
        assert self.batches is not None
        place = self.batches.place(rng)
        own = {"opened": place.opened, "generators": place.rng["generators"]}
        return {"epoch": place.epoch, "batch": place.batch}, rng | own

    def restore(self, state: TrainingState, on_restored: Callable[[], None]) -> None:
        if self.repeats_data(state) and self.batches is not None:
            self.batches.seek(DataPlace(state.loop["epoch"], state.loop["batch"], state.rng["opened"], state.rng))
        super().restore(state, on_restored)

    def restore_note(self, state: TrainingState) -> str:
        if self.repeats_data(state):
            return ""
        if self.batches is None:
            return f"{super().restore_note(state)}; draw it with s.batches(loader) to have it go back too"
        return super().restore_note(state)

    def trial_refusal(self) -> str:
        if self.checkpoint_refusal() or self.should_stop():
            return self.checkpoint_refusal() or "training ends at this step"
        if self._max_steps is None:
            return "the loop's end would not go back; give agenttune.session max_steps, and end when step() says so"
        if self.batches is None or not self.batches.can_seek:
            return "the data would not go back; draw it with s.batches(loader) from a torch DataLoader"
        return ""

    def begin_trials(self, trials: Trials) -> None:
        if self.batches is not None:
            self.batches.failed = trials.lose

    def end_trials(self) -> None:
        if self.batches is not None:
            self.batches.failed = not_ours

    def end_boundary(self) -> None:
        super().end_boundary()
        if self.batches is not None:
            self.batches.begin_step()

    def repeats_data(self, state: TrainingState) -> bool:
        return self.batches is not None and self.batches.can_seek and "batch" in state.loop

    def should_stop(self) -> bool:
        return self.wants_stop or (self._max_steps is not None and self.step >= self._max_steps)
