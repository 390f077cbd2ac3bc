"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agenttune.store import RunLog, list_runs

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).resolve().parents[2]
FINAL = re.compile(r"final evaluation loss: ([\d.]+) nats")


def _run(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example in an empty folder, with a run's log but no control server."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AGENTTUNE_RUNS_DIR": str(folder / "runs")}
    env["AGENTTUNE_SERVER_URL"] = "http://127.0.0.1:9"  # as under `agenttune run`: somebody else's server
    env.pop("AGENTTUNE_RUN_ID", None)
    command = [sys.executable, str(ROOT / "examples" / script), "--steps", "20", "--out", "out", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)


def _final_loss(done: subprocess.CompletedProcess[str]) -> float:
    assert done.returncode == 0, done.stderr
    found = FINAL.search(done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


@pytest.mark.parametrize("script", ["char_gpt.py", "mnist_cnn.py"])
def test_an_example_ends_the_same_with_and_without_agenttune_and_leaves_its_log(script: str, tmp_path: Path) -> None:
    plain = _final_loss(_run(script, tmp_path, "--plain"))
    assert list_runs(tmp_path / "runs") == []

    assert _final_loss(_run(script, tmp_path, "--eval-every", "20")) == plain
    [info] = list_runs(tmp_path / "runs")
    assert (info.status, info.step, info.max_steps) == ("finished", 20, 20)
    log = RunLog.open(Path(info.path))
    assert log.curve("loss").steps[-1] == 20
    assert log.curve("eval_loss").mean[-1] == pytest.approx(plain, abs=1e-4)
    log.close()


def test_a_text_of_ones_own_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("to be, or not to be. " * 200, encoding="utf-8")
    # Fifteen different characters: a model that knows nothing of the text is at ln 15 = 2.7, of Python's text at 4.6.
    assert _final_loss(_run("char_gpt.py", tmp_path, "--plain", "--text", "mine.txt")) < 2.5


def test_a_text_too_short_to_train_on_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("to be", encoding="utf-8")
    done = _run("char_gpt.py", tmp_path, "--plain", "--text", "short.txt")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the text has 5 characters; at least 640 are needed"


def test_without_mlxtend_the_reader_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "mlxtend").mkdir()
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise ModuleNotFoundError('mlxtend')", encoding="utf-8")
    shadow = f"import runpy, sys; sys.path.insert(0, '.'); sys.argv[0] = {str(ROOT / 'examples' / 'mnist_cnn.py')!r}; "
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", shadow + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 1
    assert "pip install 'agenttune-toolkit[examples]'" in done.stderr
