"""A user's own script is a task: run as `agenttune run` runs it, with the figures of the cell in its arguments."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttune.bench.backends.backend import InProcess
from agenttune.bench.catalog import tasks_of
from agenttune.bench.cells import cells_of
from agenttune.bench.metrics import cell_figures
from agenttune.bench.store import read_results
from agenttune.bench.suite import Suite, load_suite
from agenttune.errors import ConfigError
from tests import warm
from tests.bench.test_runner import run

FAKE = Path(__file__).parents[1] / "cli" / "fake_trainer.py"
SUITE = """\
seeds: 1
scenarios:
  - task: {script: train.py, args: ["--steps", "{steps}"], steps: 40, lr: 0.1}
contenders: [none, guardian, cosine]
"""


@pytest.fixture(autouse=True)
def forked() -> Iterator[None]:
    """`agenttune run` and its processes need not import anything."""
    with warm.processes():
        yield


def suite_of(folder: Path, text: str = SUITE) -> Suite:
    shutil.copy(FAKE, folder / "train.py")
    (folder / "mine.yaml").write_text(text)
    return load_suite(str(folder / "mine.yaml"))


def test_a_script_of_the_users_own_is_measured_through_its_log(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    assert suite.left_out == ["cosine"], "what changes a loop from inside cannot take part, which is said"
    run(suite, tmp_path / "out", InProcess())
    results = read_results(tmp_path / "out")
    assert [(r.cell.contender, r.state, r.outcome.failure) for r in results] == [
        ("none", "done", ""),
        ("guardian", "done", ""),
    ]
    for result in results:
        trained = result.outcome.trained
        assert trained is not None
        assert [point.step for point in trained.evaluations] == [20, 40]
        assert trained.final == pytest.approx(1.135, abs=0.001)
        assert trained.total_steps == 40
    assert [f.value for f in cell_figures(results, tasks_of(results))] == [r.outcome.trained.final for r in results]  # type: ignore[union-attr]
    assert not list(tmp_path.glob(".agenttune-bench-*")), "nothing is left beside the user's script"


GOES_BACK = """
import os
from pathlib import Path
from agenttune.protocol.events import BranchStarted, Evaluated, Probed, RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.store.run_log import RunLog

log = RunLog.open(Path(os.environ["AGENTTUNE_RUNS_DIR"]) / os.environ["AGENTTUNE_RUN_ID"])
log.append(RunStarted(framework="fake", pid=os.getpid(), max_steps=40), StatusChanged(status="running"), step=0)

def train(first, last, branch):
    for step in range(first, last + 1):
        log.append_points([Point(step=step, at_s=float(step), values={"step_loss": 1.0, "lr": 0.1}, branch=branch)])
        if step % 10 == 0:
            log.append(Evaluated(metrics={"eval_loss": 100.0 - step - (0 if branch == "main" else 50)}), step=step)

train(1, 20, "main")
log.append(BranchStarted(name="again", parent="main", from_step=10), step=10)
train(11, 20, "again")
train(21, 40, "again")
log.append(StatusChanged(status="finished"), step=40)
"""


@pytest.mark.slow  # quicker: the first test of this file
def test_steps_that_a_return_undid_are_paid_for(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, SUITE.replace("[none, guardian, cosine]", "[none]").replace("--steps", "--s"))
    (tmp_path / "train.py").write_text(GOES_BACK)
    run(suite, tmp_path / "out", InProcess())
    [result] = read_results(tmp_path / "out")
    trained = result.outcome.trained
    assert trained is not None, result.outcome.failure
    assert [(e.total_steps, e.step) for e in trained.evaluations] == [(10, 10), (20, 20), (30, 20), (40, 30)]
    assert trained.final == 20.0, "at step 30, after 40 steps; what came at step 40 is beyond the budget"
    assert trained.total_steps == 50


@pytest.mark.slow  # quicker: the first test of this file
def test_a_script_is_told_to_stop_when_its_budget_is_spent(tmp_path: Path) -> None:
    # Left alone, it would train for hours.
    text = SUITE.replace("[none, guardian, cosine]", "[none]").replace('"--steps", "{steps}"', '"--steps", "1000000"')
    run(suite_of(tmp_path, text), tmp_path / "out", InProcess())
    [result] = read_results(tmp_path / "out")
    trained = result.outcome.trained
    assert trained is not None, result.outcome.failure
    assert [point.step for point in trained.evaluations] == [20, 40], "what came later does not count"
    assert 40 < trained.total_steps < 1_000_000
    assert not result.outcome.interventions, "that was not the contender's doing"


def test_a_script_that_fails_is_a_failed_cell_with_what_it_said(tmp_path: Path) -> None:
    text = SUITE.replace("{steps}", "forty").replace(", guardian, cosine", "")
    run(suite_of(tmp_path, text), tmp_path / "out", InProcess())
    [result] = read_results(tmp_path / "out")
    assert result.state == "failed"
    assert "invalid int value: 'forty'" in result.outcome.failure


@pytest.mark.slow  # quicker: the first test of this file
def test_a_changed_script_makes_its_own_cells_stale(tmp_path: Path) -> None:
    text = SUITE.replace("contenders", "  - {task: mnist_cnn}\ncontenders")
    before = {cell.key: cell.scenario.task for cell in cells_of(suite_of(tmp_path, text))}
    with (tmp_path / "train.py").open("a") as file:
        file.write("# changed\n")
    after = {cell.key for cell in cells_of(load_suite(str(tmp_path / "mine.yaml")))}
    assert {task for key, task in before.items() if key not in after} == {"train"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ("train.py", "trian.py"),
            r"mine.yaml:3: scenarios.0.task.script: there is no file .*; did you mean",
        ),
        (("{steps}", "{step}"), "mine.yaml:3: scenarios.0.task.args: .*'step'.* is none of lr, seed, steps"),
        (("steps: 40, ", ""), "mine.yaml:3: scenarios.0.task.steps: this key is required"),
        (
            ("contenders", "    fault: lr_x10\ncontenders"),
            r"mine.yaml:4: scenarios.0.fault: .*{lr} stands in its",
        ),
    ],
)
def test_what_is_wrong_with_a_script_is_told_before_anything_runs(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        suite_of(tmp_path, SUITE.replace(*change))
