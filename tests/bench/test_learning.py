"""What the learned policy is made of: the benchmark's own trainings, done again with one change more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agenttune.bench.backends.backend import InProcess
from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.faults import DEVELOPMENT_SEEDS
from agenttune.bench.play import Work, play
from agenttune.bench.suite import load_suite
from agenttune.policy.learned.ensemble import Ensemble, load_ensemble
from agenttune.policy.learned.features import NAMES, of_run
from agenttune.replay.learning.fit import Fitting, table
from agenttune.replay.learning.moments import BY_NAME, read_moments
from benchmarks.learning.counterfactuals import moments_of, play_plan
from benchmarks.learning.judging import NEW_FAULT, NEW_TASK, judge, table_of
from benchmarks.learning.making import make, numbers_of
from benchmarks.learning.thresholds import thresholds_table
from benchmarks.learning.units import FIRST_SEED, Unit, draw_unit
from tests.policy.test_learned import moments

STEPS = 80


def unit(fault: str = "lr_x30", **recipe: float) -> Unit:
    changed = task_facts("sim_quadratic").recipe.with_changes(steps=STEPS, eval_every=20, **recipe)
    scenario = Scenario(task="sim_quadratic", fault=fault, recipe=changed)
    cell = Cell(scenario=scenario, seed=FIRST_SEED, split="development", contender="planned")
    return Unit(number=0, cell=cell, group="rate too high")


def test_units_are_of_the_development_range_and_of_no_suites_seeds() -> None:
    drawn = [draw_unit(number) for number in range(60)]
    assert drawn == [draw_unit(number) for number in range(60)]
    assert all(one.cell.seed in DEVELOPMENT_SEEDS and one.cell.seed >= FIRST_SEED for one in drawn)
    assert {one.cell.split for one in drawn} == {"development"}
    assert len({one.group for one in drawn}) > 5
    further = [draw_unit(number).task for number in numbers_of(5, 10)[5:]]
    assert all(task.startswith("sim_") for task in further)


def test_what_is_known_at_the_moment_of_a_change_is_what_was_known_without_it(tmp_path: Path) -> None:
    alone = play_plan(unit(), {}, tmp_path / "run")
    changed = play_plan(unit(), {1: "rate_x0.3"}, tmp_path / "run")
    assert changed.took
    assert (of_run(changed.known[1]) == of_run(alone.known[1])).all()
    assert changed.known[2].names["base_lr"] == pytest.approx(0.3 * alone.known[2].names["base_lr"])
    assert not (tmp_path / "run").exists()


def test_moments_of_a_training_say_what_changes_were_worth_and_are_the_same_again(tmp_path: Path) -> None:
    found = moments_of(unit(), tmp_path / "run")
    assert len(found) > 5
    assert any(moment.gain > 0.1 for moment in found)
    assert {moment.change for moment in found} <= set(BY_NAME)
    assert any(moment.snapshot.names["changes"] for moment in found), "none after another change"
    again = moments_of(unit(), tmp_path / "run")
    assert [(one.change, one.gain) for one in again] == [(one.change, one.gain) for one in found]
    assert (table(again)[0] == table(found)[0]).all()


def test_what_is_made_stays_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.learning.making.draw_unit", lambda number: unit())
    told: list[int] = []
    made = make(tmp_path, [0], 100.0, 0, lambda done: told.append(len(done.moments)))
    assert told == [len(made)]
    assert repr(make(tmp_path, [0], 0.0, 0, lambda done: told.append(0))) == repr(made)
    assert len(told) == 1
    assert repr(read_moments(tmp_path / "unit-00000.jsonl")) == repr(made)


HOW = Fitting(members=4, hidden=(8, 4), steps=40, rows=16)
SUITE = """
seeds: [0]
scenarios: [{task: sim_quadratic, fault: lr_x30, recipe: {steps: 60, eval_every: 20}}]
contenders: [none, oracle, guardian, lookahead]
"""
POLICY = "type: learned\ndescription: made\nweights: learned.safetensors\n"


def test_it_is_judged_by_weights_that_saw_nothing_of_a_task_or_of_a_kind_of_fault(tmp_path: Path) -> None:
    rows = [
        replace(one, task="sim_quadratic" if place % 3 else "other", group="data" if place % 4 else "rate too high")
        for place, one in enumerate(moments(60))
    ]
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "small.yaml").write_text(SUITE, encoding="utf-8")
    suite = load_suite(str(tmp_path / "suites" / "small.yaml"))
    results = judge(suite, rows, POLICY, tmp_path / "judged", InProcess(), HOW)
    assert [result.outcome.failure for result in results if result.state != "done"] == []
    assert [row[0] for row in table_of(results).rows] == ["none", "guardian", NEW_TASK, NEW_FAULT]
    for name, seen in (("task sim_quadratic", 20), ("fault rate too high", 45)):
        made = load_ensemble(tmp_path / "judged" / f"without {name}" / "learned.safetensors").made
        assert made["rows"] == seen


def test_every_threshold_is_told_with_what_came_of_it() -> None:
    found = thresholds_table(moments(60), HOW)
    assert len(found.rows) == 12
    assert {len(row) for row in found.rows} == {len(found.columns)}


def test_a_learned_policy_takes_part_in_a_cell(tmp_path: Path) -> None:
    """One that foretells a gain for every cut makes them, past the gate, and no more than it may."""
    first = np.zeros((4, len(NAMES), 2), dtype=np.float32)
    first[:, NAMES.index("factor"), 0] = -1
    rest = np.ones((4, 2, 2), dtype=np.float32), np.ones((4, 2, 1), dtype=np.float32)
    biases = [np.zeros((4, 1, size), dtype=np.float32) for size in (2, 2, 1)]
    Ensemble([first, *rest], biases).save(tmp_path / "cuts.safetensors")
    text = "type: learned\ndescription: cuts\nweights: cuts.safetensors\nmax_changes: 2\n"
    (tmp_path / "cuts.yaml").write_text(text)
    cell = unit().cell.model_copy(update={"spec": {"type": "policy", "policy": "./cuts.yaml"}, "contender": "cuts"})
    result = play(Work(cell, tmp_path / "run", tmp_path, 60.0))
    assert result.state == "done", result.outcome.failure
    done = [made.state for made in result.outcome.interventions]
    assert done
    assert set(done) == {"applied"}
    assert len(done) <= 2
