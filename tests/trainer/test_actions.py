"""Evaluate, save, pause, stop, knobs and notes: each does what its ack says, and disturbs nothing else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import LIVE
from agenttune.store.run_log import RunLog, list_runs, run_folder
from agenttune.trainer.checkpoints.checkpoint_files import read_state
from tests.trainer.conftest import At, Bench, Result, submit

pytestmark = pytest.mark.trainer


def test_an_evaluation_by_command_leaves_every_later_loss_as_it_was(bench: Bench) -> None:
    plain = bench.run(form="plain", max_steps=30)
    asked = bench.run([At(7, {"kind": "do_evaluate"}, "e1"), At(7, {"kind": "do_evaluate"}, "e2")], max_steps=30)
    assert asked.losses == plain.losses
    for ack in asked.acks():
        assert (ack.outcome, ack.step) == ("applied", 7)
        assert ack.result["eval_loss"] > 0
    assert [event.command_id for event in asked.events("evaluated")] == ["e1", "e2"]
    assert asked.series("eval_loss", "eval") == [ack.result["eval_loss"] for ack in asked.acks()]


def test_an_evaluation_by_command_uses_up_no_patience(bench: Bench) -> None:
    plan = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10, "max_steps": 25}
    best = {"metric_for_best_model": "eval_loss", "load_best_model_at_end": True, "learning_rate": 0.0}
    stopper = EarlyStoppingCallback(early_stopping_patience=3)
    orders = [At(step, {"kind": "do_evaluate"}) for step in (11, 12, 13, 14, 15)]
    result = bench.run(orders, callbacks=[stopper], **plan, **best)
    assert result.trainer.state.global_step == 25
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 5


def test_without_an_evaluation_set_training_goes_on(bench: Bench) -> None:
    result = bench.run([At(3, {"kind": "do_evaluate"})], evaluates=False)
    assert result.ack.outcome == "failed"
    assert "eval_dataset" in result.ack.message
    assert result.trainer.state.global_step == 12


def test_an_evaluation_that_raises_fails_alone(bench: Bench) -> None:
    from transformers import Trainer

    class Broken(Trainer):  # type: ignore[misc]
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no such column")

    result = bench.run([At(3, {"kind": "do_evaluate"})], base=Broken)
    assert result.ack.outcome == "failed"
    assert result.ack.message == "RuntimeError: no such column"
    assert result.losses == bench.run(form="plain").losses


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_a_save_is_answered_with_the_path_of_a_complete_checkpoint(bench: Bench, form: str) -> None:
    orders = [At(3, {"kind": "save_checkpoint", "tag": "before"}, "s1"), At(3, {"kind": "save_checkpoint"}, "s2")]
    result = bench.run(orders, form=form)
    first, second = result.acks()
    folder = {"callback": "checkpoint-3", "make_interactive": first.result["checkpoint_id"]}[form]
    assert Path(first.result["path"]).name == folder
    assert (Path(first.result["path"]) / "trainer_state.json").is_file()
    assert first.result["checkpoint_id"] != second.result["checkpoint_id"]
    assert [(b.tag, b.command_id) for b in result.bodies("checkpoint_saved")] == [("before", "s1"), (None, "s2")]


def test_the_trainers_own_saves_are_recorded_too(bench: Bench) -> None:
    result = bench.run(save_strategy="steps", save_steps=5)
    assert [Path(b.path).name for b in result.bodies("checkpoint_saved")] == [
        "checkpoint-5",
        "checkpoint-10",
        "checkpoint-12",
    ]


def test_a_save_that_the_loop_drops_is_asked_for_again(bench: Bench) -> None:
    """`save_strategy="best"` clears the flag at an evaluation that is no new best."""
    result = bench.run(
        [At(6, {"kind": "save_checkpoint"})],
        form="callback",
        save_strategy="best",
        eval_strategy="steps",
        eval_steps=3,
        metric_for_best_model="eval_loss",
        learning_rate=0.0,
    )
    assert (result.ack.outcome, result.ack.step) == ("applied", 7)
    assert result.ack.result["path"].endswith("checkpoint-7")


@pytest.mark.parametrize("save", [True, False])
def test_a_stop_ends_the_run_there(bench: Bench, save: bool) -> None:
    result = bench.run([At(5, {"kind": "stop_training", "save": save})])
    info = result.log().info()
    assert (info.status, info.step, info.status_reason) == ("stopped", 5, "stopped by ann")
    assert result.ack.outcome == "applied"
    assert result.trainer.state.global_step == 5
    assert ("path" in result.ack.result) is save
    assert not save or read_state(Path(result.ack.result["path"])).step == 5


def test_a_stop_before_the_first_step_comes_after_it_and_says_so(bench: Bench) -> None:
    result = bench.run([At(0, {"kind": "stop_training", "save": True})])
    assert (result.ack.outcome, result.ack.step, result.trainer.state.global_step) == ("applied", 1, 1)


class Operator(threading.Thread):
    """Waits until the run is paused, then works through its orders one ack at a time."""

    def __init__(self, runs_dir: Path, orders: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.runs_dir, self.orders = runs_dir, orders
        self.answers: list[tuple[str, str, str]] = []

    def run(self) -> None:
        log = RunLog.open(run_folder(self.runs_dir, list_runs(self.runs_dir)[0].run_id))
        tick = threading.Event()
        while log.info().status != "paused":
            if log.info().status not in LIVE:
                return
            tick.wait(0.01)
        for number, order in enumerate(self.orders):
            command_id = f"while-paused-{number}"
            submit(log, order, command_id)
            while log.command(command_id).state is State.QUEUED:
                tick.wait(0.01)
            record = log.command(command_id)
            ack = record.ack
            self.answers.append((order["kind"], record.state.value, ack.message if ack else ""))
        log.close()


class Starter(TrainerCallback):  # type: ignore[misc]
    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.operator.ident:
            self.operator.start()


def paused_run(bench: Bench, orders: list[dict[str, Any]], **how: Any) -> tuple[Result, Operator]:
    operator = Operator(bench.runs_dir, orders)
    result = bench.run([At(4, {"kind": "pause_training"})], callbacks=[Starter(operator)], **how)
    operator.join(20)
    assert not operator.is_alive()
    return result, operator


def test_a_paused_run_answers_every_command_at_once_and_goes_on_when_told(bench: Bench) -> None:
    orders: list[dict[str, Any]] = [
        {"kind": "pause_training"},
        {"kind": "do_evaluate"},
        {"kind": "update_optimizer", "lr": 5e-4},
        {"kind": "save_checkpoint", "tag": "held"},
        {"kind": "save_checkpoint", "tag": "again"},
        {"kind": "add_note", "text": "still here"},
        {"kind": "resume_training"},
        {"kind": "resume_training"},
    ]
    result, operator = paused_run(bench, orders, max_steps=300)
    assert [kind for kind, _, _ in operator.answers] == [order["kind"] for order in orders]
    assert {state for _, state, _ in operator.answers} == {"applied"}
    messages = [message for _, _, message in operator.answers]
    assert messages[0] == "was already paused"
    assert "paused before another step" in messages[2]
    assert messages[-1] == "was not paused"
    assert result.witness.used[4] == [5e-4, 5e-4]
    paths = [ack.result["path"] for ack in result.acks() if "path" in ack.result]
    assert [read_state(Path(path)).step for path in paths] == [4, 4]
    assert [body.status for body in result.bodies("status_changed")] == ["running", "paused", "running", "finished"]
    assert result.trainer.state.global_step == 300


def test_a_paused_run_can_be_stopped(bench: Bench) -> None:
    result, operator = paused_run(bench, [{"kind": "stop_training", "save": True}])
    assert operator.answers[0][1] == "applied"
    assert (result.log().info().status, result.trainer.state.global_step) == ("stopped", 4)
    assert read_state(Path(result.acks()[1].result["path"])).step == 4


def test_a_rate_that_waits_for_its_step_is_answered_when_the_run_is_paused(bench: Bench) -> None:
    operator = Operator(bench.runs_dir, [{"kind": "resume_training"}])
    orders = [At(4, {"kind": "update_optimizer", "lr": 5e-4}), At(4, {"kind": "pause_training"})]
    result = bench.run(orders, callbacks=[Starter(operator)])
    operator.join(20)
    ack = result.acks()[0]
    assert (ack.outcome, ack.confirmed_step, ack.step) == ("applied", None, 4)
    assert "paused" in ack.message


def test_a_late_command_expires_and_is_never_applied(bench: Bench) -> None:
    orders = [
        At(6, {"kind": "update_optimizer", "lr": 5e-1}, valid_until_step=5),
        At(6, {"kind": "update_optimizer", "lr": 5e-4}, valid_until_step=6),
    ]
    result = bench.run(orders)
    late, in_time = result.acks()
    assert (late.outcome, in_time.outcome) == ("expired", "applied")
    assert result.witness.used[6] == [5e-4, 5e-4]


def test_a_note_is_in_the_log_under_its_authors_name(bench: Bench) -> None:
    result = bench.run([At(3, {"kind": "add_note", "text": "looks fine"})])
    (note,) = result.bodies("note_added")
    assert (note.text, note.author, result.ack.outcome) == ("looks fine", "ann", "applied")


def test_a_registered_knob_is_set_within_its_bounds_and_read_back(bench: Bench) -> None:
    held: dict[str, Any] = {"temperature": 1.0, "broken": 1.0}
    orders = [
        At(2, {"kind": "set_knob", "name": "temperature", "value": 0.5}),
        At(3, {"kind": "set_knob", "name": "temperature", "value": 7.0}),
        At(3, {"kind": "set_knob", "name": "temperature", "value": "hot"}),
        At(3, {"kind": "set_knob", "name": "temprature", "value": 1.0}),
        At(3, {"kind": "set_knob", "name": "deaf", "value": 2.0}),
    ]
    result = bench.trainer(orders)
    result.trainer.register_knob(
        "temperature",
        lambda: held["temperature"],
        lambda v: held.update(temperature=v),
        unit="K",
        bounds=(0.1, 2.0),
    )
    result.trainer.register_knob("deaf", lambda: 1.0, lambda v: None)
    result.trainer.train()
    applied, high, text, unknown, deaf = result.acks()
    assert (applied.outcome, held["temperature"]) == ("applied", 0.5)
    assert [ack.outcome for ack in (high, text, unknown, deaf)] == ["failed"] * 4
    assert "[0.1, 2]" in high.message
    assert "is a float" in text.message
    assert "no knob 'temprature'; registered: deaf, " in unknown.message
    assert "reads 1.0" in deaf.message
    assert result.knob("temperature").effective == 0.5
    assert result.knob("temperature").unit == "K"


def test_a_knob_that_raises_costs_no_step(bench: Bench) -> None:
    def refuse(value: float) -> None:
        if value == 2.0:
            raise OSError("device is busy")

    result = bench.trainer([At(3, {"kind": "set_knob", "name": "valve", "value": 2.0})])
    result.trainer.register_knob("valve", lambda: 1.0, refuse)
    result.trainer.train()
    assert result.ack.message == "OSError: device is busy"
    assert result.trainer.state.global_step == 12
