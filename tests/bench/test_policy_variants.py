"""Policies made of other runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agenttune.bench.backends.backend import InProcess
from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.cells import cells_of
from agenttune.bench.contenders.contender import CONTENDERS, Trial
from agenttune.bench.contenders.shipped import contenders
from agenttune.bench.in_process import RUN_ID, PolicyBroke
from agenttune.bench.runner import Runner
from agenttune.bench.store import Store
from agenttune.bench.suite import load_suite
from agenttune.errors import AgenttuneError, ConfigError
from agenttune.protocol.events import Event, Probed
from agenttune.store.run_log import RunLog

FACTS = task_facts("sim_quadratic")


def play(folder: Path, contender: str, fault: str = "healthy", seed: int = 0, **spec: Any) -> Outcome:
    contenders()
    scenario = Scenario(task=FACTS.name, fault=fault, recipe=FACTS.recipe.with_changes(steps=200, eval_every=20))
    cell = Cell(scenario=scenario, seed=seed, split="development", contender=contender, spec=spec)
    kind = CONTENDERS[contender]
    folder.mkdir()
    return kind(kind.settings(**spec)).play(Trial(cell, FACTS, folder, folder.parent))


def test_chance_makes_as_many_changes_as_the_policy_that_it_is_like(tmp_path: Path) -> None:
    like = play(tmp_path / "like", "policy", policy="random", seed=1)
    matched = play(tmp_path / "matched", "matched_random", like="random", seed=1)
    assert abs(len(matched.interventions) - len(like.interventions)) <= 1
    assert len(like.interventions) >= 2
    assert matched.interventions != like.interventions
    none = play(tmp_path / "none", "matched_random", like="noop")
    assert none.interventions == []
    assert none.trained is not None
    assert none.trained.losses == play(tmp_path / "alone", "none").trained.losses  # type: ignore[union-attr]


def test_a_recorded_run_is_done_again_on_another_seed(tmp_path: Path) -> None:
    first = play(tmp_path / "first", "policy", policy="random")
    again = play(tmp_path / "again", "replay", run=f"first/{RUN_ID}", seed=1)
    assert [i.step for i in again.interventions] == [i.step for i in first.interventions]
    assert [i.state for i in again.interventions] == ["applied"] * len(first.interventions)
    assert [i.words.partition(":")[0] for i in again.interventions] == [
        i.words.partition(":")[0] for i in first.interventions
    ]


def test_a_run_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AgenttuneError, match="gone"):
        play(tmp_path / "again", "replay", run="gone")


def test_chance_draws_anew_for_each_seed_and_the_same_again_for_one(tmp_path: Path) -> None:
    zero, one, again = (
        [i.words for i in play(tmp_path / name, "policy", policy="random", seed=seed).interventions]
        for name, seed in (("zero", 0), ("one", 1), ("again", 0))
    )
    assert zero == again
    assert not set(zero) & set(one)


def test_another_recording_is_other_work(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "seeds: 1\nscenarios: [{task: sim_quadratic}]\ncontenders:\n"
        "  - {type: replay, run: first/run, name: run}\n  - {type: replay, run: plan.yaml, name: plan}\n"
    )
    entry = "{at_step: 20, do: {command: update_optimizer, lr: 0.1}, why: a test}"
    (tmp_path / "plan.yaml").write_text(f"type: schedule\nentries: [{entry}]\n")
    play(tmp_path / "first", "policy", policy="random")
    before = {cell.contender: cell.key for cell in cells_of(load_suite(str(suite)))}
    assert before == {cell.contender: cell.key for cell in cells_of(load_suite(str(suite)))}, "it was read only"
    (tmp_path / "plan.yaml").write_text(f"type: schedule\nentries: [{entry.replace('0.1', '0.2')}]\n")
    shutil.rmtree(tmp_path / "first")
    play(tmp_path / "first", "policy", policy="random", seed=1)
    after = {cell.contender: cell.key for cell in cells_of(load_suite(str(suite)))}
    assert not set(before.values()) & set(after.values())
    suite.write_text(suite.read_text().replace("plan.yaml", "gone.yaml"))
    with pytest.raises(ConfigError, match=r"mine.yaml:5: contenders.1: run: there is no schedule .*gone.yaml"):
        load_suite(str(suite))


BY_TIME = str(Path(__file__).parents[1] / "data" / "before" / "2026-11-27" / "policies" / "lookahead.yaml")
"""Lookahead as it was shipped once: every 200 steps, whatever is found."""


def test_a_probe_that_adopts_nothing_is_no_change(tmp_path: Path) -> None:
    ahead = play(tmp_path / "ahead", "policy", policy=BY_TIME)
    assert [i.kind for i in ahead.interventions] == ["probe"] * len(ahead.interventions)
    adopted = [i for i in RunLog.open(tmp_path / "ahead" / RUN_ID).events(kinds=["probed"]) if _adopted(i)]
    assert 0 < len(ahead.interventions) != len(adopted)
    matched = play(tmp_path / "matched", "matched_random", like=BY_TIME)
    assert abs(len(matched.interventions) - len(adopted)) <= 1


def _adopted(event: Event) -> bool:
    return isinstance(event.body, Probed) and event.body.adopted is not None


def test_chance_takes_the_result_of_the_policy_that_it_is_like_and_else_runs_it(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    entries = "[random, {type: matched_random, like: random}]"
    scenario = "{task: sim_quadratic, recipe: {steps: 200, eval_every: 20}}"
    suite.write_text(f"seeds: 1\nscenarios: [{scenario}]\ncontenders: {entries}\n")
    like, chance = cells_of(load_suite(str(suite)))
    outcomes = []
    for name, cells in (("both", [like, chance]), ("alone", [chance])):
        with Store(tmp_path / name) as store:
            Runner(store, InProcess(), tmp_path, 60.0, keeps_runs=True).run(cells)
            made = store.result(chance.key)
        assert made is not None
        outcomes.append(made.outcome)
        assert (tmp_path / name / "runs" / chance.key / "like").exists() == (name == "alone")
    assert [i.words for i in outcomes[0].interventions] == [i.words for i in outcomes[1].interventions] != []
    both, alone = (outcome.trained for outcome in outcomes)
    assert both is not None
    assert alone is not None
    assert (both.final, both.losses) == (alone.final, alone.losses)


def test_chance_like_a_policy_that_fails_has_failed(tmp_path: Path) -> None:
    body = "class P(Policy):\n    def decide(self, observation):\n        raise ValueError\n"
    code = f"from agenttune.policy import Policy\n\n{body}"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    with pytest.raises(PolicyBroke, match=r"\./mine\.py:P, whose rate is wanted, failed"):
        play(tmp_path / "matched", "matched_random", like="./mine.py:P")
