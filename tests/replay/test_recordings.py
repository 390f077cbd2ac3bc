"""What others recorded is read as it is, and what is no recording is refused with the reason."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agenttune.errors import UserError
from agenttune.protocol.events import BranchStarted, Evaluated
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import RunInfo
from agenttune.replay.recordings import read_recording
from agenttune.store.run_log import RunLog
from tests.replay.conftest import diverging, history, write_state


def write_events(folder: Path, *series: tuple[str, Mapping[int, float]]) -> Path:
    """An event file by TensorBoard's own writer."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for tag, values in series:
        for step, value in values.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1000.0 + step, step=step, summary=summary))
    writer.close()
    return next(folder.glob("events.out.tfevents.*"))


# -- trainer_state.json ---------------------------------------------------------------------------------------------


def test_a_trainer_state_gives_rows_evaluations_and_the_rate(tmp_path: Path) -> None:
    losses = [*diverging(99), math.nan]
    recording = read_recording(write_state(tmp_path / "trainer_state.json", history(losses)))
    assert [row.step for row in recording.rows] == list(range(1, 101))
    assert recording.rows[0].values == {"loss": 3.0, "grad_norm": 1.0, "learning_rate": 1e-3, "lr": 1e-3}
    assert math.isnan(recording.rows[-1].values["loss"])
    assert [e.step for e in recording.evaluations] == [50, 100]
    assert recording.max_steps == 400
    assert recording.knobs[0][1][0].effective == 1e-3


def test_the_newest_checkpoint_of_an_output_folder_is_taken(tmp_path: Path) -> None:
    for steps in (9, 100, 20):
        write_state(tmp_path / f"checkpoint-{steps}" / "trainer_state.json", history([1.0] * steps), global_step=steps)
    assert read_recording(tmp_path).last_step == 100
    write_state(tmp_path / "trainer_state.json", history([1.0] * 120), global_step=120)
    assert read_recording(tmp_path).last_step == 120


def test_rows_without_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"step": 10, "loss": "NaN"}, {"step": 20, "loss": None}, {"loss": 1.0}, "x", {"step": 30, "loss": 2}]
    recording = read_recording(write_state(tmp_path / "s.json", rows))
    assert [row.step for row in recording.rows] == [10, 30]
    assert any("3 entries" in note for note in recording.notes)
    assert any("one row every 20 steps" in note for note in recording.notes)
    assert any("no learning rate" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ('{"log_history": [{"step": 1, "loss":', "not valid JSON at line 1"),
        ("[]", "no JSON object"),
        ('{"model": "x"}', "no `log_history`"),
        ('{"log_history": []}', "no row with a step"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_trainer_state_says_why(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=problem) as error:
        read_recording(path)
    assert str(path) in error.value.message


@pytest.mark.trainer
def test_what_a_real_trainer_saved_and_logged_is_read(tmp_path: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    from tests.trainer.conftest import Points, TinyModel

    torch.set_num_threads(1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=6,
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(TinyModel(), arguments, train_dataset=Points(64), eval_dataset=Points(8))
    trainer.train()
    recording = read_recording(tmp_path / "out")
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row.values["loss"] for row in recording.rows] == [row["loss"] for row in logged]
    assert [row.values["lr"] for row in recording.rows] == [row["learning_rate"] for row in logged]
    assert [e.step for e in recording.evaluations] == [6, 12]
    assert all("eval_loss" in e.metrics for e in recording.evaluations)


# -- TensorBoard ----------------------------------------------------------------------------------------------------


def test_event_files_give_rows_evaluations_and_the_rate(tmp_path: Path) -> None:
    path = write_events(
        tmp_path / "tb",
        ("train/loss", {10: 2.0, 20: math.nan}),
        ("train/learning_rate", {10: 0.5, 20: 0.25}),
        ("eval/loss", {20: 1.75}),
        ("train/train_loss", {20: 9.0}),
    )
    for place in (path, path.parent, tmp_path):
        recording = read_recording(place)
        assert [(row.step, row.at_s) for row in recording.rows] == [(10, 1010.0), (20, 1020.0)]
        assert recording.rows[0].values == {"loss": 2.0, "lr": 0.5}
        assert math.isnan(recording.rows[1].values["loss"])
        assert [(e.step, e.metrics) for e in recording.evaluations] == [(20, {"eval_loss": 1.75})]


def test_ten_thousand_values_are_all_read(tmp_path: Path) -> None:
    path = write_events(tmp_path, ("loss", {step: float(step) for step in range(1, 12_001)}))
    assert len(read_recording(path).rows) == 12_000


@pytest.mark.trainer
def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("Loss/train", 1.0 / (step + 1), step)
            writer.add_scalar("Loss/test", 2.0, step)
            writer.add_text("note", "hello", step)
    recording = read_recording(tmp_path)
    assert [row.values["loss"] for row in recording.rows] == pytest.approx([1.0 / (step + 1) for step in range(5)])
    assert recording.evaluations[0].metrics == {"eval_loss": 2.0}


def test_without_tensorboard_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_events(tmp_path, ("loss", {1: 2.0}))
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'agenttune-toolkit\[tensorboard\]'"):
        read_recording(path)


def test_a_loss_of_an_unusual_name_can_be_named(tmp_path: Path) -> None:
    path = write_events(tmp_path, ("my/nll", {1: 2.0, 2: 1.0}))
    with pytest.raises(UserError, match=r"--tag loss=TAG. There are: my/nll"):
        read_recording(path)
    with pytest.raises(UserError, match="no tag 'nll' for loss; there are: my/nll"):
        read_recording(path, {"loss": "nll"})
    assert [row.values["loss"] for row in read_recording(path, {"loss": "my/nll"}).rows] == [2.0, 1.0]


def test_steps_that_were_made_again_count_as_written_last(tmp_path: Path) -> None:
    write_events(tmp_path, ("loss", {1: 5.0, 2: 4.0, 3: 3.0}))
    first = next(tmp_path.glob("events*"))
    first.rename(tmp_path / f"{first.name}.0")
    again = write_events(tmp_path / "later", ("loss", {2: 1.0, 3: 0.5}))
    again.rename(tmp_path / f"{first.name}.1")
    (tmp_path / "later").rmdir()
    recording = read_recording(tmp_path)
    assert [(row.step, row.values["loss"]) for row in recording.rows] == [(1, 5.0), (2, 1.0), (3, 0.5)]
    assert any("written again" in note for note in recording.notes)


@pytest.mark.parametrize("content", [b"", b"no event file at all, by any means", struct.pack("<Q", 5) + b"\0" * 40])
def test_an_event_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"no scalars could be read|cannot be read as an event file"):
        read_recording(path)


def test_an_event_file_that_was_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    path = write_events(tmp_path, ("loss", {1: 5.0, 2: 4.0, 3: 3.0}))
    path.write_bytes(path.read_bytes()[:-10])
    assert [row.step for row in read_recording(path).rows] == [1, 2]


def test_a_folder_with_several_runs_asks_which_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_events(tmp_path / name, ("loss", {1: 5.0}))
    with pytest.raises(UserError, match="event files of 2 runs; give one of: ") as error:
        read_recording(tmp_path)
    assert str(tmp_path / "a") in error.value.message


# -- our log, and what is none of them ------------------------------------------------------------------------------


def test_a_log_gives_the_steps_that_the_run_stands_on(tmp_path: Path) -> None:
    info = RunInfo(
        run_id="r", name="r", status="running", created_at_s=1.0, goal_metric="acc", goal_direction="maximize"
    )
    log = RunLog.create(tmp_path / "r", info)
    log.append_points([Point(step=step, at_s=1.0, values={"loss": 1.0}) for step in range(1, 31)])
    log.append(Evaluated(metrics={"acc": 0.1}), step=30)
    log.append(BranchStarted(name="retry", parent="main", from_step=20, checkpoint_id="c"), step=20, branch="retry")
    log.append_points([Point(step=step, at_s=1.0, values={"loss": 2.0}, branch="retry") for step in range(21, 26)])
    log.append(Evaluated(metrics={"acc": 0.5}), step=25, branch="retry")
    log.close()
    recording = read_recording(tmp_path / "r")
    assert [(row.step, row.values["loss"]) for row in recording.rows] == [
        *((step, 1.0) for step in range(1, 21)),
        *((step, 2.0) for step in range(21, 26)),
    ]
    assert [e.step for e in recording.evaluations] == [25]
    assert (recording.goal_metric, recording.goal_direction) == ("acc", "maximize")
    assert recording.notes == ["returns to a checkpoint: 1; what is shown are the steps of main -> retry"]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run and no file"):
        read_recording(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"there is no recording in it; give a run, a Trainer's trainer_state.json"):
        read_recording(tmp_path)
    (tmp_path / "x.csv").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(UserError, match="not a kind of file"):
        read_recording(tmp_path / "x.csv")
    RunLog.create(tmp_path / "e", RunInfo(run_id="e", name="e", status="running", created_at_s=1.0)).close()
    with pytest.raises(UserError, match="has logged no step yet"):
        read_recording(tmp_path / "e")
