"""Detectors of the user's own in a suite: they look in every cell, rules may ask for them, and they are measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.bench.backends.backend import InProcess
from agenttune.bench.cells import cells_of
from agenttune.bench.metrics import cell_figures
from agenttune.bench.store import read_results
from agenttune.bench.suite import load_suite
from agenttune.errors import ConfigError
from tests.bench.test_runner import run

DETECTOR = '''
from agenttune.detectors import Detector

class High(Detector):
    """A rate above a limit."""

    name = "rate_high"

    def __init__(self, limit: float = 1.0) -> None:
        self.limit = limit

    def detect(self, observation):
        lr = observation.knob("lr")
        if lr is not None and lr.effective > self.limit:
            yield self.finding(f"{lr.effective:.3g}", metric="lr", step=observation.step)
'''
POLICY = """
type: rules
description: Cuts what the detector finds.
rules:
  - name: cut
    when: found.rate_high
    do: {command: update_optimizer, lr: =lr / 10}
    because: it is above the limit
    max_times: 1
"""
SUITE = """\
seeds: 1
scenarios: [{task: sim_quadratic, fault: [healthy, lr_x30], recipe: {steps: 100}}]
contenders: [none, sham, ./cuts.yaml]
settings:
  detectors:
    - {type: "./mine.py:High", limit: 0.5}
  finds: {rate_high: [lr_x30]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(DETECTOR)
    (tmp_path / "cuts.yaml").write_text(POLICY)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def suite(folder: Path, text: str = SUITE) -> str:
    (folder / "suite.yaml").write_text(text)
    return str(folder / "suite.yaml")


def test_it_looks_with_its_parameters_and_what_it_finds_counts(folder: Path) -> None:
    run(load_suite(suite(folder)), folder / "out", InProcess())
    results = read_results(folder / "out")
    assert [r.outcome.failure for r in results] == [""] * 6
    found = {(f.contender, f.kind.name): f for f in cell_figures(results)}
    sham, cuts = found["sham", "lr_x30"], found["cuts", "lr_x30"]
    assert "rate_high" in {finding.kind for finding in sham.result.outcome.findings}
    assert sham.detection.steps == 5, "at the first look, by what the suite says that it finds"
    assert cuts.changes == 1
    assert cuts.loss < sham.loss
    well = found["sham", "healthy"]
    assert "rate_high" not in {finding.kind for finding in well.result.outcome.findings}, "below its limit"


def test_a_changed_detector_makes_cells_stale_in_which_somebody_looks(folder: Path) -> None:
    before = {cell.key: cell.contender for cell in cells_of(load_suite(suite(folder)))}
    (folder / "mine.py").write_text(DETECTOR + "# changed\n")
    after = {cell.key for cell in cells_of(load_suite(suite(folder)))}
    assert {name for key, name in before.items() if key not in after} == {"sham", "cuts"}


def test_one_that_raises_fails_its_cell(folder: Path) -> None:
    (folder / "mine.py").write_text(DETECTOR.replace("        lr = ", "        raise OSError('no')\n        lr = "))
    run(load_suite(suite(folder, SUITE.replace("[none, sham, ./cuts.yaml]", "[sham]"))), folder / "out", InProcess())
    for result in read_results(folder / "out"):
        assert result.state == "failed"
        assert "detector rate_high failed at step" in result.outcome.failure


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ("mine.py:High", "mine.py:Hihg"),
            r"suite.yaml:6: settings.detectors.0.type: .* no class 'Hihg'; did you mean",
        ),
        (("limit: 0.5", "limt: 0.5"), r"suite.yaml:6: settings.detectors.0.limt: unknown key"),
        (("{rate_high:", "{rate_hihg:"), r"suite.yaml:7: settings.finds.rate_hihg: no detector is called"),
        (("[lr_x30]}\n", "[lr_x31]}\n"), r"suite.yaml:7: settings.finds.rate_high.0: no fault 'lr_x31'; did you mean"),
    ],
)
def test_what_is_wrong_is_told_by_line_before_anything_runs(
    folder: Path, change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_suite(suite(folder, SUITE.replace(*change)))
