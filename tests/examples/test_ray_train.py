"""The Ray Train example on a real local cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agenttune.store.run_log import RunLog, list_runs
from tests.warm import ROOT

pytestmark = pytest.mark.ray


@pytest.mark.timeout(420)  # a cluster that starts twice
def test_a_killed_worker_costs_an_attempt_and_not_the_run(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "examples" / "ray_train.py"), "--steps", "60", "--kill-at", "45", "--no-server"]
    words += ["--out", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs"), "--pause-s", "0.01"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": "/tmp"}
    ended = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    (info,) = list_runs(tmp_path / "runs")
    assert (info.status, info.attempt, info.step) == ("finished", 2, 60), "one run"
    log = RunLog.open(Path(info.path))
    assert [event.body.kind for event in log.events(kinds=["attempt_started"])] == ["attempt_started"]
    rows = [row for row in log.points(0, 1000) if row.source == "step" and row.branch == info.branch]
    assert rows[-1].step == 60
    assert rows[0].step <= 41, "from Ray's newest checkpoint"
