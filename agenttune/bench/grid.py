"""The best constant rate of a task, by trying: a grid of rates, each with several seeds, without any fault."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from pydantic import Field

from agenttune.bench.catalog import TaskFacts, open_task
from agenttune.bench.training import Recipe, Split, Task, Training
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record

PER_DECADE = 2


class GridPoint(Record):
    """One rate.

    Attributes:
        finals: The task's metric at the end, a number for each seed.
        steps_per_s: Of processor time, evaluations included.
    """

    lr: float
    finals: list[Metric]
    steps_per_s: float

    def score(self, facts: TaskFacts) -> float:
        """The median over the seeds, such that less is better: one lucky or unlucky seed decides nothing."""
        return statistics.median(facts.cost(final) for final in self.finals)


class Grid(Record):
    """All rates of a task, the lowest first."""

    task: str
    split: Split
    recipe: Recipe
    seeds: list[int]
    points: list[GridPoint] = Field(default_factory=list)

    def best(self, facts: TaskFacts) -> GridPoint:
        """The rate to use; of equal ones the lower."""
        return min(self.points, key=lambda point: (point.score(facts), point.lr))

    def is_at_edge(self, facts: TaskFacts) -> bool:
        """Whether the best is the first or the last: a wider grid may have a better one."""
        return self.best(facts).lr in (self.points[0].lr, self.points[-1].lr)


def rates_around(lr: float, decades: float = 1.5, per_decade: int = PER_DECADE) -> list[float]:
    """Rates evenly spaced in their logarithms, `lr` in the middle, to two digits."""
    count = round(decades * per_decade)
    return [float(f"{lr * 10 ** (place / per_decade):.2g}") for place in range(-count, count + 1)]


def search(
    facts: TaskFacts,
    rates: Sequence[float] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    split: Split = "development",
    recipe: Recipe | None = None,
    on_point: Callable[[GridPoint], object] | None = None,
    opened: Task | None = None,
) -> Grid:
    """Train with every rate and seed.

    Args:
        facts: The task's.
        rates: Constant rates; default: around that of the recipe.
        seeds: Of the split's range.
        split: Which networks and data.
        recipe: What else holds; default: the task's own.
        on_point: Gets each rate when its seeds are done.
        opened: The task itself, where there is one already.

    Raises:
        TaskDataMissing: What the task needs is not on this machine.
    """
    task, base = opened or open_task(facts), recipe or facts.recipe
    grid = Grid(task=facts.name, split=split, recipe=base, seeds=list(seeds))
    for lr in sorted(rates or rates_around(base.lr)):
        grid.points.append(_point(task, base.with_changes(lr=lr), seeds, split))
        if on_point is not None:
            on_point(grid.points[-1])
    return grid


def _point(task: Task, recipe: Recipe, seeds: Sequence[int], split: Split) -> GridPoint:
    done = [task.train(Training(recipe=recipe, seed=seed, split=split, budget=recipe.steps)) for seed in seeds]
    seconds = math.fsum(trained.process_seconds for trained in done)
    steps = sum(trained.total_steps for trained in done)
    return GridPoint(
        lr=recipe.lr, finals=[trained.final for trained in done], steps_per_s=steps / seconds if seconds else 0.0
    )
