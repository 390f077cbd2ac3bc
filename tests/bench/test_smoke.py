"""The suite `smoke` as a user runs it: one command, which may be given again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agenttune.bench.cell import CellResult
from agenttune.bench.store import read_results

COMMAND = [sys.executable, "-m", "agenttune", "bench"]


def agenttune(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([*COMMAND, *arguments], check=False, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stderr


def finals(results: list[CellResult], contender: str) -> dict[str, str]:
    return {
        f"{r.cell.scenario.name} {r.cell.seed}": repr(r.outcome.trained and r.outcome.trained.final)
        for r in results
        if r.cell.contender == contender
    }


@pytest.mark.slow  # quicker: test_runner.py
@pytest.mark.timeout(900)
def test_smoke_runs_with_one_command_and_goes_on_where_it_was(tmp_path: Path) -> None:
    agenttune("smoke", "--only", "sim_quadratic", "--workers", "2", cwd=tmp_path)
    told = agenttune("smoke", "--workers", "2", "--policy", "noop", cwd=tmp_path)
    results = read_results(tmp_path / "bench-results" / "smoke")
    assert [r.outcome.failure for r in results if r.state == "failed"] == []
    assert len(results) == 2 * 4 * 12
    assert "96 cells; results in" in told
    assert finals(results, "none") == finals(results, "sham") == finals(results, "noop"), "taking part changes nothing"
    at_s = {r.cell.key: r.at_s for r in results}
    agenttune("smoke", "--workers", "2", cwd=tmp_path)
    assert {r.cell.key: r.at_s for r in read_results(tmp_path / "bench-results" / "smoke")} == at_s
