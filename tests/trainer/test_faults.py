"""When something breaks, training goes on or ends honestly, and no ack is false."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from agenttune.errors import PortInUse, UserError
from agenttune.protocol.events import LogGap, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog, list_runs
from agenttune.trainer import Options, make_interactive
from agenttune.trainer.recording.background_writer import BackgroundWriter
from tests.trainer.conftest import At, Bench, Points, TinyModel, run_to_its_death

pytestmark = pytest.mark.trainer
LONG_S = 60.0


class Bomb(TrainerCallback):  # type: ignore[misc]
    def __init__(self, error: BaseException, step: int = 5) -> None:
        self.error, self.step = error, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "failed", "RuntimeError: CUDA out of memory"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_an_error_ends_the_run_under_its_own_name_and_reaches_the_user(
    bench: Bench, error: BaseException, status: str, reason: str
) -> None:
    orders = [At(5, {"kind": "update_optimizer", "lr": 5e-4}), At(5, {"kind": "save_checkpoint"})]
    result = bench.trainer(orders, callbacks=[Bomb(error)])
    with pytest.raises(type(error)):
        result.trainer.train()
    info = result.log().info()
    assert (info.status, info.status_reason, info.step) == (status, reason, 5)
    assert len(result.log().points(sources=["step"])) == 5
    rate, save = result.acks()
    assert (rate.outcome, rate.confirmed_step) == ("applied", None)
    assert save.outcome == "applied"  # saved before the error came


def test_a_failure_before_training_begins_is_recorded(bench: Bench) -> None:
    class NoData(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            raise FileNotFoundError("train.txt")

    result = bench.trainer(base=NoData)
    with pytest.raises(FileNotFoundError):
        result.trainer.train()
    assert (result.log().info().status, result.log().info().status_reason) == (
        "failed",
        "FileNotFoundError: train.txt",
    )


def test_commands_left_at_the_end_expire(bench: Bench) -> None:
    order = {"kind": "update_training", "gradient_accumulation_steps": 7}
    result = bench.run([At(11, order)])
    assert (result.ack.outcome, result.records()[0].state) == ("expired", State.EXPIRED)
    assert result.trainer.args.gradient_accumulation_steps == 1


def test_a_second_training_in_one_process_is_a_run_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.runs_dir / "mine"
    info = RunInfo(run_id="mine", name="mine", status="starting", created_at_s=time.time())
    RunLog.create(folder, info).close()
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "mine")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    result = bench.trainer(max_steps=3)
    result.trainer.train()
    result.trainer.train()
    runs = {info.run_id: info for info in list_runs(bench.runs_dir)}
    assert {name: info.status for name, info in runs.items()} == {"mine": "finished", "mine-2": "finished"}
    assert runs["mine"].pid == os.getpid()


def test_a_run_name_that_is_no_folder_name_is_refused() -> None:
    with pytest.raises(UserError, match="run_name"):
        Options(run_name="../../x")


def test_a_taken_port_stops_the_user_before_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTTUNE_SERVER_URL", raising=False)
    model = TinyModel()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = Options(runs_dir=bench.runs_dir, port=taken.getsockname()[1])
        trainer = make_interactive(Trainer)(
            model=model, args=bench.arguments(), train_dataset=Points(16), agenttune=options
        )
        with pytest.raises(PortInUse):
            trainer.train()
    assert model.forwards == 0
    assert list_runs(bench.runs_dir) == []


# -- a full disk -------------------------------------------------------------------------------------------------


class Disk:
    """Opens logs whose file may not grow while the disk is full."""

    def __init__(self) -> None:
        self.log: RunLog | None = None

    def open(self, folder: Path) -> RunLog:
        self.log = RunLog.open(folder)
        return self.log

    def limit(self, pages: int) -> None:
        assert self.log is not None
        self.log._db.execute(f"PRAGMA max_page_count = {pages}")


def wait_for(condition: Any) -> None:
    tick = threading.Event()
    until_s = time.monotonic() + LONG_S
    while time.monotonic() < until_s:
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError(f"did not come to pass within {LONG_S:g} s")


def point(step: int) -> Point:
    return Point(step=step, at_s=0.0, values={f"metric_{i}": 1.0 for i in range(200)})


def test_a_full_disk_costs_the_oldest_rows_and_the_log_says_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    RunLog.create(folder, RunInfo(run_id="run", name="run", status="running", created_at_s=0.0)).close()
    disk = Disk()
    writer = BackgroundWriter(folder, disk.open, interval_s=0.01, capacity_rows=50)
    reader = RunLog.open(folder)
    writer.add_point(point(0))
    wait_for(lambda: reader.last_point_id() == 1)
    disk.limit(1)
    for step in range(1, 101):
        writer.add_point(point(step))
        if step == 1:
            wait_for(lambda: "training goes on" in caplog.text)
    writer.submit(lambda log: log.append(StatusChanged(status="paused")))
    disk.limit(1_000_000)
    assert writer.close() is True
    steps = [stored.step for stored in reader.points(limit=1000)]
    assert steps[0] == 0
    assert steps[-1] == 100
    (gap,) = [event.body for event in reader.events(kinds=["log_gap"])]
    assert isinstance(gap, LogGap)
    assert gap.dropped_rows == 101 - len(steps) > 0
    assert reader.info().status == "paused"
    assert caplog.text.count("training goes on") == 1


def test_a_disk_that_stays_full_is_named_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    RunLog.create(folder, RunInfo(run_id="run", name="run", status="running", created_at_s=0.0)).close()
    disk = Disk()
    writer = BackgroundWriter(folder, disk.open, interval_s=0.01)
    wait_for(lambda: disk.log is not None)
    disk.limit(1)
    for step in range(20):
        writer.add_point(point(step))
    assert writer.close(timeout_s=0.3) is False
    assert "20 metric rows" in caplog.text
    assert str(folder) in caplog.text


# -- a killed process --------------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from agenttune.trainer.execution.acks import AckWriter
    from tests.trainer.conftest import At, Bench

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    AckWriter.acknowledge = die
    Bench(Path(sys.argv[1])).run([At(3, {"kind": "update_optimizer", "lr": 5e-4})])
"""


def test_a_process_killed_between_change_and_ack_leaves_no_false_ack(tmp_path: Path) -> None:
    log = run_to_its_death(KILLED, tmp_path)
    (record,) = log.commands()
    assert (record.state, record.ack) == (State.QUEUED, None)
    assert log.events(kinds=["acked"]) == []
    log.append(StatusChanged(status="lost"))
    (expired,) = log.commands()
    assert expired.state is State.EXPIRED
    assert all(math.isfinite(stored.values["step_loss"]) for stored in log.points(sources=["step"]))
