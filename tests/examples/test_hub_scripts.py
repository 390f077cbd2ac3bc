"""The examples that load from the hub, run with `--tiny`: offline, alone, under `agenttune run`, and steered."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from agenttune.control.discovery import ensure_server
from agenttune.control.http import HttpControl
from agenttune.control.owner_token import OwnerToken
from agenttune.protocol.metrics import StoredPoint
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, State
from agenttune.protocol.reads import CommandQuery
from agenttune.store.run_log import RunLog, list_runs
from tests.cli.conftest import wait_for

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).resolve().parents[2]
FINAL = re.compile(r"final evaluation loss: ([\d.]+) nats")
GUESSING_BYTES, GUESSING_REVIEWS = 6.24, 0.693
"""Losses of a model that knows nothing: ln 512 (tokens), ln 2 (verdicts)."""
NO_NETWORK = """
import ipaddress, sys

def refuse(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        print(f"ASKED THE NETWORK FOR {host}", file=sys.stderr, flush=True)
        raise OSError(f"this test has no network: {host}")

sys.addaudithook(refuse)
"""


def _environment(folder: Path) -> dict[str, str]:
    """Of a script that finds nothing of the hub's in its cache, and may talk to this machine only."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTTUNE_")}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]),
        "AGENTTUNE_RUNS_DIR": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "COLUMNS": "200",
    }


def _command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / script), "--tiny", "--output-dir", "out", *arguments]


def _run(command: Sequence[str], folder: Path, **changes: str) -> str:
    """Run to the end; what it printed."""
    env = _environment(folder) | changes
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "ASKED THE NETWORK" not in done.stderr + done.stdout
    return done.stdout


def _final_loss(output: str) -> float:
    found = FINAL.search(output)
    assert found is not None, output
    return float(found[1])


def _step_points(folder: Path) -> list[StoredPoint]:
    [info] = list_runs(folder / "runs")
    with contextlib.closing(RunLog.open(Path(info.path))) as log:
        return log.points(limit=10_000, sources=["step"])


def _series(folder: Path, name: str) -> list[float]:
    return [point.values[name] for point in _step_points(folder) if name in point.values]


@pytest.mark.slow  # quicker: the other examples, in test_scripts.py
def test_bert_learns_to_tell_the_reviews_apart_alone_and_offline(tmp_path: Path) -> None:
    somebody_elses = "http://127.0.0.1:9"
    output = _run(_command("bert_imdb.py", "--steps", "60"), tmp_path, AGENTTUNE_SERVER_URL=somebody_elses)

    assert _final_loss(output) < 0.9 * GUESSING_REVIEWS
    [info] = list_runs(tmp_path / "runs")
    assert (info.status, info.step, info.max_steps) == ("finished", 60, 60)
    losses = _series(tmp_path, "step_loss")
    assert statistics.fmean(losses[-10:]) < statistics.fmean(losses[:10]) - 0.1
    with contextlib.closing(RunLog.open(Path(info.path))) as log:
        assert log.curve("eval_accuracy").mean[-1] > 0.6


# Slow: that the example learns is the test above; this one says that its fault is one.
@pytest.mark.slow
def test_a_rate_that_is_far_too_high_leaves_bert_guessing(tmp_path: Path) -> None:
    output = _run(_command("bert_imdb.py", "--steps", "40", "--lr", "0.3", "--plain"), tmp_path)
    assert _final_loss(output) > 0.95 * GUESSING_REVIEWS
    assert list_runs(tmp_path / "runs") == []


# Slow: `agenttune run` with a real Trainer is in cli/test_real_run.py too, and the model alone in the tests of layers.
@pytest.mark.slow
def test_gpt2_trains_under_agenttune_run_and_leaves_its_log(tmp_path: Path) -> None:
    config = f"""
        run:
          script: {ROOT / "examples" / "gpt2_wikitext.py"}
          args: [--tiny, --steps, '60', --output-dir, out]
          name: gpt2
        policy: noop
        server: {{port: 0}}
    """
    (tmp_path / "config.yaml").write_text(textwrap.dedent(config), encoding="utf-8")
    output = _run([sys.executable, "-m", "agenttune", "run", "config.yaml"], tmp_path)

    assert "finished" in output
    [info] = list_runs(tmp_path / "runs")
    assert info.run_id.startswith("gpt2-")
    assert (info.status, info.step, info.max_steps) == ("finished", 60, 60)
    losses = _series(tmp_path, "step_loss")
    assert statistics.fmean(losses[-10:]) < statistics.fmean(losses[:10]) - 0.3
    with contextlib.closing(RunLog.open(Path(info.path))) as log:
        assert log.curve("eval_loss").mean[-1] < GUESSING_BYTES - 0.5


# -- the mixture, steered ------------------------------------------------------------------------------------------


class Steered:
    """A running script, and the control server that it has found."""

    def __init__(self, control: HttpControl, process: subprocess.Popen[str], runs_dir: Path) -> None:
        self.control, self.process, self.runs_dir = control, process, runs_dir

    @property
    def step(self) -> int:
        return next((info.step for info in list_runs(self.runs_dir)), 0)

    def wait_for_steps(self, count: int) -> None:
        wanted = self.step + count
        wait_for(f"step {wanted}", lambda: self.step >= wanted or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def ask(self, kind: str, **fields: Any) -> CommandRecord:
        """Send a command over HTTP and wait for the trainer's answer."""
        [info] = list_runs(self.runs_dir)
        proposal = Proposal.model_validate(
            {"command": {"kind": kind, **fields}, "author": Author(principal="operator", name="ann")}
        )
        self.control.submit(info.run_id, proposal)
        return self.control.read(info.run_id, CommandQuery(command_id=proposal.command_id, wait_s=60))

    def change(self, kind: str, **fields: Any) -> int:
        """The step at which a command was applied."""
        record = self.ask(kind, **fields)
        assert record.state == State.APPLIED, record
        assert record.ack is not None
        assert record.ack.step is not None
        return record.ack.step


@pytest.fixture
def mixing(tmp_path: Path) -> Iterator[Steered]:
    runs_dir = tmp_path / "runs"
    address = ensure_server(runs_dir, port=0)
    command = _command("dataset_mixing.py", "--steps", "100000", "--eval-every", "100000")
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            with HttpControl(address.url, OwnerToken(address.url)) as control:
                yield Steered(control, process, runs_dir)
        finally:
            process.kill()
            psutil.Process(address.pid).terminate()


# Slow: the same commands under a real Trainer are in trainer/test_data_in_training.py and trainer/test_mixture.py.
@pytest.mark.slow
def test_weights_and_sources_of_the_mixture_change_while_it_trains(mixing: Steered) -> None:
    runtime = "update_dataset_runtime_hyperparameters"
    mixing.wait_for_steps(3)
    only_code = mixing.change(runtime, values={"weights": {"help": 0.0, "code": 2.0}})
    mixing.wait_for_steps(3)
    refused = mixing.ask("update_dataset", values={"texts": ["help", "novels"]})
    assert refused.state == State.FAILED
    assert refused.ack is not None
    assert "there are: help, code, sums" in refused.ack.message
    mixing.wait_for_steps(3)
    rebuilt = mixing.change("update_dataset", values={"texts": ["help", "sums"], "block_tokens": 32})
    mixing.wait_for_steps(3)
    only_sums = mixing.change(runtime, values={"weights": {"help": 0.0, "sums": 1.0}})
    mixing.wait_for_steps(3)
    assert mixing.change("stop_training", save=False) > only_sums
    output, _ = mixing.process.communicate(timeout=60)
    assert mixing.process.returncode == 0, output
    assert "ASKED THE NETWORK" not in output
    assert FINAL.search(output), output

    points = _step_points(mixing.runs_dir.parent)
    assert [point.step for point in points] == list(range(1, len(points) + 1))
    assert _drawn(points, 0, only_code) == {"help", "code"}
    assert _drawn(points, only_code, rebuilt) == {"code"}
    assert _drawn(points, rebuilt, only_sums) == {"help", "sums"}
    assert _drawn(points, only_sums, len(points)) == {"sums"}
    lengths = [round(point.values["tokens_per_s"] / point.values["samples_per_s"]) for point in points]
    assert set(lengths[:rebuilt]) == {64}
    assert set(lengths[rebuilt:]) == {32}


def _drawn(points: list[StoredPoint], after: int, last: int) -> set[str]:
    """Sources that the steps from `after` (without) to `last` were trained on."""
    names = [name for point in points[after:last] for name in point.values]
    return {name.removeprefix("loss/") for name in names if name.startswith("loss/")}
