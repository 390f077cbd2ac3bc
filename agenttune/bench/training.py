"""What a contender and a task say to each other: the recipe of a training, hooks between its steps, what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record

Schedule = Literal["constant", "linear", "cosine", "warmup_stable_decay", "inverse_sqrt", "reduce_lr_on_plateau"]
SCHEDULES: tuple[Schedule, ...] = (
    "constant",
    "linear",
    "cosine",
    "warmup_stable_decay",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
)
Optimizer = Literal["adamw", "sgd", "prodigy", "schedule_free"]
Split = Literal["development", "test"]
"""Faults, seeds, networks and data of the two ranges are disjoint; policies are tuned on the first only."""


class Recipe(Record):
    """What a training script would say of its optimization.

    Attributes:
        lr: Peak learning rate.
        schedule: Its course over `steps`.
        warmup_frac: Part of `steps` in which the rate rises from 0.
        decay_after_frac: Part of `steps` after which the rate is only `decay_to_frac` of its own: a schedule that ends
            too early; None: it does not.
        max_grad_norm: Gradients are clipped to it; 0: not at all.
        steps: Optimizer steps that the schedule is laid out for.
        eval_every: Steps between two evaluations.
    """

    lr: float
    schedule: Schedule = "constant"
    warmup_frac: float = 0.0
    decay_after_frac: float | None = None
    decay_to_frac: float = 0.02
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    steps: int
    eval_every: int

    def with_changes(self, **changes: Any) -> Recipe:
        """The same with other values."""
        return Recipe.model_validate(self.model_dump() | changes)


class Fault(Record):
    """What goes wrong in a scenario, drawn for one seed.

    Attributes:
        kind: As in `bench/faults.py`.
        step: Completed steps after which it sets in; 0: from the start.
        values: Its parameters.
    """

    kind: str
    step: int = 0
    values: dict[str, float | int | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _as_stored_before(cls, given: Any) -> Any:
        """Results of before have a field that was never set."""
        return {name: value for name, value in given.items() if name != "layer"} if isinstance(given, dict) else given


class EvalPoint(Record):
    """An evaluation, or the one after the last step.

    Attributes:
        total_steps: Optimizer steps made so far, with those of probes and those that a return undid.
        step: Where training stands.
        seconds: Since the first step, waiting for decisions included.
        value: The task's metric.
    """

    total_steps: int
    step: int
    seconds: float
    value: Metric


class Trained(Record):
    """What came of a training.

    Attributes:
        final: The task's metric after the last step that the budget paid for, on rows that no other evaluation of the
            training sees: what was chosen by its evaluations is not judged by them.
        start: The metric before the first step, on the rows of the run's evaluations; None: not measured.
        evaluations: All of them, oldest first, the final one included; those of probes are not.
        extra_evaluations: Beside those of the loop's own plan and the final one: for hooks, probes and commands.
        losses: Training losses as (total steps, step, loss), thinned to some hundred.
        lrs: The rate in use, at the same steps.
        total_steps: Optimizer steps made.
        probe_steps: Those of them that trials took, whose states were left again; None: not known, as in results of
            before.
        seconds: Wall time of them.
        process_seconds: Processor time of this process in them.
        fault_layer: Dotted name of the layer that the fault struck.
        run_id: Of the run's log, where an agent took part.
    """

    final: Metric
    start: Metric | None = None
    evaluations: list[EvalPoint] = Field(default_factory=list)
    extra_evaluations: int = 0
    losses: list[tuple[int, int, Metric]] = Field(default_factory=list)
    lrs: list[Metric] = Field(default_factory=list)
    total_steps: int = 0
    probe_steps: int | None = None
    seconds: float = 0.0
    process_seconds: float = 0.0
    fault_layer: str | None = None
    run_id: str | None = None

    def total_at(self, step: int) -> int:
        """Total steps when training first had completed so many; those of the end where it never came so far."""
        if not self.losses:
            return step
        return next((total - (at - step) for total, at, _ in self.losses if at >= step), max(step, self.total_steps))


class Live(ABC):
    """A training between two steps, as a hook sees it; the same over every loop.

    Attributes:
        recipe: What it began with.
        step: Completed steps of this training.
        total_steps: Steps that it has made, those of probes and repeated ones included.
    """

    recipe: Recipe
    step: int
    total_steps: int

    @property
    @abstractmethod
    def lr(self) -> float:
        """The rate in use, of the first parameter group."""

    @property
    def base_lr(self) -> float:
        """What the schedule scales to get it; the rate itself where it scales nothing."""
        return self.lr

    @abstractmethod
    def scale_lr(self, factor: float) -> None:
        """Multiply the rates of all groups, now and for the rest of the schedule."""

    @abstractmethod
    def save(self) -> Any:
        """A copy of weights and optimizer state, in memory."""

    @abstractmethod
    def load(self, saved: Any, clear_optimizer: bool = False) -> None:
        """Put weights and optimizer state back; the data goes on, and rates and schedule stay as they are now.

        Args:
            saved: By `save`.
            clear_optimizer: The weights alone, and an optimizer without a past.
        """

    @abstractmethod
    def take_up(self, step: int, copies: int) -> None:
        """Go on with one of several copies of the training that take turns in it.

        What strikes weights once, such as a batch of garbage, strikes each copy, at its own share of the fault's step.

        Args:
            step: Steps that this copy has completed.
            copies: So many there are.
        """

    @abstractmethod
    def evaluate(self) -> float:
        """The task's metric now, as the run shows it. Costs no steps; random states stay as they are."""

    @abstractmethod
    def stop(self) -> None:
        """End training after this step."""


class Hook:
    """What a contender does between the steps of a training; does nothing unless overridden."""

    def started(self, live: Live) -> None:
        """Before the first step."""

    def stepped(self, live: Live, loss: float) -> None:
        """After a step.

        Args:
            loss: Its training loss.
        """

    def evaluated(self, live: Live, value: float) -> None:
        """After an evaluation of the loop's own plan.

        Args:
            value: The task's metric.
        """

    def ended(self, live: Live) -> None:
        """After the last step, before the final evaluation: weights may still be put back."""


@dataclass(frozen=True)
class Agent:
    """An agent in the training's own process.

    Attributes:
        folder: The folder of runs, in which the log is made.
        run_id: Of the run, whose log exists.
        consult: Called while training waits for a decision; None: the agent is in a process of its own.
    """

    folder: Path
    run_id: str
    consult: Callable[[], object] | None


@dataclass(frozen=True)
class Training:
    """One training, to be done.

    Attributes:
        recipe: Its optimization.
        seed: Of initialization, order of data, and the fault.
        split: Which networks and data.
        budget: Optimizer steps that it may make, those of probes and repeated ones included; it ends there.
        fault: What goes wrong, if anything.
        hooks: Called between steps, in order.
        agent: Takes part, if there is one.
        jitter: Another order of data and other random numbers, from the same first weights: what a run's result
            varies by when nothing else is different.
    """

    recipe: Recipe
    seed: int
    split: Split
    budget: int
    fault: Fault | None = None
    hooks: Sequence[Hook] = ()
    agent: Agent | None = None
    jitter: bool = False


class Task(ABC):
    """A training that can be done again with other recipes, seeds and faults."""

    @abstractmethod
    def train(self, training: Training) -> Trained:
        """Do it. The same argument gives the same result, to the bit.

        Raises:
            TaskDataMissing: What it needs is not on this machine; says how to get it.
        """
