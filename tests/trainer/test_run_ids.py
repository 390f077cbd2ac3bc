"""Runs that start at the same moment: each gets an id, a folder and a log of its own."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from agenttune.errors import LogExists
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog, list_runs
from agenttune.store.sqlite_file import make_file
from agenttune.trainer.options import Options, open_run

pytestmark = pytest.mark.trainer

AT_ONCE = 20


def _start(barrier: Barrier, runs_dir: Path, environ: dict[str, str]) -> None:
    barrier.wait()
    open_run(Options(runs_dir=runs_dir, server=False), environ).close()


def _start_all(runs_dir: Path, environ: dict[str, str]) -> list[str]:
    forking = multiprocessing.get_context("fork")
    barrier = forking.Barrier(AT_ONCE)
    processes = [forking.Process(target=_start, args=(barrier, runs_dir, environ)) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    return [info.run_id for info in list_runs(runs_dir)]


def test_trainings_that_start_in_one_second_are_runs_of_their_own(tmp_path: Path) -> None:
    assert len(set(_start_all(tmp_path, {}))) == AT_ONCE
    pids = {info.pid for info in list_runs(tmp_path)}
    assert len(pids) == AT_ONCE, "two processes write one log"


def test_the_run_that_a_launcher_made_is_taken_by_one_process_only(tmp_path: Path) -> None:
    waiting = RunInfo(run_id="given", name="given", status="starting", created_at_s=time.time())
    RunLog.create(tmp_path / "given", waiting).close()
    found = _start_all(tmp_path, {"AGENTTUNE_RUN_ID": "given"})
    assert sorted(found) == sorted(["given", *(f"given-{number}" for number in range(2, AT_ONCE + 1))])
    assert len({info.pid for info in list_runs(tmp_path)}) == AT_ONCE


def test_a_log_never_takes_the_place_of_another(tmp_path: Path) -> None:
    first = RunInfo(run_id="r", name="first", status="starting", created_at_s=1.0)
    make_file(tmp_path / "r", first)
    with pytest.raises(LogExists, match="choose another name"):
        make_file(tmp_path / "r", first.model_copy(update={"name": "second"}))
    assert [info.name for info in list_runs(tmp_path)] == ["first"]
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["log.db"], "what was built aside is gone"
