"""The suite `smoke` as a user runs it: one command, which may be given again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agenttune.bench.cell import CellResult
from agenttune.bench.metrics import cell_figures
from agenttune.bench.standings import standings
from agenttune.bench.store import read_results
from agenttune.cli import app

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


def check_order(results: list[CellResult]) -> None:
    """Whatever else the figures say: the best comes before who acts on its own, and the worst comes last."""
    found = {standing.contender: standing for standing in standings(cell_figures(results))}
    names = list(found)
    assert names[-1] == "reckless"
    for acting in ("none", "sham", "jitter", "guardian", "random", "reckless"):
        assert names.index("oracle") < names.index(acting)
    assert found["reckless"].harmed.frac == 1.0
    assert found["sham"].harmed.held == found["none"].harmed.held == 0
    assert found["sham"].mean_regret == found["none"].mean_regret
    assert found["oracle"].mean_regret.estimate == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow  # quicker: below, test_runner.py and, on the order of contenders, test_statistics.py
@pytest.mark.timeout(900)
def test_smoke_runs_with_one_command_and_goes_on_where_it_was(tmp_path: Path) -> None:
    agenttune("smoke", "--only", "sim_quadratic", "--workers", "2", cwd=tmp_path)
    check_order(read_results(tmp_path / "bench-results" / "smoke"))
    told = agenttune("smoke", "--workers", "2", "--policy", "noop", cwd=tmp_path)
    results = read_results(tmp_path / "bench-results" / "smoke")
    assert [r.outcome.failure for r in results if r.state == "failed"] == []
    assert len(results) == 2 * 4 * 13
    assert "104 cells; results in" in told
    assert finals(results, "none") == finals(results, "sham") == finals(results, "noop"), "taking part changes nothing"
    check_order(results)
    at_s = {r.cell.key: r.at_s for r in results}
    agenttune("smoke", "--workers", "2", cwd=tmp_path)
    assert {r.cell.key: r.at_s for r in read_results(tmp_path / "bench-results" / "smoke")} == at_s


MINE = """\
from agenttune.bench.cell import Outcome
from agenttune.bench.contenders import Contender


class Mine(Contender):
    name, about, role = "mine", "raises", "recipe"

    def play(self, trial):
        raise OSError("full")
"""
OWN_SUITE = "seeds: 1\nscenarios: [{task: sim_quadratic, recipe: {steps: 40}}]\ncontenders: [none, ./mine.py:Mine]\n"


def test_the_exit_code_says_that_cells_failed_until_they_are_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.yaml").write_text(OWN_SUITE)

    def code(*arguments: str) -> int:
        return CliRunner().invoke(app, ["bench", "mine.yaml", "--workers", "0", *arguments]).exit_code

    assert code("--only", "none") == 0
    assert code() == 1
    assert code() == 1, "nothing is left to do, and it stands there as failed"
    done = "return Outcome(trained=trial.train(), fault=trial.fault)"
    (tmp_path / "mine.py").write_text(MINE.replace('raise OSError("full")', done))
    assert code() == 0
