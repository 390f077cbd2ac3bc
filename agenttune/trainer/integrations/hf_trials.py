"""Trials in transformers' Trainer, steps that will be undone: the loop does nothing else in them that it has planned,
and an error costs the trial, not the run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback

from agenttune.trainer.adapter import Trials

EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
"""What a callback can be told."""
Failed = Callable[[Exception], bool]


class TrialGuard(TrainerCallback):  # type: ignore[misc]
    """The last of the callbacks during trials; clears the flags that the others set.

    A save would be found by `resume_from_checkpoint` as if the run had been there; an evaluation would count for early
    stopping and the best model.

    Args:
        trials: Told if a callback wants training to end.
        last_logged: Step of the loop's last log, which no state of transformers 4 holds.
    """

    def __init__(self, trials: Trials, last_logged: int) -> None:
        self._trials = trials
        self.last_logged = last_logged

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clear(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clear(control)

    def _clear(self, control: Any) -> None:
        if control.should_training_stop:
            control.should_training_stop = False
            self._trials.asked_to_end("a callback asked for the end of training")
        control.should_evaluate = control.should_save = control.should_log = False


class Shield:
    """Catches errors, during trials, of what the loop calls beside the step: callbacks, optimizer, schedule.

    An exception in there would leave the loop, which nobody can enter again. So it is caught where it comes up; the
    loop runs to the end of the step, whose results do not matter any more.

    Args:
        failed: Told of an error; whether it belongs to a trial.
    """

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._covered: list[tuple[Any, str, Any]] = []

    def cover(self, holder: Any, names: Iterable[str]) -> None:
        """Wrap some methods of an object, if it can have attributes of its own."""
        for name in names:
            own = getattr(holder, "__dict__", {}).get(name)
            try:
                setattr(holder, name, _caught(getattr(holder, name), self._failed))
            except AttributeError:  # an object with slots; its errors end the run, as without a probe
                return
            self._covered.append((holder, name, own))

    def lift(self) -> None:
        """Unwrap all of them."""
        for holder, name, own in reversed(self._covered):
            if own is None:
                delattr(holder, name)
            else:
                setattr(holder, name, own)
        self._covered.clear()


def _caught(method: Callable[..., Any], failed: Failed) -> Callable[..., Any]:
    @functools.wraps(method)  # schedules look for a mark on the optimizer's step
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not failed(error):
                raise
            return None

    return call
