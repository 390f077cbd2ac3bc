"""Where a command gives the loss another meaning, everything that judges a loss begins anew: no good run is wrecked."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.detectors import detect
from agenttune.detectors.trend import Trend
from agenttune.policy.llm.digest import digest
from agenttune.policy.load import load_policy
from agenttune.protocol.events import BranchStarted, Evaluated
from agenttune.protocol.metrics import Point
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, Author, Change, Proposal, Verdict
from agenttune.protocol.redefining import redefinition
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.policy.conftest import applied, decay, observe, took_effect

PERSON = Author(principal="operator", name="ann")
APPROVED = Verdict(decision="approved", decided_by="test")


def change(name: str, previous: Any, effective: Any, **more: Any) -> Change:
    return Change(name=name, previous=previous, requested=effective, effective=effective, **more)


REDEFINING: dict[str, tuple[dict[str, Any], Change]] = {
    "a knob": ({"kind": "set_knob", "name": "label_smoothing", "value": 0.2}, change("label_smoothing", 0.0, 0.2)),
    "mixture weights": (
        {"kind": "update_dataset_runtime_hyperparameters", "values": {"weights": {"a": 0.1}}},
        change("weights", {"a": 0.9}, {"a": 0.1}),
    ),
    "other data": ({"kind": "update_dataset", "values": {"block_tokens": 64}}, change("block_tokens", 32, 64)),
    "batch size": (
        {"kind": "update_training", "gradient_accumulation_steps": 4},
        change("gradient_accumulation_steps", 1, 4),
    ),
    "a layer's parameter": (
        {"kind": "model_layer_parameter_update", "layer_name": "drop", "param_name": "p", "value": 0.5},
        change("drop.p", 0.0, 0.5),
    ),
    "a layer reset": (
        {"kind": "model_layer_operation", "layer_name": "h", "operation_name": "reset_parameters"},
        change("h.weight", 3.1, 1.2),
    ),
}


def lifted(losses: list[float], step: int, factor: float) -> list[float]:
    """The same run, its loss on another scale after a step, as more label smoothing or harder data make it."""
    return [loss if i < step else loss * factor + 0.3 for i, loss in enumerate(losses)]


@pytest.mark.quick("*-120")
@pytest.mark.parametrize("at", [20, 120, 300])
@pytest.mark.parametrize("what", REDEFINING)
def test_a_redefined_loss_of_a_good_run_alarms_nobody_and_guardian_does_not_cut(what: str, at: int) -> None:
    guardian = load_policy("guardian")
    command, changed = REDEFINING[what]
    for seed, factor in ((0, 1.5), (2, 0.4), (3, 5.0)):
        losses = lifted(decay(500, 2.5, 0.6, 0.04, seed), at, factor)
        redefined = [took_effect(at, command, [changed], PERSON)]
        alarmed = 0
        for n in [*range(at + 1, at + 60, 6), *range(at + 60, 500, 61)]:
            known = observe(losses[:n], max_steps=500, commands=redefined)
            assert not [f for f in detect(known) if f.severity != "info"], n
            assert guardian.decide(known).proposals == []
            # The same curve without the command is what guardian has to cut: the test would see a cut.
            alarmed += bool(guardian.decide(observe(losses[:n], max_steps=500)).proposals)
        assert alarmed or factor < 1 or at == 20


@pytest.mark.parametrize("what", REDEFINING)
@pytest.mark.parametrize("shape", ["jump", "slow", "nan"])
def test_a_true_divergence_after_it_is_still_found(what: str, shape: str) -> None:
    command, changed = REDEFINING[what]
    losses = lifted(decay(300, 2.5, 0.6, 0.04), 200, 2.0)
    draw = random.Random(5)
    worse = {
        "jump": [losses[-1] * 4 * math.exp(draw.gauss(0, 0.05)) for _ in range(30)],
        "slow": [losses[-1] * (1 + 0.01 * i) * math.exp(draw.gauss(0, 0.04)) for i in range(80)],
        "nan": [math.nan] * 3,
    }[shape]
    known = observe([*losses, *worse], commands=[took_effect(200, command, [changed], PERSON)])
    assert {f.kind for f in detect(known)} & {"divergence", "non_finite"}
    assert load_policy("guardian").decide(known).proposals


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        ({"kind": "update_training", "max_grad_norm": 0.5}, change("max_grad_norm", 1.0, 0.5)),
        ({"kind": "update_optimizer", "lr": 0.1}, change("lr", 0.2, 0.1)),
        ({"kind": "set_knob", "name": "eval_steps", "value": 5}, change("eval_steps", 9, 5, redefines="nothing")),
        ({"kind": "set_knob", "name": "label_smoothing", "value": 0.0}, change("label_smoothing", 0.0, 0.0)),
        (
            {"kind": "model_layer_operation", "layer_name": "h", "operation_name": "requires_grad_"},
            change("h.requires_grad", True, False),
        ),
    ],
)
def test_what_leaves_the_loss_what_it_is_redefines_nothing(command: dict[str, Any], changed: Change) -> None:
    assert redefinition(took_effect(9, command, [changed])) is None


def test_a_probe_redefines_what_the_candidate_does_that_it_adopted() -> None:
    knob = {"kind": "set_knob", "name": "label_smoothing", "value": 0.2}
    record = took_effect(
        9, {"kind": "probe", "candidates": [knob], "metric": "goal"}, [change("label_smoothing", 0, 0.2)]
    )
    assert record.ack is not None
    adopted = record.model_copy(update={"ack": record.ack.model_copy(update={"result": {"adopted": knob}})})
    assert redefinition(adopted) is not None
    assert redefinition(record) is None


def test_only_how_a_loss_is_computed_touches_evaluated_losses_and_no_accuracy() -> None:
    of = {what: redefinition(took_effect(9, command, [changed])) for what, (command, changed) in REDEFINING.items()}
    touched = {
        what: [m for m in ("step_loss", "eval_loss", "eval_accuracy") if r and r.touches(m)] for what, r in of.items()
    }
    assert touched.pop("a knob") == ["step_loss", "eval_loss"]
    assert set(map(tuple, touched.values())) == {("step_loss",)}


# -- from the log ---------------------------------------------------------------------------------------------------


class Told:
    """A log, and what a policy sees of it."""

    def __init__(self, runs_dir: Path) -> None:
        info = RunInfo(run_id="r1", name="r1", status="running", created_at_s=time.time(), max_steps=1000)
        self.log, self.control = RunLog.create(runs_dir / "r1", info), LocalControl(runs_dir)

    def apply(self, step: int, command: dict[str, Any], *changes: Change, branch: str = "main") -> None:
        proposal = Proposal.model_validate({"command": command, "author": PERSON})
        self.log.submit(proposal, APPROVED)
        ack = Ack(outcome="applied", step=step, branch=branch, changes=list(changes))
        self.log.acknowledge(proposal.command_id, ack)

    def train(self, first: int, losses: list[float], branch: str = "main") -> None:
        rows = [
            Point(step=first + i, at_s=time.time(), values={"step_loss": loss}, branch=branch)
            for i, loss in enumerate(losses)
        ]
        self.log.append_points(rows)

    def see(self) -> Observation:
        return self.control.observe("r1")


@pytest.fixture
def told(runs_dir: Path) -> Told:
    return Told(runs_dir)


def test_the_loss_keeps_its_meaning_however_many_commands_come_after(told: Told) -> None:
    told.train(1, [2.0] * 100)
    told.apply(100, *REDEFINING["a knob"])
    assert told.see().redefined_step("step_loss") == 100
    told.train(101, [4.0] * 50)
    for i in range(70):
        told.apply(
            110 + i // 4, {"kind": "update_training", "max_grad_norm": 1.0 + i}, change("max_grad_norm", i, i + 1.0)
        )
    seen = told.see()
    trend = Trend.of(seen)
    assert (seen.redefined_step("step_loss"), seen.redefined_step("eval_loss")) == (100, 100)
    assert seen.redefined_step("eval_accuracy") == 0
    assert trend is not None
    assert (trend.start, trend.all_steps[0], min(trend.all_values)) == (4.0, 101, 4.0)
    fresh = LocalControl(told.log.folder.parent).observe("r1")
    assert fresh.redefinitions == seen.redefinitions
    told.apply(140, *REDEFINING["mixture weights"])
    assert told.see().redefined_step("step_loss") == 140
    assert told.see().redefined_step("eval_loss") == 100


def test_going_back_over_it_gives_the_loss_its_old_meaning_again(told: Told) -> None:
    told.train(1, [2.0] * 60)
    told.apply(40, *REDEFINING["other data"])
    told.apply(55, *REDEFINING["a knob"])
    told.log.append(BranchStarted(name="again", parent="main", from_step=50), step=50, branch="again")
    told.log.update_info(branch="again")
    told.train(51, [1.9] * 20, branch="again")
    assert told.see().redefined_step("step_loss") == 40
    assert told.see().redefined_step("eval_loss") == 0
    told.apply(70, *REDEFINING["a knob"], branch="again")
    assert told.see().redefined_step("eval_loss") == 70


def test_findings_of_evaluations_count_those_that_mean_the_same(told: Told) -> None:
    for i in range(12):
        told.log.append(Evaluated(metrics={"eval_loss": 1.0 if i < 6 else 1.5}), step=20 * i + 20)
    told.train(1, [2.0] * 240)
    told.apply(120, *REDEFINING["a knob"])
    (found,) = [f for f in detect(told.see()) if f.kind == "goal_plateau"]
    assert (found.evidence["low"], found.evidence["since_step"]) == (1.5, 140)


def test_a_change_of_the_rate_alone_is_judged_against_the_whole_curve() -> None:
    assert observe(decay(100), commands=[applied(50, 0.1)]).redefined_step("step_loss") == 0


def test_a_model_is_told_that_the_loss_means_something_else() -> None:
    known = observe([*[1.0] * 30, *[3.0] * 30], commands=[took_effect(30, *_as_list("a knob"), PERSON)])
    lines = digest(known).curves
    assert "since step 30 training and evaluated losses mean something else" in lines[0]
    assert "set_knob label_smoothing" in lines[0]
    assert "lowest level 3 at step 46, first 3 at step 31" in lines[1]


def _as_list(what: str) -> tuple[dict[str, Any], list[Change]]:
    command, changed = REDEFINING[what]
    return command, [changed]


def test_baselines_do_not_take_a_redefined_loss_for_a_worse_one() -> None:
    losses = lifted(decay(400, 2.5, 0.6, 0.01), 200, 3.0)
    policy = load_policy("reduce_on_plateau")
    assert policy.decide(observe(losses[:330])).proposals
    assert not policy.decide(observe(losses[:330], commands=[took_effect(200, *_as_list("a knob"), PERSON)])).proposals
