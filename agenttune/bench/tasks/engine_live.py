"""What a hook sees of a training, over either loop."""

from __future__ import annotations

from typing import Any, Protocol

from agenttune.bench.tasks.course import Course
from agenttune.bench.tasks.injection import Injector
from agenttune.bench.tasks.optimizers import base_lr, load_state, save_state, scale_lr
from agenttune.bench.training import Live, Recipe


class Loop(Protocol):
    """A loop with what it trains.

    Attributes:
        fault_offset: What is added to the step at which the fault finds training.
    """

    fault_offset: int

    @property
    def recipe(self) -> Recipe: ...

    @property
    def step(self) -> int: ...

    @property
    def course(self) -> Course: ...

    @property
    def injector(self) -> Injector: ...

    @property
    def model(self) -> Any: ...

    @property
    def optimizer(self) -> Any: ...

    @property
    def scheduler(self) -> Any: ...

    def look(self) -> float:
        """The metric now, as the run shows it; NaN where it shows none."""
        ...


class EngineLive(Live):
    """A training between two steps."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.is_stopped = False

    @property
    def recipe(self) -> Recipe:  # type: ignore[override]
        return self._loop.recipe

    @property
    def step(self) -> int:  # type: ignore[override]
        return self._loop.step

    @property
    def total_steps(self) -> int:  # type: ignore[override]
        return self._loop.course.total_steps

    @property
    def lr(self) -> float:
        return float(self._loop.optimizer.param_groups[0]["lr"])

    @property
    def base_lr(self) -> float:
        return base_lr(self._loop.optimizer, self._loop.scheduler)

    def scale_lr(self, factor: float) -> None:
        scale_lr(self._loop.optimizer, self._loop.scheduler, factor)

    def save(self) -> Any:
        return save_state(self._loop.model, self._loop.optimizer)

    def load(self, saved: Any, clear_optimizer: bool = False) -> None:
        load_state(self._loop.model, self._loop.optimizer, saved, clear_optimizer)

    def take_up(self, step: int, copies: int) -> None:
        self._loop.fault_offset = self._loop.injector.take_up(step, copies, self.step)

    def evaluate(self) -> float:
        self._loop.course.extra_evaluations += 1
        return self._loop.look()

    def stop(self) -> None:
        self.is_stopped = True
