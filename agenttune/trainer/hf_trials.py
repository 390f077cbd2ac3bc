"""Steps of transformers' Trainer that will be taken back: nothing that the loop plans by itself happens in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class TrialGuard(TrainerCallback):  # type: ignore[misc]
    """Stands last among the callbacks while candidates are tried, and clears the flags that the others set.

    A save would be found by `resume_from_checkpoint` as if the run had been there; an evaluation would count for early
    stopping and the best model.

    Args:
        asked_to_end: Told if a callback wants training to end; that waits until the run stands where it stood.
        last_logged: Step of the loop's last log, which no state of transformers 4 holds.
    """

    def __init__(self, asked_to_end: Callable[[str], None], last_logged: int) -> None:
        self._asked_to_end = asked_to_end
        self.last_logged = last_logged

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop:
            control.should_training_stop = False
            self._asked_to_end("a callback asked for the end of training")
        self._clear(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop:
            control.should_training_stop = False
            self._asked_to_end("a callback asked for the end of training")
        self._clear(control)

    def _clear(self, control: Any) -> None:
        control.should_evaluate = control.should_save = control.should_log = False
