"""The error file that a failing rank leaves: whole or not at all, and half a one costs no rank its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from agenttune.launch.exit_reason import rank_words
from agenttune.trainer.distributed.error_files import ERROR_FILE, leave_error
from agenttune.trainer.distributed.launcher import FAILURES, leave_failures, pass_over_broken_error_files

pytestmark = pytest.mark.trainer


def test_the_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    moved, move = [], os.replace

    def look(source: str, target: str) -> None:
        assert not path.exists()
        moved.append(json.loads(Path(source).read_text(encoding="utf-8")))
        move(source, target)

    monkeypatch.setattr(os, "replace", look)
    leave_error(RuntimeError("no more memory"), {ERROR_FILE: str(path)})
    assert json.loads(path.read_text(encoding="utf-8")) == moved[0]
    assert moved[0]["message"]["message"] == "RuntimeError: no more memory"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("half", ['{"message": {"mess', '{"other": 1}', "[]"], ids=["cut", "foreign", "list"])
def test_half_an_error_file_is_as_none(
    tmp_path: Path, half: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ProcessFailure, "__post_init__", ProcessFailure.__post_init__)  # put back after the test
    pass_over_broken_error_files()
    path = tmp_path / "error.json"
    path.write_text(half, encoding="utf-8")
    failure = ProcessFailure(local_rank=1, pid=5, exitcode=-9, error_file=str(path))
    assert "SIGKILL" in failure.message
    assert "error file of rank 1" in capsys.readouterr().err


def test_what_the_launcher_tells_of_its_ranks_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C kills it at any moment, here when all is written but nothing has its name yet."""
    path, failure = (
        tmp_path / "rank-failures.json",
        {"rank": 1, "pid": 5, "exit_status": -9, "message": "", "at_s": 1.0},
    )
    replace = Path.replace

    def be_killed(aside: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", be_killed)
    with pytest.raises(KeyboardInterrupt):
        leave_failures(path, [failure])
    assert rank_words(path) == ""
    monkeypatch.setattr(Path, "replace", replace)
    leave_failures(path, [failure])
    assert rank_words(path).startswith("rank 1 (process 5) was killed by SIGKILL")


@pytest.mark.slow  # quicker: test_half_an_error_file_is_as_none; a real killed rank in tests/cli/test_launchers.py
@pytest.mark.timeout(120)
def test_a_killed_rank_with_an_empty_error_file_is_named(tmp_path: Path) -> None:
    script, told = tmp_path / "train.py", tmp_path / "told.json"
    body = f"""
        import os, signal, time
        if os.environ["RANK"] == "0":
            time.sleep(60)
        open(os.environ["{ERROR_FILE}"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    script.write_text(textwrap.dedent(body), encoding="utf-8")
    words = ["torchrun", "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1", str(script)]
    environ = {**os.environ, FAILURES: str(told), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agenttune.trainer.distributed.launcher", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert "error file of rank 1 of this machine is broken" in done.stderr
    found = {entry["rank"]: entry["exit_status"] for entry in json.loads(told.read_text(encoding="utf-8"))}
    assert found[1] == -9
