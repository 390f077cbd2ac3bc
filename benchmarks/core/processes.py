"""The processes of a measurement: control server, training, agent, live client."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from agenttune.control.discovery import ensure_server
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from benchmarks.core.training import Trace

ROOT = Path(__file__).resolve().parents[2]
END_TIMEOUT_S = 20.0
LINGER_S = 3600.0
ATTACH_TIMEOUT_S = 60.0
LOOK_S = 0.05


class MeasurementFailed(Exception):
    """A process of a measurement ended with an error; the message has the end of its output."""


@dataclass(frozen=True)
class Bench:
    """A scratch folder with a control server over its `runs` folder."""

    folder: Path
    url: str
    server_pid: int

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    def new_run(self, run_id: str) -> RunLog:
        """A run that waits for its trainer, as `agenttune run` makes one."""
        info = RunInfo(run_id=run_id, name=run_id, status="starting", created_at_s=time.time())
        return RunLog.create(self.runs_dir / run_id, info)


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Start a control server of its own for the block, on a free port."""
    # Two plain runs in a row leave it without a client for longer than it would wait by itself.
    address = ensure_server(folder / "runs", port=0, linger_s=LINGER_S)
    server = psutil.Process(address.pid)
    try:
        yield Bench(folder, address.url, address.pid)
    finally:
        server.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            server.wait(END_TIMEOUT_S)


class Process:
    """A child process whose output goes to a file, which is quoted if it fails."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask_to_end(self) -> None:
        """Tell a training process to end after its present step."""
        self._popen.send_signal(signal.SIGUSR1)

    def wait(self, timeout_s: float) -> None:
        """Wait for a good end.

        Raises:
            MeasurementFailed: It failed, or did not end in time.
        """
        try:
            status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise MeasurementFailed(f"no end within {timeout_s:g} s; {self._tail()}") from None
        if status != 0:
            raise MeasurementFailed(f"exit status {status}; {self._tail()}")

    def check(self) -> None:
        """Raise MeasurementFailed if it has ended with an error by now."""
        if self._popen.poll() not in (None, 0):
            raise MeasurementFailed(f"exit status {self._popen.returncode}; {self._tail()}")

    def terminate(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(END_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace")
        return f"{self._log.name} ends with:\n{text[-2000:]}"


def start_plain(folder: Path, depth: int, steps: int) -> Process:
    """Training with the plain Trainer; its trace goes to `plain.json`."""
    return _start_training(folder, "plain", depth, steps, {}, "--plain")


def start_interactive(server: Bench, run_id: str, depth: int, steps: int) -> Process:
    """Training with agenttune; its trace goes to `RUN.json`."""
    env = {
        "AGENTTUNE_RUN_ID": run_id,
        "AGENTTUNE_RUNS_DIR": str(server.runs_dir),
        "AGENTTUNE_SERVER_URL": server.url,
    }
    return _start_training(server.folder, run_id, depth, steps, env)


def _start_training(folder: Path, name: str, depth: int, steps: int, env: dict[str, str], *flags: str) -> Process:
    out = folder / f"{name}.json"
    out.unlink(missing_ok=True)
    out.with_suffix(".started").unlink(missing_ok=True)
    sizes = ["--depth", str(depth), "--steps", str(steps), "--out", str(out)]
    return Process(["-m", "benchmarks.core.training", *sizes, *flags], folder / f"{name}.out", env)


def read_trace(folder: Path, name: str) -> Trace:
    return Trace.model_validate_json((folder / f"{name}.json").read_text())


@contextlib.contextmanager
def attended(
    server: Bench, run_id: str, policy: tuple[str, ...] = ("--policy", "noop")
) -> Iterator[tuple[Process, Process]]:
    """An agent, by default with the policy that does nothing, and one live client, attached for the block."""
    agent = Process(
        ["-m", "agenttune", "attach", server.url, "--run", run_id, *policy],
        server.folder / f"{run_id}.agent.out",
    )
    client = Process(["-m", "benchmarks.core.live_client", server.url, run_id], server.folder / f"{run_id}.client.out")
    try:
        with contextlib.closing(RunLog.open(server.runs_dir / run_id)) as log:
            _wait_for_policy(log, agent)
        yield agent, client
        agent.check()
        client.check()
    finally:
        agent.terminate()
        client.terminate()


def _wait_for_policy(log: RunLog, agent: Process) -> None:
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    while not log.events(kinds=["policy_attached"]):
        agent.check()
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"the agent did not attach within {ATTACH_TIMEOUT_S:g} s")
        time.sleep(LOOK_S)
