"""A policy is told what it may ask for, where it can go back to, and what became of what it asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.config import BudgetSettings, GateSettings
from agenttune.control import LocalControl
from agenttune.gate import not_offered, probe_steps_left
from agenttune.protocol.commands import COMMAND_KINDS, LoadCheckpoint, SaveCheckpoint
from agenttune.protocol.events import CheckpointDeleted, CheckpointSaved, DatasetRead, Decided, KnobsRead, ModelRead
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, Proposal, Verdict
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState, ModuleInfo, RunInfo
from agenttune.store.run_log import RunLog

AGENT, PERSON = Author(principal="agent", name="llm"), Author(principal="operator", name="ann")
DATASET = ("update_dataset", "update_dataset_runtime_hyperparameters")
LAYERS = ("model_layer_operation", "model_layer_parameter_update")


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    info = RunInfo(
        run_id="r", name="r", status="running", created_at_s=0.0, max_steps=100, capabilities=list(COMMAND_KINDS)
    )
    return RunLog.create(tmp_path / "r", info)


@pytest.fixture
def control(tmp_path: Path) -> LocalControl:
    return LocalControl(tmp_path)


def seen(control: LocalControl) -> Observation:
    return control.observe("r")


def saved(checkpoint_id: str, **given: Any) -> CheckpointSaved:
    return CheckpointSaved(checkpoint_id=checkpoint_id, path="x", **given)


def dataset(**given: Any) -> DatasetRead:
    return DatasetRead(type="Corpus", interactive=True, **given)


def test_datasets_without_parameters_are_not_offered(log: RunLog, control: LocalControl) -> None:
    assert set(DATASET) <= seen(control).not_offered.keys()
    log.append(DatasetRead(type="Plain", size=9, interactive=False))
    assert "make_interactive_dataset" in seen(control).not_offered["update_dataset"]
    log.append(dataset(runtime={"weights": {"a": 1.0}}))
    assert set(DATASET) & seen(control).not_offered.keys() == {"update_dataset"}
    log.append(dataset(initialization={"rows": 9}))
    assert set(DATASET) & seen(control).not_offered.keys() == {"update_dataset_runtime_hyperparameters"}


def test_what_the_gate_forbids_is_not_offered(log: RunLog, control: LocalControl) -> None:
    log.update_info(rules={"gate": {"forbid": ["stop_training", "probe"]}})
    found = seen(control).not_offered
    assert found["stop_training"] == found["probe"] == "gate.forbid has it"


def test_only_what_the_trainer_could_do_at_all_is_named(log: RunLog, control: LocalControl) -> None:
    log.update_info(rules={"gate": {"forbid": ["stop_training"]}}, capabilities=["update_optimizer"])
    assert seen(control).not_offered == {}


def test_layer_commands_are_offered_if_an_allowed_layer_takes_them(log: RunLog, control: LocalControl) -> None:
    leaf = ModuleInfo(name="head.norm", type="LayerNorm", parameters=1, trainable=1, operations=["reset_parameters"])
    inner = ModuleInfo(name="head", type="Head", parameters=1, trainable=1, children=[leaf])
    log.append(ModelRead(model=ModuleInfo(name="", type="Net", parameters=1, trainable=1, children=[inner])))
    expected = {"head.*": {LAYERS[1]}, "head": set(LAYERS), "body.*": set(LAYERS)}
    for pattern, lacking in expected.items():
        log.update_info(rules={"gate": {"allowed_layers": [pattern]}})
        assert set(LAYERS) & seen(control).not_offered.keys() == lacking, pattern
    log.update_info(rules={})
    assert not set(LAYERS) & seen(control).not_offered.keys()


def test_knobs_are_offered_where_there_are_any_and_a_schedule_where_it_can_be_replanned(log: RunLog) -> None:
    info = log.info()
    assert "set_knob" in not_offered(GateSettings(), info, None, None)
    assert "update_schedule" not in not_offered(GateSettings(), info, None, None)
    fixed = LrCourse(kind="OneCycleLR", steps=[], tracks=[], can_be_planned=False)
    told = info.model_copy(update={"schedule": fixed, "knobs": [KnobState(name="temperature", effective=1.0)]})
    found = not_offered(GateSettings(), told, None, None)
    assert "set_knob" not in found
    assert found["update_schedule"] == "the schedule is OneCycleLR, which cannot be replanned"


@pytest.mark.parametrize(
    ("budgets", "max_steps", "used", "left"),
    [
        (BudgetSettings(), 100, 0, 20),
        (BudgetSettings(), 100, 15, 5),
        (BudgetSettings(max_probe_steps=8), 100, 3, 5),
        (BudgetSettings(max_probe_frac=None), 100, 3, None),
        (BudgetSettings(), None, 3, 7),  # a fifth of the 50 steps so far
        (BudgetSettings(max_probe_steps=2), 100, 9, 0),
    ],
)
def test_extra_steps_left_are_told(
    log: RunLog, budgets: BudgetSettings, max_steps: int | None, used: int, left: int | None
) -> None:
    info = log.info().model_copy(update={"max_steps": max_steps, "step": 50})
    assert probe_steps_left(info, budgets, used) == left


def test_states_to_return_to_are_told_without_those_that_are_gone(log: RunLog, control: LocalControl) -> None:
    log.append(saved("a", tag="good", metric=2.5), step=10)
    log.append(saved("b"), step=20)
    log.append(CheckpointDeleted(checkpoint_id="b", reason="disk cap"), step=25)
    log.append(saved("c", keep_in="memory"), step=30, branch="retry")
    told = [(c.checkpoint_id, c.step, c.branch, c.tag, c.metric, c.keep_in) for c in seen(control).checkpoints]
    assert told == [("a", 10, "main", "good", 2.5, "disk"), ("c", 30, "retry", None, None, "memory")]


def test_the_newest_states_are_told_however_many_there_were(log: RunLog, control: LocalControl) -> None:
    for step in range(300):
        log.append(saved(f"c{step}"), step=step)
        if step % 2:
            log.append(CheckpointDeleted(checkpoint_id=f"c{step}", reason="disk cap"), step=step)
    assert [c.checkpoint_id for c in seen(control).checkpoints] == [f"c{s}" for s in range(284, 300, 2)]


def test_pace_facts_and_the_last_decision_are_told(log: RunLog, control: LocalControl) -> None:
    assert (seen(control).steps_per_s, seen(control).facts, seen(control).last_decision) == (None, None, None)
    log.append(KnobsRead(knobs=[], facts=RunFacts(model="Net", parameters=7)))
    log.append_points([Point(step=s, at_s=1000 + s / 4, values={"step_loss": 1.0}) for s in range(1, 41)])
    told = Decided(policy="llm", woken_by="20 steps", reason="hold; probe not asked for: it came late", based_on_step=9)
    log.append(told, step=12)
    now = seen(control)
    assert now.steps_per_s == pytest.approx(4.0)
    assert now.facts == RunFacts(model="Net", parameters=7)
    assert now.last_decision is not None
    assert (now.last_decision.step, now.last_decision.reason) == (9, told.reason)
    log.append(KnobsRead(knobs=[]))  # as versions before this one wrote it
    assert seen(control).facts == now.facts


@pytest.mark.parametrize("author", [AGENT, PERSON])
def test_a_checkpoint_that_does_not_exist_is_refused_at_once(
    log: RunLog, control: LocalControl, author: Author
) -> None:
    def ask(name: str) -> Verdict:
        proposal = Proposal(command=LoadCheckpoint(checkpoint_id=name), author=author)
        verdict = control.submit("r", proposal).verdict
        assert verdict is not None
        assert control.dry_run("r", proposal.model_copy(update={"command_id": f"{name}-dry"})).decision == (
            verdict.decision
        )
        return verdict

    assert "none, save one with save_checkpoint" in ask("main-10-abc").reason
    log.append(saved("main-10-abc", tag="good"), step=10)
    log.append(saved("main-20-def", tag="gone"), step=20)
    log.append(CheckpointDeleted(checkpoint_id="main-20-def", reason="disk cap"), step=20)
    assert ask("main-10-abc").decision == ask("good").decision == "approved"
    for name in ("main-20-def", "gone", "goo"):
        refused = ask(name)
        assert refused.decision == "rejected"
        assert refused.nearest_allowed == {"checkpoint_id": ["main-10-abc"]}
        assert f"no checkpoint {name!r} in this run; newest: main-10-abc" in refused.reason


def test_a_checkpoint_that_is_about_to_be_saved_can_be_asked_for(log: RunLog, control: LocalControl) -> None:
    control.submit("r", Proposal(command=SaveCheckpoint(tag="soon"), author=PERSON))
    asked = control.submit("r", Proposal(command=LoadCheckpoint(checkpoint_id="soon"), author=PERSON))
    assert asked.verdict is not None
    assert asked.verdict.decision == "approved"
