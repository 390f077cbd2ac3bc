"""Simulated trainings: what they promise of their dynamics, and that an agent beside them changes nothing by itself."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agenttune.agent import AgentLoop
from agenttune.bench.catalog import open_task, task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.references import GridSettings, Oracle
from agenttune.bench.faults import draw, fault_kind
from agenttune.bench.tasks.loop_training import LoopTask
from agenttune.bench.tasks.sim_quadratic import Law
from agenttune.bench.training import Agent, Hook, Live, Split, Trained, Training
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.base import Decision, Draft, Policy
from agenttune.protocol.commands import LoadCheckpoint, Probe, SaveCheckpoint, UpdateOptimizer
from agenttune.protocol.observation import Observation
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.bench.quadratic_optimum import best_constant, best_schedule, expected_loss

SIMULATORS = ["sim_quadratic", "sim_curve", "sim_groups"]
STEPS = 120


def opened(name: str) -> LoopTask:
    made = open_task(task_facts(name))
    assert isinstance(made, LoopTask)
    return made


def training(name: str, seed: int = 0, split: Split = "development", **changes: Any) -> Training:
    more = {key: changes.pop(key) for key in ("hooks", "agent", "jitter", "fault", "budget") if key in changes}
    recipe = task_facts(name).recipe.with_changes(**{"steps": STEPS, "eval_every": 20, **changes})
    return Training(recipe, seed, split, more.pop("budget", recipe.steps), **more)


def train(name: str, seed: int = 0, split: Split = "development", **changes: Any) -> Trained:
    return opened(name).train(training(name, seed, split, **changes))


@contextlib.contextmanager
def steered(folder: Path, policy: Policy, name: str, **changes: Any) -> Iterator[tuple[Trained, LocalControl]]:
    """A training with a policy in its own process."""
    wake = WakeSettings(mode="lockstep", every_steps=20, early_until_step=0)
    info = RunInfo(
        run_id="run",
        name=name,
        status="starting",
        created_at_s=time.time(),
        goal_metric="eval_loss",
        rules={"wake": wake.model_dump(mode="json"), "gate": {"max_per_minute": 1000}},
    )
    RunLog.create(folder / "run", info).close()
    control = LocalControl(folder)
    loop = AgentLoop(control, "run", policy, wake)
    try:
        trained = opened(name).train(training(name, agent=Agent(folder, "run", loop.tick), **changes))
        loop.detach("over")
        yield trained, control
    finally:
        control.log("run").close()


class Asks(Policy):
    """Asks for one thing after the other, whenever it is asked."""

    name = "asks"

    def __init__(self, *commands: Any) -> None:
        self._left = list(commands)

    def decide(self, observation: Observation) -> Decision:
        if not self._left:
            return Decision()
        command = self._left.pop(0)
        return Decision([Draft(command(observation) if callable(command) else command, "as planned")])


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_simulation_is_the_same_again_and_another_with_another_seed_or_split(name: str) -> None:
    first, again = train(name), train(name)
    assert (first.losses, first.final) == (again.losses, again.final)
    others = [train(name, seed=1), train(name, split="test"), train(name, jitter=True)]
    assert len({trained.final for trained in (first, *others)}) == 4
    assert others[2].final == pytest.approx(first.final, rel=0.3)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "reduce_lr_on_plateau"])
@pytest.mark.parametrize("name", SIMULATORS)
def test_an_agent_that_does_nothing_changes_nothing(name: str, schedule: str, tmp_path: Path) -> None:
    alone = train(name, schedule=schedule, warmup_frac=0.1)
    with steered(tmp_path, Asks(), name, schedule=schedule, warmup_frac=0.1) as (watched, control):
        observation = control.observe("run")
    assert (watched.losses, watched.lrs, watched.final) == (alone.losses, alone.lrs, alone.final)
    assert [(p.step, p.value) for p in watched.evaluations] == [(p.step, p.value) for p in alone.evaluations]
    assert {"step_loss", "loss", "step_grad_norm", "lr"} <= observation.series.keys()
    assert len(observation.evaluations) == STEPS // 20


@pytest.mark.parametrize("name", SIMULATORS)
def test_an_agent_can_change_the_rate_go_back_and_probe(name: str, tmp_path: Path) -> None:
    lr = task_facts(name).recipe.lr

    def back(observation: Observation) -> LoadCheckpoint:
        [saved] = [known for known in observation.checkpoints if not known.kept_as]
        return LoadCheckpoint(checkpoint_id=saved.checkpoint_id)

    tried = Probe(candidates=[UpdateOptimizer(lr=lr / 3)], steps=6)
    policy = Asks(SaveCheckpoint(keep_in="memory"), UpdateOptimizer(lr=lr / 2), back, tried)
    with steered(tmp_path, policy, name) as (trained, control):
        records = control.log("run").commands(principal="agent")
    states = {record.command.kind: record.state.value for record in records}
    assert states == dict.fromkeys(("save_checkpoint", "update_optimizer", "load_checkpoint", "probe"), "applied")
    total, steps = [row[0] for row in trained.losses], [row[1] for row in trained.losses]
    assert trained.total_steps == STEPS == total[-1]  # what was undone and tried is paid for
    assert steps[-1] < STEPS
    assert trained.lrs[steps.index(45)] == pytest.approx(lr / 2)
    went_back = next(i for i, (a, b) in enumerate(itertools.pairwise(steps)) if b < a)
    again = [row[2] for row in trained.losses[went_back + 1 :][:10]]
    assert again == [row[2] for row in train(name).losses[20:30]]  # the same data, the same rate as at that time


@pytest.mark.parametrize("name", SIMULATORS)
def test_the_budget_ends_a_simulation(name: str) -> None:
    cut = train(name, budget=50)
    assert (cut.total_steps, cut.evaluations[-1].step) == (50, 50)
    assert cut.losses == train(name).losses[:50]


def test_the_computed_optimum_of_the_quadratic_is_that_of_a_grid_of_runs() -> None:
    seeds, steps = range(6), 150
    grid = np.geomspace(0.25, 4, 9)
    of_runs = np.zeros(len(grid))
    for seed in seeds:
        best, _ = best_constant(Law.of(seed, "development"), steps)
        runs = [train("sim_quadratic", seed, lr=float(best * factor), steps=steps).final for factor in grid]
        of_runs += np.log(np.nan_to_num(runs, nan=1e3, posinf=1e3).clip(max=1e3))
    assert 0.5 <= grid[of_runs.argmin()] <= 2


def test_the_oracle_of_the_quadratic_ends_about_where_the_computed_optimum_does(tmp_path: Path) -> None:
    facts = task_facts("sim_quadratic")
    recipe = facts.recipe.with_changes(steps=150, eval_every=50)
    for seed in range(4):
        scenario = Scenario(task=facts.name, fault="healthy", recipe=recipe)
        cell = Cell(scenario=scenario, seed=seed, split="development", contender="oracle")
        trained = Oracle(GridSettings()).play(Trial(cell, facts, tmp_path, tmp_path)).trained
        assert trained is not None
        lr, expected = best_constant(Law.of(seed, "development"), 150)
        assert 0.4 < trained.lrs[-1] / lr < 2.5
        assert trained.final == pytest.approx(expected, rel=0.2)


def test_what_is_expected_of_the_quadratic_is_what_comes() -> None:
    law, steps = Law.of(3, "development"), 150
    lr, expected = best_constant(law, steps)
    assert expected_loss(law, np.full((1, steps), lr))[0] == pytest.approx(expected)
    others = expected_loss(law, np.tile(np.array([[lr / 3], [lr * 3]]), (1, steps)))
    assert expected < others.min()
    runs = [
        train("sim_quadratic", 3, lr=lr, steps=steps, jitter=True).final,
        train("sim_quadratic", 3, lr=lr, steps=steps).final,
    ]
    assert np.mean(runs) == pytest.approx(expected, rel=0.3)
    assert law.evaluate(law.start) == pytest.approx(2.3)


def test_the_best_schedule_of_the_quadratic_is_better_than_the_best_rate_and_falls_in_the_end() -> None:
    pytest.importorskip("scipy")
    law = Law.of(0, "development")
    rates, expected = best_schedule(law, 100, knots=6)
    assert expected < best_constant(law, 100)[1]
    assert rates[-1] < 0.3 * rates[50]
    cosine = law.largest_lr * 0.6 * (1 + np.cos(np.linspace(0, math.pi, 100))) / 2
    assert expected < expected_loss(law, cosine[None])[0]


def test_beyond_its_stability_limit_the_quadratic_diverges() -> None:
    law = Law.of(0, "development")
    stable, unstable = (train("sim_quadratic", lr=law.largest_lr * factor) for factor in (0.7, 1.3))
    assert stable.final < 1
    assert unstable.losses[-1][2] > 10 * unstable.losses[0][2]


class CutsAt(Hook):
    """Lowers a rate that is too high, with or without going back."""

    def __init__(self, step: int, factor: float, goes_back: bool) -> None:
        self._step, self._factor, self._goes_back = step, factor, goes_back

    def started(self, live: Live) -> None:
        self._saved = live.save()

    def stepped(self, live: Live, loss: float) -> None:
        if live.step == self._step:
            live.scale_lr(self._factor)
            if self._goes_back:
                live.load(self._saved)


def test_a_curve_that_has_diverged_stays_high_though_the_rate_is_cut_and_going_back_mends_it() -> None:
    tuned, cut, back = [], [], []
    for seed in range(4):
        tuned.append(train("sim_curve", seed, steps=200).final)
        cut.append(train("sim_curve", seed, steps=200, lr=3e-2, hooks=[CutsAt(40, 1 / 30, False)]).final)
        back.append(train("sim_curve", seed, steps=200, lr=3e-2, hooks=[CutsAt(40, 1 / 30, True)]).final)
    assert min(np.array(cut) / np.array(tuned)) > 1.5
    assert max(np.array(back) / np.array(tuned)) < 1.25


def test_a_curve_rewards_a_rate_that_is_neither_too_low_nor_too_high_and_falls_in_the_end() -> None:
    for seed in range(4):
        low, tuned, high = (train("sim_curve", seed, steps=300, lr=lr).final for lr in (1e-5, 1e-3, 3e-2))
        assert tuned < low < high
        annealed = train("sim_curve", seed, steps=300, lr=1.5e-3, schedule="cosine", warmup_frac=0.05).final
        assert annealed < 1.1 * tuned


def struck(name: str, seed: int, kind: str, **changes: Any) -> Trained:
    """With a fault of the development range, as a trial draws it."""
    fault = draw(fault_kind(kind), name, seed, "development", STEPS)
    return train(name, seed, fault=fault, **changes)


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("kind", ["overfitting", "corrupt_batch", "label_noise", "mixture_shift"])
def test_a_fault_of_the_data_does_harm_and_is_met_again_after_a_return(name: str, kind: str) -> None:
    healthy, ill = [train(name, seed) for seed in range(4)], [struck(name, seed, kind) for seed in range(4)]
    assert np.mean([b.final / a.final for a, b in zip(healthy, ill, strict=True)]) > 1.1
    onset = draw(fault_kind(kind), name, 0, "development", STEPS).step
    assert ill[0].losses[:onset] == healthy[0].losses[:onset]
    assert ill[0].losses[onset:] != healthy[0].losses[onset:]


@pytest.mark.parametrize("name", SIMULATORS)
def test_overfitting_lowers_the_training_loss_and_raises_the_other(name: str) -> None:
    trained = struck(name, 0, "overfitting", steps=STEPS)
    lowest = min(point.value for point in trained.evaluations)
    assert trained.final > 1.3 * lowest
    assert np.mean([row[2] for row in trained.losses[-10:]]) < 0.5 * trained.final


@pytest.mark.parametrize("name", SIMULATORS)
def test_clipping_keeps_a_corrupt_batch_from_the_weights_and_a_spike_that_heals_never_reached_them(name: str) -> None:
    hit = clipped = spiked = 0.0
    for seed in range(4):
        well = train(name, seed)
        hit += struck(name, seed, "corrupt_batch").final / well.final
        clipped += (
            struck(name, seed, "corrupt_batch", max_grad_norm=2.0 if name == "sim_curve" else 5.0).final / well.final
        )
        spiked += struck(name, seed, "healing_spike").final / well.final
    assert clipped / 4 == pytest.approx(1, abs=0.2)
    assert hit > clipped
    assert spiked / 4 == pytest.approx(1, abs=0.05)


def test_exploding_gradients_end_in_nan_and_going_back_ends_the_accident() -> None:
    for name in SIMULATORS:
        assert math.isnan(struck(name, 0, "nan_gradient").final)
        onset = draw(fault_kind("nan_gradient"), name, 0, "development", STEPS).step
        saved = struck(name, 0, "nan_gradient", hooks=[CutsAt(onset + 8, 1.0, True)])
        assert math.isfinite(saved.final)


@pytest.mark.parametrize("kind", ["frozen_layer", "unstable_layer", "bad_intervention_freeze"])
def test_a_struck_layer_is_named_and_missed(kind: str) -> None:
    healthy, ill = train("sim_groups", 4), struck("sim_groups", 4, kind)
    assert ill.fault_layer in ("encoder", "head")
    assert ill.final > 1.1 * healthy.final


def test_a_rate_beyond_its_limit_harms_only_the_start_if_it_is_warmed_up() -> None:
    """The curve's stability limit is low at first."""
    cold, warm = (
        np.mean([train("sim_curve", seed, lr=7e-3, schedule="cosine", warmup_frac=part).final for seed in range(4)])
        for part in (0.0, 0.3)
    )
    assert warm < 0.8 * cold
