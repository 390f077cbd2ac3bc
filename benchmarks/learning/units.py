"""Which trainings the learned policy learns from: drawn from the development range, by a number each."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TypeVar

from agenttune.bench.catalog import TASKS
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.faults import FAULTS, WRONG_RATES, Group, fault_kind
from agenttune.bench.training import Recipe, Schedule
from agenttune.protocol.proposals import Record

T = TypeVar("T")
FIRST_SEED, SEEDS = 5_000, 5_000
"""Of the development range; the suites' seeds are below."""
WEIGHTS: Mapping[str, float] = {
    "sim_quadratic": 4,
    "sim_curve": 4,
    "sim_groups": 2,
    "mnist_cnn": 3,
    "mnist_cnn_sgd": 3,
    "mlp_overfit": 3,
    "regression_heavy_tail": 2,
    "gan": 1,
}
"""How often each task is drawn: simulators cost a fifth of a real network (measured)."""
ANY_RATE = 0.3
"""Part of the trainings in which nothing is wrong but the rate, by any factor."""
HEALTHY = 0.2
"""Part in which nothing is wrong."""
WIDEST_RATE = (0.004, 250.0)
"""Factors of the best-known rate: some beyond what the faults have."""
NEAR_RATE = (0.5, 1.6)
"""The same where the rate is not the fault: what people would call well tuned."""
TOO_HIGH, TOO_LOW = 3.0, 0.3
"""Factors beyond which the rate counts as the fault (guess)."""
SCHEDULES: Mapping[Schedule, float] = {
    "constant": 5,
    "cosine": 3,
    "linear": 1,
    "warmup_stable_decay": 1,
    "inverse_sqrt": 1,
}
LENGTHS: Mapping[float, float] = {0.5: 3, 1.0: 2}
"""Parts of the task's own number of steps: short ones cost less, and a policy must not go by the length of a run."""


class Unit(Record):
    """One training that is done again and again.

    Attributes:
        number: By which it is drawn.
        group: What goes wrong, as reports sum it up; a rate that is far off counts as what it is.
    """

    number: int
    cell: Cell
    group: Group

    @property
    def task(self) -> str:
        return self.cell.scenario.task


def draw_unit(number: int) -> Unit:
    """The same for the same number."""
    source = random.Random(f"learned policy:{number}")
    facts = TASKS[_drawn(source, WEIGHTS)]
    recipe, place = facts.recipe, source.random()
    if place < ANY_RATE:
        fault, factor = "healthy", _between(source, WIDEST_RATE)
    else:
        others = [
            k.name for k in FAULTS.values() if k.name not in WRONG_RATES and (not k.needs or k.name in facts.faults)
        ]
        fault = "healthy" if place < ANY_RATE + HEALTHY else source.choice(others)
        factor = _between(source, NEAR_RATE)
    group = fault_kind(fault).group if TOO_LOW <= factor <= TOO_HIGH else _group_of(factor)
    length = _drawn(source, LENGTHS)
    scenario = Scenario(task=facts.name, fault=fault, recipe=_recipe(source, recipe, factor, length), label=f"{number}")
    cell = Cell(
        scenario=scenario,
        seed=FIRST_SEED + source.randrange(SEEDS),
        split="development",
        contender="planned",
        spec={"type": "planned"},
    )
    return Unit(number=number, cell=cell, group=group)


def _group_of(factor: float) -> Group:
    return "rate too high" if factor > 1 else "rate too low"


def _recipe(source: random.Random, recipe: Recipe, factor: float, length: float) -> Recipe:
    schedule = _drawn(source, SCHEDULES)
    warmup_frac = 0.05 if schedule != "constant" or source.random() < 0.25 else 0.0
    return recipe.with_changes(
        lr=recipe.lr * factor,
        schedule=schedule,
        warmup_frac=warmup_frac,
        steps=round(recipe.steps * length),
        eval_every=max(1, round(recipe.eval_every * length)),
    )


def _drawn(source: random.Random, weights: Mapping[T, float]) -> T:
    return source.choices(list(weights), list(weights.values()))[0]


def _between(source: random.Random, span: tuple[float, float]) -> float:
    return math.exp(source.uniform(*map(math.log, span)))
