"""A run that was stopped with a checkpoint goes on where it was stopped: by the usual restart, or by the words said."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers.trainer_utils import get_last_checkpoint

from agenttune.trainer.checkpoints.checkpoint_files import read_state
from agenttune.views.report import print_report, read_journal
from tests.trainer.conftest import At, Bench, Result
from tests.trainer.test_actions import paused_run
from tests.trainer.test_layers import Gained

pytestmark = pytest.mark.trainer
STOP = {"kind": "stop_training", "save": True}


def said(message: str) -> str:
    """What a message says to resume from."""
    found = re.search(r"to go on: resume_from_checkpoint='([^']+)'", message)
    assert found is not None, message
    return found[1]


def goes_on(bench: Bench, resume: Any, at: int, **how: Any) -> Result:
    """Train on to step 12 and look where that began."""
    again = bench.trainer(**how)
    again.trainer.train(resume_from_checkpoint=resume)
    assert again.trainer.state.global_step == 12
    log = max((path.parent for path in bench.runs_dir.glob("*/log.db")), key=lambda path: path.stat().st_ctime_ns)
    assert log.is_dir()
    first = min(point.step for point in again.log().points(limit=1000, sources=["step"]))
    assert first == at + 1
    return again


@pytest.mark.quick("no-64", "steps-20", "epoch-20")
@pytest.mark.parametrize("rows", [64, 20])
@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_the_usual_restart_goes_on_from_where_a_run_was_stopped(bench: Bench, strategy: str, rows: int) -> None:
    how = {"save_strategy": strategy, "save_steps": 3, "rows": rows}
    stopped = bench.run([At(5, STOP)], **how)
    path = said(stopped.ack.message)
    assert path == get_last_checkpoint(str(bench.path / "out")) == stopped.ack.result["path"]
    assert read_state(Path(path)).step == 5
    [saved] = [b for b in stopped.bodies("checkpoint_saved") if b.path == path]
    assert saved.checkpoint_id == stopped.ack.result["checkpoint_id"]
    goes_on(bench, True, 5, **how)


def test_a_paused_run_too(bench: Bench) -> None:
    result, _ = paused_run(bench, [STOP])
    assert said(result.acks()[1].message) == get_last_checkpoint(str(bench.path / "out"))


@pytest.mark.parametrize(
    "how",
    [
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "loss"},
        {"save_strategy": "steps", "save_steps": 3, "save_only_model": True},
        {
            "save_strategy": "steps",
            "save_steps": 3,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "load_best_model_at_end": True,
            "save_total_limit": 1,
        },
        {"form": "callback"},
    ],
    ids=["best", "only_model", "last_one_deleted", "callback"],
)
def test_where_the_loops_own_save_would_not_do_the_words_do(bench: Bench, how: dict[str, Any]) -> None:
    stopped = bench.run([At(5, STOP)], **how)
    assert stopped.ack.outcome == "applied"
    path = said(stopped.ack.message)
    goes_on(bench, path, 5, **how)


def test_what_a_restart_would_take_instead_is_named(bench: Bench) -> None:
    bench.run(form="plain", max_steps=9, save_strategy="steps", save_steps=3)
    stopped = bench.run([At(5, STOP)])
    assert said(stopped.ack.message).endswith("checkpoint-5")
    assert "resume_from_checkpoint=True takes checkpoint-9, of before this run" in stopped.ack.message


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_report_says_it_on_a_line_of_its_own(bench: Bench, width: int) -> None:
    stopped = bench.run([At(5, STOP)])
    file = StringIO()
    print_report(Console(file=file, width=width), read_journal(stopped.log()))
    path = stopped.ack.result["path"]
    assert f"resume_from_checkpoint='{path}'" in file.getvalue().splitlines()


COMMANDS: tuple[dict[str, Any], ...] = (
    {"kind": "update_training", "gradient_accumulation_steps": 3},
    {"kind": "update_training", "max_grad_norm": 0.25},
    {"kind": "update_schedule", "shape": "wsd"},
    {
        "kind": "model_layer_operation",
        "layer_name": "first",
        "operation_name": "requires_grad_",
        "params": {"requires_grad": False},
    },
)


def warned_of(result: Result) -> str:
    """The note at the start of a run that tells what did not come with the checkpoint; empty if there is none."""
    notes = [body.text for body in result.bodies("note_added") if "was trained under" in body.text]
    assert len(notes) <= 1
    return notes[0] if notes else ""


def test_a_resume_says_which_commanded_values_it_has_not_brought_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    commands = [At(2, command) for command in COMMANDS]
    stopped = bench.run([*commands, At(6, STOP)])
    path = said(stopped.acks()[-1].message)
    again = goes_on(bench, path, 6)
    note = warned_of(again)
    assert note in caplog.messages
    lost, _, rest = note.partition(". In force again, with the checkpoint's states: ")
    for said_of in (
        "gradient_accumulation_steps was 3, is 1",
        "max_grad_norm was 0.25, is 1.0",
        "layer first was frozen, is trained",
    ):
        assert said_of in lost
    along, _, to_set = rest.partition(". To set them again: ")
    assert along == "lr, the plan of the learning rate"
    for command in ('update_training {"gradient_accumulation_steps": 3}', 'update_training {"max_grad_norm": 0.25}'):
        assert command in to_set
    assert '"layer_name": "first", "operation_name": "requires_grad_", "params": {"requires_grad": false}' in to_set
    assert "max_steps" not in note


def test_a_bare_callback_tells_it_where_it_can_tell_what_its_trainer_resumed_from(bench: Bench) -> None:
    """By the state that the Trainer has read: a checkpoint of the same name that it is not of says nothing."""
    stopped = bench.run([At(2, COMMANDS[1]), At(6, STOP)])
    path = Path(said(stopped.acks()[-1].message))
    assert "max_grad_norm was 0.25, is 1.0" in warned_of(goes_on(bench, str(path), 6, form="callback"))

    moved = path.rename(bench.path / "elsewhere")
    assert warned_of(goes_on(bench, str(moved), 6, form="callback")) == "", "nothing tells where that came from"
    named = {"form": "callback", "resume_from_checkpoint": str(moved)}
    assert "max_grad_norm was 0.25, is 1.0" in warned_of(goes_on(bench, str(moved), 6, **named))

    bench.run([At(2, COMMANDS[1]), At(6, STOP)], learning_rate=5e-3)  # another training, in the same folder
    assert get_last_checkpoint(str(bench.path / "out")) == str(path)
    assert warned_of(goes_on(bench, str(moved), 6, form="callback")) == ""


def test_what_was_frozen_in_no_layer_is_told_by_its_own_name(bench: Bench) -> None:
    freeze = {"layer_name": "gain", "operation_name": "requires_grad_", "params": {"requires_grad": False}}
    stopped = bench.run([At(2, {"kind": "model_layer_operation", **freeze}), At(6, STOP)], model=Gained())
    note = warned_of(goes_on(bench, said(stopped.acks()[-1].message), 6, model=Gained()))
    assert "layer gain was frozen, is trained" in note
    assert '"layer_name": "gain"' in note


def test_without_the_log_of_before_it_says_so_of_other_values(bench: Bench) -> None:
    stopped = bench.run([At(2, COMMANDS[1]), At(6, STOP)])
    path = said(stopped.acks()[-1].message)
    (stopped.log().folder).rename(bench.path / "moved")
    assert "trained under other values" in warned_of(goes_on(bench, path, 6))


def test_what_no_command_changed_is_not_warned_of(bench: Bench) -> None:
    stopped = bench.run([At(2, COMMANDS[2]), At(5, STOP)])
    again = goes_on(bench, said(stopped.acks()[-1].message), 5, max_grad_norm=3.0)
    assert warned_of(again) == ""
