"""Runs to serve, and real server processes to serve them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agenttune.control.discovery import ServerAddress, ensure_server
from agenttune.protocol.events import KnobsRead, RunStarted
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import RunLog
from tests import warm
from tests.warm import serve

MakeRun = Callable[..., RunLog]
StartServer = Callable[..., ServerAddress]
GATE = {"gate": {"bounds": {"lr": [1e-6, 1e-2]}}}


def make_run(runs_dir: Path, run_id: str = "one", steps: int = 100, **fields: Any) -> RunLog:
    """A run of this process, with a learning rate and `steps` points of `loss`."""
    pid = os.getpid()
    known: dict[str, Any] = {"status": "running", "created_at_s": time.time(), "rules": GATE}
    known |= {"pid": pid, "pid_started_s": started_s(pid), **fields}
    log = RunLog.create(runs_dir / run_id, RunInfo(run_id=run_id, name=run_id, **known))
    log.append(RunStarted(framework="test", pid=pid, max_steps=1000, capabilities=["update_optimizer"]), step=0)
    log.append(KnobsRead(knobs=[KnobState(name="lr", effective=1e-3, base=1e-3, command="update_optimizer")]), step=0)
    log.append_points(
        [Point(step=i, at_s=time.time(), values={"loss": 1 / i, "train/loss": 2 / i}) for i in range(1, steps + 1)]
    )
    return log


def stop(address: ServerAddress) -> None:
    """End a server that a test has started."""
    try:
        process = psutil.Process(address.pid)
        process.terminate()
        process.wait(60)
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def new_run() -> MakeRun:
    return make_run


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """`ensure_server` on a free port; what it started is ended with the test."""
    started: list[ServerAddress] = []

    def start(runs_dir: Path, **settings: Any) -> ServerAddress:
        started.append(ensure_server(runs_dir, **{"port": 0, **settings}))
        return started[-1]

    with warm.processes():
        yield start
    for address in started:
        stop(address)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder for the tests of one file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def shared_server(shared_runs: Path) -> Iterator[ServerAddress]:
    """A server process for the tests of one file."""
    address = serve(shared_runs)
    yield address
    stop(address)
