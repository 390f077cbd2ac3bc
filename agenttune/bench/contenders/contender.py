"""What a contender is, and the trial that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from agenttune.bench.catalog import TaskFacts, open_task
from agenttune.bench.cell import Cell, Outcome
from agenttune.bench.faults import draw, fault_kind, faulty_recipe
from agenttune.bench.seeds import seed_generators
from agenttune.bench.training import Agent, Fault, Hook, Recipe, Task, Trained, Training
from agenttune.config.setting import Settings


class ContenderSettings(Settings):
    """Base of a contender's parameters in a suite file."""


@dataclass
class Trial:
    """A contender's turn in a cell: it may train as often as its budget of steps allows.

    Attributes:
        cell: What is to be done.
        facts: The task's figures.
        folder: For the run's log and whatever else; empty at the start.
        project: Folder that relative paths of policies count from.
        answers: Folder in which answers of language models are kept; None: they are not.
        looked_up: What came of the same scenario and seed for the entry that the contender `looks_up`; None: not known.
        steps_spent: Optimizer steps made so far, of all trainings.
        seconds_spent, evaluations_spent: Their wall time and evaluations, but for the final one, which is the
            benchmark's own.
    """

    cell: Cell
    facts: TaskFacts
    folder: Path
    project: Path
    open: Callable[[TaskFacts], Task] = open_task
    answers: Path | None = None
    looked_up: Outcome | None = None
    steps_spent: int = 0
    seconds_spent: float = 0.0
    evaluations_spent: int = 0
    _task: Task | None = field(default=None, repr=False)

    @property
    def budget(self) -> int:
        """Optimizer steps that all trainings of the cell may make together."""
        return self.cell.scenario.recipe.steps

    @property
    def steps_left(self) -> int:
        return self.budget - self.steps_spent

    @property
    def fault(self) -> Fault:
        """What goes wrong: the same for every contender of a seed."""
        cell = self.cell
        return draw(fault_kind(cell.scenario.fault), cell.scenario.task, cell.seed, cell.split, self.budget)

    def fault_within(self, steps: int) -> Fault:
        """What goes wrong, at the same part of a training of fewer steps: a shorter one does not get round it."""
        return self.fault.model_copy(update={"step": round(self.fault.step * steps / self.budget)})

    @property
    def recipe(self) -> Recipe:
        """The user's recipe, with the fault if it lies in there."""
        return faulty_recipe(self.cell.scenario.recipe, self.fault)

    @property
    def spent_before(self) -> dict[str, Any]:
        """What was spent so far, as an outcome tells it of all that came before the training that is delivered."""
        return {
            "steps_before": self.steps_spent,
            "seconds_before": self.seconds_spent,
            "evaluations_before": self.evaluations_spent,
        }

    def train(
        self,
        recipe: Recipe | None = None,
        hooks: Sequence[Hook] = (),
        agent: Agent | None = None,
        budget: int | None = None,
        jitter: bool = False,
        fault: Fault | None = None,
        without_fault: bool = False,
        is_free: bool = False,
    ) -> Trained:
        """One training from the cell's start, with its fault.

        Args:
            recipe: Instead of the user's.
            hooks: Between its steps.
            agent: Takes part.
            budget: Steps at most; default: what is left.
            jitter: As in `Training`.
            fault: Instead of the cell's, as `fault_within` has it.
            without_fault: For references: nothing goes wrong.
            is_free: For references: it has the whole budget for itself and its steps are not paid for.
        """
        if self._task is None:
            self._task = self.open(self.facts)
            seed_generators(self.cell)  # torch, which is loaded by now
        left = self.budget if is_free else self.steps_left
        allowed = left if budget is None else min(budget, left)
        trained = self._task.train(
            Training(
                recipe=recipe or self.recipe,
                seed=self.cell.seed,
                split=self.cell.split,
                budget=allowed,
                fault=None if without_fault else fault or self.fault,
                hooks=hooks,
                agent=agent,
                jitter=jitter,
            )
        )
        if not is_free:
            self.steps_spent += trained.total_steps
            self.seconds_spent += trained.seconds
            self.evaluations_spent += len(trained.evaluations) - 1 + trained.extra_evaluations
        return trained


class Contender(ABC):
    """Takes part in the benchmark. One class, one file or one neighbourhood of a file; registered by `CONTENDERS`.

    Attributes:
        name: In suites.
        about: In a sentence, for reports.
        role: `reference` (no contender proper), `policy` (acts through the gate), `recipe` (what people would use).
        settings: Its parameters' class.
        acts_through_gate: Whether an agent takes part, so that what a suite sets for agents counts.
        policies: Parameters that name a policy, whose files' checksums are part of what a result rests on.
        sees_fault: Whether the scenario's fault changes anything for it; a reference that does not is done once for all
            faults of a task and seed.
        gets_round: Faults that never reach it, as the setting that is wrong is one that it replaces: what it gains
            there says nothing about what it would make of them.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    role: ClassVar[Literal["reference", "policy", "recipe"]]
    settings: ClassVar[type[ContenderSettings]] = ContenderSettings
    acts_through_gate: ClassVar[bool] = False
    policies: ClassVar[tuple[str, ...]] = ()
    sees_fault: ClassVar[bool] = True
    gets_round: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Any) -> None:
        self.given = settings

    def made_of(self, project: Path) -> dict[str, str]:
        """What a result rests on beside code and policies, such as a recorded run: SHA-256 by path.

        Args:
            project: Folder that relative paths count from.

        Raises:
            ConfigError: It is not there.
        """
        return {}

    def looks_up(self) -> dict[str, Any] | None:
        """Another entry whose outcome serves this contender, where the suite has it: `type` and parameters."""
        return None

    @abstractmethod
    def play(self, trial: Trial) -> Outcome:
        """Train, and say what came of it.

        Raises:
            Exception: Whatever it is, the cell has failed, and its traceback is kept.
        """


CONTENDERS: dict[str, type[Contender]] = {}
"""By name; filled by `register`."""


def register(contender: type[Contender]) -> type[Contender]:
    """Offer a contender under its name."""
    CONTENDERS[contender.name] = contender
    return contender
