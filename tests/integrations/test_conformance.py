"""One suite over all loops: whatever trains, a command does what its ack says, and no command changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agenttune.trainer.datasets import make_interactive_dataset
from tests.integrations.conftest import Operator, Trained, open_newest
from tests.integrations.loops import LOOPS, LR, STEPS, Loop, ShiftedText
from tests.trainer.conftest import At

# Each loop once: the others train like these, as a subclass of the Trainer or with the callback instead of the mixin.
pytestmark = [
    pytest.mark.trainer,
    pytest.mark.quick("Trainer", "callback", "SFTTrainer", "session", "session, own data", "autopatch", "Lightning"),
]


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Loop:
    made: Loop = request.param()
    return made


ALONE: dict[type[Loop], Trained] = {}
"""What each loop does without agenttune; trained once."""


@pytest.fixture
def alone(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if type(loop) not in ALONE:
        ALONE[type(loop)] = loop.train(tmp_path_factory.mktemp("alone"), attached=False)
    return ALONE[type(loop)]


def applied(trained: Trained, *command_ids: str) -> None:
    for command_id in command_ids:
        ack = trained.ack(command_id)
        assert ack.outcome == "applied", f"{command_id}: {ack.message}"


def refused(loop: Loop, trained: Trained, command_id: str, kind: str) -> bool:
    """Whether this loop lacks the kind; then the refusal has to say why."""
    if kind not in loop.lacking:
        return False
    ack = trained.ack(command_id)
    assert ack.outcome == "failed"
    assert loop.lacking[kind] in ack.message
    assert trained.steps == STEPS
    return True


def factor(step: int) -> float:
    """Of the linear schedule that all the loops have."""
    return (STEPS - step) / STEPS


def test_with_no_command_losses_are_those_of_the_loop_alone(loop: Loop, alone: Trained, tmp_path: Path) -> None:
    attached = loop.train(tmp_path)
    assert len(alone.witness.losses) == STEPS
    assert attached.witness.losses == alone.witness.losses
    assert attached.witness.used == alone.witness.used
    rows = attached.step_rows()
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert [row.values["lr"] for row in rows] == [used[0] for used in alone.witness.used]
    assert {row.values["base_lr"] for row in rows} == {LR}
    info = attached.log().info()
    assert (info.status, info.step, info.max_steps) == ("finished", STEPS, None if loop.name == "autopatch" else STEPS)
    assert set(info.capabilities).isdisjoint(loop.lacking)


def test_a_rate_is_in_force_at_the_next_step_and_after_the_schedules(loop: Loop, tmp_path: Path) -> None:
    order = {"kind": "update_optimizer", "lr": 5e-4, "weight_decay": 0.2, "betas": [0.8, 0.9]}
    trained = loop.train(tmp_path, [At(4, order, "rate")])
    applied(trained, "rate")
    ack = trained.ack("rate")
    assert (ack.step, ack.confirmed_step) == (4, 5)
    change = next(c for c in ack.changes if c.name == "lr")
    assert change.previous == pytest.approx(LR * factor(4))
    assert change.effective == 5e-4
    assert change.base == pytest.approx(5e-4 / factor(4))
    used = [rates[0] for rates in trained.witness.used]
    assert used[3:6] == pytest.approx([LR * factor(3), 5e-4, 5e-4 * factor(5) / factor(4)])
    group = trained.witness.groups[4][0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.2, (0.8, 0.9))
    assert trained.bodies("read_back")[0].held


def test_a_knob_is_set_and_a_note_is_kept(loop: Loop, tmp_path: Path) -> None:
    knob = {"kind": "set_knob", "name": "temperature", "value": 0.5}
    trained = loop.train(tmp_path, [At(2, knob, "knob"), At(3, {"kind": "add_note", "text": "so far so good"}, "note")])
    applied(trained, "knob", "note")
    assert trained.held["temperature"] == 0.5
    assert [body.text for body in trained.bodies("note_added")] == ["so far so good"]


def test_a_paused_run_applies_every_command_at_once(loop: Loop, tmp_path: Path) -> None:
    orders: list[dict[str, Any]] = [
        {"kind": "update_optimizer", "lr": 5e-4},
        {"kind": "set_knob", "name": "temperature", "value": 0.25},
        {"kind": "save_checkpoint", "tag": "held"},
        {"kind": "resume_training"},
    ]
    operator = Operator(tmp_path / "runs", orders)
    operator.start()
    trained = loop.train(tmp_path, [At(4, {"kind": "pause_training"}, "pause")])
    operator.join(20)
    assert operator.states == ["applied"] * len(orders)
    assert trained.witness.used[4][0] == 5e-4
    assert trained.steps == STEPS
    statuses = [body.status for body in trained.bodies("status_changed")]
    assert statuses == ["running", "paused", "running", "finished"]


def test_a_stop_ends_the_run_there(loop: Loop, tmp_path: Path) -> None:
    trained = loop.train(tmp_path, [At(5, {"kind": "stop_training"}, "stop")])
    applied(trained, "stop")
    assert trained.steps == 5
    assert Path(trained.ack("stop").result["path"]).is_dir()
    info = trained.log().info()
    assert (info.status, info.step, info.status_reason) == ("stopped", 5, "stopped by ann")


def test_an_evaluation_gets_one_answer_and_leaves_no_trace(loop: Loop, alone: Trained, tmp_path: Path) -> None:
    asked = [At(5, {"kind": "do_evaluate"}, "first"), At(5, {"kind": "do_evaluate"}, "second")]
    trained = loop.train(tmp_path, asked)
    assert trained.witness.losses == alone.witness.losses
    if refused(loop, trained, "first", "do_evaluate"):
        return
    applied(trained, "first", "second")
    assert [event.command_id for event in trained.events("evaluated") if event.command_id] == ["first", "second"]
    losses = [trained.ack(name).result["eval_loss"] for name in ("first", "second")]
    assert losses[0] == losses[1] > 0
    assert [body.metrics["eval_loss"] for body in trained.bodies("evaluated")[:2]] == losses


def test_a_checkpoint_is_complete_and_can_be_gone_back_to(loop: Loop, tmp_path: Path) -> None:
    orders = [
        At(4, {"kind": "save_checkpoint", "tag": "good"}, "save"),
        At(4, {"kind": "save_checkpoint", "keep_in": "memory"}, "snap"),
        At(6, {"kind": "update_optimizer", "lr": 0.05}, "ruin"),
        At(8, {"kind": "load_checkpoint", "checkpoint_id": "@save", "branch_name": "again"}, "load"),
    ]
    trained = loop.train(tmp_path, orders)
    applied(trained, "save", "ruin")
    saved = trained.ack("save").result
    assert Path(saved["path"]).is_dir()
    assert [body.checkpoint_id for body in trained.bodies("checkpoint_saved") if body.tag] == [saved["checkpoint_id"]]
    if refused(loop, trained, "load", "load_checkpoint"):
        return
    applied(trained, "snap", "load")
    check_return(loop, trained, start=8)


def check_return(loop: Loop, trained: Trained, start: int) -> None:
    """After `start` steps the run went back to step 4, and trained to its end."""
    witness, ack = trained.witness, trained.ack("load")
    assert (ack.step, ack.branch, ack.result["from_step"]) == (4, "again", 8)
    assert witness.weights[start] == witness.weights[4]
    assert witness.used[start] == witness.used[4]
    (branch,) = trained.bodies("branch_started")
    assert (branch.name, branch.parent, branch.from_step) == ("again", "main", 4)
    rows = [row.step for row in trained.step_rows() if row.branch == "again"]
    assert rows == list(range(5, 5 + trained.steps - start))
    if loop.goes_back == "exactly":
        assert ack.message == ""
        assert witness.losses[start : start + 2] == witness.losses[4:6]
        assert trained.steps == start + STEPS - 4
    else:
        assert "order of the data" in ack.message


def test_a_snapshot_in_memory_is_gone_back_to(loop: Loop, tmp_path: Path) -> None:
    orders = [
        At(4, {"kind": "save_checkpoint", "keep_in": "memory"}, "snap"),
        At(8, {"kind": "load_checkpoint", "checkpoint_id": "@snap", "branch_name": "again"}, "load"),
    ]
    if "load_checkpoint" in loop.lacking:
        pytest.skip(f"this loop cannot go back: {loop.goes_back}")
    trained = loop.train(tmp_path, orders)
    applied(trained, "snap", "load")
    check_return(loop, trained, start=8)
    if loop.goes_back == "exactly":
        assert trained.witness.losses[8:12] == trained.witness.losses[4:8]


def test_a_probe_leaves_the_loop_as_it_was_or_is_refused_with_the_reason(
    loop: Loop, alone: Trained, tmp_path: Path
) -> None:
    rates = [{"kind": "update_optimizer", "lr": 1e-9}, {"kind": "update_optimizer", "lr": 1e-8}]
    order = {"kind": "probe", "candidates": rates, "steps": 3, "min_gain_frac": 1.0}
    trained = loop.train(tmp_path, [At(4, order, "probe")])
    ack = trained.ack("probe")
    if loop.goes_back != "exactly":
        assert ack.outcome == "failed"
        assert re.search("would not go back|does not go back|no access", ack.message)
        assert trained.witness.losses == alone.witness.losses[: trained.steps]
        return
    assert (ack.outcome, ack.step, ack.changes, ack.result["extra_steps"]) == ("applied", 4, [], 9)
    assert trained.steps == alone.steps + 9
    assert trained.witness.losses[:4] + trained.witness.losses[13:] == alone.witness.losses
    rows = [row.step for row in trained.step_rows() if row.branch == "main"]
    assert rows == list(range(1, alone.steps + 1))


def test_returns_are_tried_from_the_state_that_they_go_back_to(loop: Loop, tmp_path: Path) -> None:
    if loop.goes_back != "exactly":
        pytest.skip(f"this loop tries nothing: {loop.goes_back}")
    back = [{"kind": "load_checkpoint", "checkpoint_id": "snap", "lr": lr} for lr in (1e-9, 3e-2)]
    orders = [
        At(3, {"kind": "save_checkpoint", "keep_in": "memory", "tag": "snap"}, "snap"),
        At(6, {"kind": "probe", "candidates": back, "steps": 2, "min_gain_frac": 1.0}, "none"),
        At(7, {"kind": "probe", "candidates": back[1:], "steps": 2, "include_current": False}, "one"),
    ]
    trained = loop.train(tmp_path, orders)
    applied(trained, "snap", "none", "one")
    none, one = trained.ack("none"), trained.ack("one")
    assert (none.step, none.result["adopted"]) == (6, None)
    assert (one.step, one.result["adopted"]["lr"], one.result["from_step"]) == (3, 3e-2, 7)
    seen = trained.witness.losses
    assert seen[6:8] == seen[3:5], "going back alone repeats those steps"
    assert seen[8] == seen[10] == seen[3], "before their first update the candidates are alike"
    assert len({seen[7], seen[9], seen[11]}) == 3, "and then not"
    assert seen[13:15] == seen[15:17] == seen[10:12], "tried again, and adopted"
    (branch,) = trained.bodies("branch_started")
    assert (branch.parent, branch.from_step) == ("main", 3)


def test_a_checkpoint_that_is_not_there_is_refused(loop: Loop, alone: Trained, tmp_path: Path) -> None:
    trained = loop.train(tmp_path, [At(4, {"kind": "load_checkpoint", "checkpoint_id": "nowhere"}, "load")])
    assert trained.ack("load").outcome == "failed"
    if not refused(loop, trained, "load", "load_checkpoint"):
        assert "no checkpoint 'nowhere'" in trained.ack("load").message
    assert trained.witness.losses == alone.witness.losses


def test_layers_are_read_frozen_and_changed(loop: Loop, tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "read_model", "norms": True}, "read"),
        At(
            3,
            {
                "kind": "model_layer_operation",
                "layer_name": loop.layer,
                "operation_name": "requires_grad_",
                "params": {"requires_grad": False},
            },
            "freeze",
        ),
        At(
            3,
            {"kind": "model_layer_parameter_update", "layer_name": loop.dropout, "param_name": "p", "value": 0.4},
            "drop",
        ),
    ]
    trained = loop.train(tmp_path, orders)
    applied(trained, "read", "freeze", "drop")
    tops = {child["name"] for child in trained.ack("read").result["children"]}
    assert loop.layer.split(".")[0] in tops
    inside = loop.layer.removeprefix("net.")
    parameters = list(trained.model.get_submodule(inside).parameters())
    assert parameters
    assert not any(p.requires_grad for p in parameters)
    dropout = trained.model.get_submodule(loop.dropout.removeprefix("net."))
    assert getattr(dropout, "p") == 0.4


def test_a_runtime_parameter_of_the_data_is_in_the_next_batch(loop: Loop, tmp_path: Path) -> None:
    kind = "update_dataset_runtime_hyperparameters"
    shifted = make_interactive_dataset(loop.shifted, runtime=["extra"])
    five = 5 if loop.shifted is ShiftedText else 5.0
    trained = loop.train(
        tmp_path / "asked", [At(4, {"kind": kind, "values": {"extra": five}}, "more")], dataset=shifted()
    )
    if refused(loop, trained, "more", kind):
        return
    applied(trained, "more")
    alone = loop.train(tmp_path / "alone", attached=False, dataset=loop.shifted())
    moved = [a - b for a, b in zip(trained.witness.data, alone.witness.data, strict=True)]
    first = 5 if "fetched ahead" in trained.ack("more").message else 4
    assert moved[:4] == [0.0] * 4
    assert moved[first:] == pytest.approx([5.0] * (STEPS - first), abs=1e-5)


def test_a_dataset_built_anew_is_drawn_from_at_once(loop: Loop, tmp_path: Path) -> None:
    shifted = make_interactive_dataset(loop.shifted, runtime=["extra"])
    base = 10 if loop.shifted is ShiftedText else 100.0
    order = {"kind": "update_dataset", "values": {"base": base}}
    trained = loop.train(tmp_path, [At(4, order, "reload")], dataset=shifted())
    if refused(loop, trained, "reload", "update_dataset"):
        return
    if loop.name == "session, own data":
        assert "s.batches(loader)" in trained.ack("reload").message
        return
    applied(trained, "reload")
    means = trained.witness.data
    assert max(means[:4]) < 10 < min(means[4:])
    assert (trained.steps, trained.log().info().status) == (STEPS, "finished")


def test_a_command_outside_of_the_loops_capabilities_is_refused_with_its_reason(loop: Loop, tmp_path: Path) -> None:
    commands: dict[str, dict[str, Any]] = {
        "do_evaluate": {},
        "load_checkpoint": {"checkpoint_id": "main-1-abc"},
        "probe": {"candidates": [{"kind": "update_optimizer", "lr": 0.1}]},
        "update_training": {"max_steps": 20},
        "update_dataset": {"values": {"count": 32}},
        "update_dataset_runtime_hyperparameters": {"values": {"extra": 1.0}},
    }
    orders = [At(3, {"kind": kind, **commands[kind]}, kind) for kind in loop.lacking]
    trained = loop.train(tmp_path, orders)
    assert all(refused(loop, trained, kind, kind) for kind in loop.lacking)


def test_an_exception_closes_the_log_as_failed(loop: Loop, tmp_path: Path) -> None:
    if not loop.tells_end:
        pytest.skip("this loop learns of its end when the process ends; see test_autopatch and the Trainer's tests")
    with pytest.raises(RuntimeError, match="no more disk"):
        loop.train(tmp_path, error=RuntimeError("no more disk"))
    info = open_newest(tmp_path / "runs").info()
    assert (info.status, info.status_reason, info.step) == ("failed", "RuntimeError: no more disk", 4)


def test_ctrl_c_closes_the_log_as_interrupted(loop: Loop, tmp_path: Path) -> None:
    if not loop.tells_end:
        pytest.skip("this loop learns of its end when the process ends; see test_autopatch and the Trainer's tests")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        loop.train(tmp_path, error=KeyboardInterrupt())
    assert open_newest(tmp_path / "runs").info().status == "interrupted"
