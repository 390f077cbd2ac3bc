"""The best constant rate of a task, by trying."""

from __future__ import annotations

from agenttune.bench.catalog import task_facts
from agenttune.bench.grid import Grid, GridPoint, rates_around, search

FACTS = task_facts("sim_quadratic")
RECIPE = FACTS.recipe.with_changes(steps=60, eval_every=30)


def test_the_best_rate_is_found_between_too_low_and_too_high() -> None:
    lr, told = FACTS.recipe.lr, list[float]()
    found = search(FACTS, [100 * lr, lr, lr / 100], seeds=(0, 1), recipe=RECIPE, on_point=lambda p: told.append(p.lr))
    assert told == [lr / 100, lr, 100 * lr]
    assert found.best(FACTS).lr == lr
    assert not found.is_at_edge(FACTS)
    assert [len(point.finals) for point in found.points] == [2, 2, 2]


def test_one_lucky_seed_decides_nothing_and_a_run_that_is_no_number_is_worst() -> None:
    points = [GridPoint(lr=lr, finals=finals, steps_per_s=1.0) for lr, finals in GIVEN.items()]
    found = Grid(task=FACTS.name, split="development", recipe=RECIPE, seeds=[0, 1, 2], points=points)
    assert found.best(FACTS).lr == 0.1
    reward = FACTS.model_copy(update={"direction": "maximize"})
    assert found.best(reward).lr == 1.0
    assert not found.is_at_edge(reward)
    assert found.model_copy(update={"points": points[:3]}).is_at_edge(reward)


GIVEN = {0.01: [0.01, 0.6, 0.7], 0.1: [0.5, 0.5, 0.5], 1.0: [0.4, 0.9, 0.9], 10.0: [float("nan"), float("nan"), 0.1]}


def test_rates_lie_evenly_around_the_given_one() -> None:
    assert rates_around(0.01, decades=1, per_decade=2) == [0.001, 0.0032, 0.01, 0.032, 0.1]
