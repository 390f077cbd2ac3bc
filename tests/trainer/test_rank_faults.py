"""What goes wrong on one of several ranks is told by name, and nobody waits for ever."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.warm import Ended, run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import json, os, signal, sys, threading, time
    from torch.utils.data import default_collate
    from agenttune.store.run_log import list_runs
    from tests.trainer.rank_loop import RANK, Loop, begin

    fault = sys.argv[2]
    folder = begin(limit_s=5.0)
    held = {"temperature": 1.0}

    def before_step(step, optimizer):
        if step == 6 and fault == f"kill{RANK}":
            os.kill(os.getpid(), signal.SIGKILL)

    def set_value(value):
        if RANK == 1:
            time.sleep(60)
        held["temperature"] = value

    def end_in_the_pause():
        while not any(info.status == "paused" for info in list_runs(folder / "runs")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def offer(session):
        session.register_knob("temperature", lambda: held["temperature"], set_value)

    orders = {3: [{"kind": "set_knob", "name": "temperature", "value": 0.5}]} if fault == "stuck" else {}
    if fault == "paused":
        orders = {3: [{"kind": "pause_training"}]}
        if RANK == 1:
            threading.Thread(target=end_in_the_pause, daemon=True).start()
    steps = 12 if fault != "data ends" else 20
    if fault == "uneven":
        steps = 8 if RANK == 1 else 12
    engine = "plain" if fault in ("uneven", "data ends") else "ddp"

    def load(dataset):
        count = 8 if RANK == 1 else 12
        return (default_collate([dataset[i]]) for i in range(count))

    reason = ""
    try:
        Loop(folder, orders, engine=engine, steps=steps, before_step=before_step, offers=offer,
             load=load if fault == "data ends" else None).run()
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    (folder / f"rank{RANK}.json").write_text(json.dumps(reason))
    os._exit(0)
"""


def trained(folder: Path, fault: str) -> tuple[list[Ended], RunLog, dict[int, str]]:
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ended = run_ranks(script, str(folder), fault, folder=folder)
    told = {
        r: json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1) if (folder / f"rank{r}.json").exists()
    }
    (info,) = list_runs(folder / "runs")
    return ended, RunLog.open(run_folder(folder / "runs", info.run_id)), told


def reason_of(log: RunLog) -> str:
    body = log.events(kinds=["status_changed"])[-1].body.model_dump()
    assert body["status"] == "failed"
    return str(body["reason"])


@pytest.mark.parametrize("fault", ["kill1", "paused"])
def test_a_killed_rank_is_named_in_the_log(tmp_path: Path, fault: str) -> None:
    """In the midst of training, and while all wait in a pause."""
    _, log, told = trained(tmp_path, fault)
    assert "rank 1" in reason_of(log)
    assert "gone" in reason_of(log)
    assert told[0], "and training ends on the other one"


def test_without_rank_0_the_others_end(tmp_path: Path) -> None:
    _, _, told = trained(tmp_path, "kill0")
    assert told[1]


def test_a_rank_that_is_stuck_in_a_command_is_named(tmp_path: Path) -> None:
    _, log, told = trained(tmp_path, "stuck")
    assert "rank 1" in reason_of(log)
    assert "last seen in set_knob at step 3" in reason_of(log) or "last seen in set_knob at step 4" in reason_of(log)
    assert told[0].startswith("RanksApart: no answer from another rank for 5 s")


@pytest.mark.parametrize("fault", ["uneven", "data ends"])
def test_a_rank_that_has_fewer_batches_ends_alone(tmp_path: Path, fault: str) -> None:
    _, log, told = trained(tmp_path, fault)
    assert told == {0: "", 1: ""}
    assert log.info().status == "finished"
    assert log.info().step == 12
