"""Accidents, which happen once in a training.

After a return to before, it does not happen again; in a trial it does, and is still to come when that is undone.
"""

from __future__ import annotations

from abc import abstractmethod

from agenttune.bench.tasks.injection.injector import Injector


class AtOneStep(Injector):
    """Happens between two steps."""

    _is_over = False

    def go_on_at(self, step: int) -> None:
        self._is_over = step >= max(1, self.fault.step)

    @abstractmethod
    def happen(self) -> None:
        """Do it; in a trial, whoever ends the trial undoes it."""

    def after_step(self, step: int, is_trial: bool = False) -> None:
        if self._is_over or step != max(1, self.fault.step):
            return
        self.happen()
        self._is_over = not is_trial


class OverSteps(Injector):
    """Happens in some steps, one after the other; a return ends it even in the midst of them."""

    _is_over = False
    _completed = 0

    @property
    @abstractmethod
    def length(self) -> int:
        """Steps that it takes."""

    def go_on_at(self, step: int) -> None:
        self._is_over, self._completed = False, step

    def strikes(self, step: int) -> bool:
        """Whether it happens in this step."""
        # A trial begins where the run stands: only a return of the run itself comes out before that.
        if step < self._completed and self._completed > self.fault.step:
            self._is_over = True
        return not self._is_over and self.fault.step <= step < self.fault.step + self.length

    def after_step(self, step: int, is_trial: bool = False) -> None:
        if not is_trial:
            self.strikes(step)
            self._completed = step
