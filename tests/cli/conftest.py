"""Starts `agenttune` as a user would: a process of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agenttune.cli import main
from agenttune.control.local import LocalControl
from agenttune.llm import REMOTE_ENV
from agenttune.protocol.proposals import Proposal
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import RunSummary
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog, list_runs
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_trainer.py")
PATIENCE_S = 60.0
"""For what takes a second or two on an idle machine."""


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k == REMOTE_ENV or not k.startswith("AGENTTUNE_")}
    kept.pop("LINES", None)
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def wait_for(what: str, is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_s:.0f} s in vain for {what}")
        time.sleep(0.02)


@dataclass
class Result:
    code: int
    out: str
    err: str


def agenttune(*args: str, cwd: Path) -> Result:
    """Run a command to its end, in this process: the same `main` without an interpreter's start."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    kept_argv, kept_cwd, kept_env = sys.argv, Path.cwd(), dict(os.environ)
    sys.argv = ["agenttune", *args]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment())
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warm.processes():
            main()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        sys.argv = kept_argv
        os.chdir(kept_cwd)
        os.environ.clear()
        os.environ.update(kept_env)
    return Result(code, out.getvalue(), err.getvalue())


def words_of(process: psutil.Process) -> str:
    """Its command line; empty if it has ended since it was found."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@dataclass
class Launched:
    """A running `agenttune run`."""

    process: subprocess.Popen[str]
    runs_dir: Path

    def info(self) -> RunInfo:
        wait_for("a run", lambda: list_runs(self.runs_dir))
        return list_runs(self.runs_dir)[0]

    def wait_for_step(self, step: int) -> None:
        wait_for(f"step {step}", lambda: [i for i in list_runs(self.runs_dir) if i.step >= step])

    def wait_for_event(self, kind: str) -> None:
        wait_for(f"the event {kind}", lambda: self.events(kind))

    def events(self, kind: str) -> list[str]:
        with contextlib.closing(RunLog.open(Path(self.info().path))) as log:
            return [event.body.model_dump_json() for event in log.events(kinds=[kind])]

    def summary(self) -> RunSummary:
        with contextlib.closing(RunLog.open(Path(self.info().path))) as log:
            return summarize(log)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop_training(self) -> None:
        """As the operator, over the files: for a run that trains until a test has seen enough."""
        proposal = {"command": {"kind": "stop_training"}, "author": {"name": "test", "principal": "operator"}}
        LocalControl(self.runs_dir).submit(self.info().run_id, Proposal.model_validate(proposal))

    def end(self, patience_s: float = PATIENCE_S) -> Result:
        out, err = self.process.communicate(timeout=patience_s)
        return Result(self.process.returncode, out, err)

    def child(self, word: str) -> psutil.Process:
        """The process below the launcher whose command line has `word` in it."""
        found: list[psutil.Process] = []

        def look() -> bool:
            below = psutil.Process(self.process.pid).children(recursive=True)
            found[:] = [p for p in below if word in words_of(p)]
            return bool(found)

        wait_for(f"the process {word}", look)
        return found[0]


@dataclass
class Project:
    """A folder with a config file that runs the fake trainer."""

    folder: Path
    runs_dir: Path
    launched: list[Launched]

    def write(self, script: str | Path = FAKE, args: str = "[--steps, 20]", more: str = "") -> None:
        text = f"""\
            run: {{script: {script}, args: {args}, name: demo}}
            policy: noop
            server: {{port: 0}}
            store: {{runs_dir: {self.runs_dir}}}
            """
        (self.folder / "config.yaml").write_text(textwrap.dedent(text) + more, encoding="utf-8")

    def run(self) -> Result:
        return self.start().end()

    def start(self, fresh: bool = False) -> Launched:
        """Begin; `fresh`: with an interpreter of its own for each process, where its environment is looked at."""
        popen = subprocess.Popen if fresh else warm.Popen
        process = popen(
            [sys.executable, "-m", "agenttune", "run", "config.yaml"],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.launched.append(Launched(process, self.runs_dir))
        return self.launched[-1]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, tmp_path / "runs", [])
    project.write()
    yield project
    for launched in project.launched:
        clean_up(launched)


def clean_up(launched: Launched) -> None:
    """End everything that a failed test has left."""
    for info in list_runs(launched.runs_dir):
        if info.pid is not None and info.is_live:
            with contextlib.suppress(ProcessLookupError):
                os.kill(info.pid, signal.SIGKILL)
    if launched.process.poll() is None:
        launched.process.kill()
        launched.process.communicate(timeout=PATIENCE_S)
