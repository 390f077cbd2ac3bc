"""`agenttune learn`: from one's own runs, of which nothing is changed, and not from too few."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agenttune.bench.catalog import task_facts
from agenttune.bench.cell import Cell, Scenario
from agenttune.bench.in_process import RUN_ID
from agenttune.cli import app
from agenttune.errors import UserError
from agenttune.policy.learned.ensemble import load_ensemble
from agenttune.replay.learning import own_runs
from agenttune.replay.learning.fit import Fitting
from agenttune.replay.learning.own_runs import change_like, moments_in, snapshot_before
from agenttune.replay.learning.refine import refine
from agenttune.store.run_log import LOG_NAME, RunLog
from benchmarks.learning.counterfactuals import PlannedPolicy, take_part
from tests.policy.test_learned import foretelling


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlannedPolicy]:
    """A run in which a policy has gone back, and cut the rate later."""
    folder = tmp_path_factory.mktemp("played")
    recipe = task_facts("sim_quadratic").recipe.with_changes(steps=200, eval_every=20)
    scenario = Scenario(task="sim_quadratic", fault="lr_x30", recipe=recipe)
    policy = PlannedPolicy({3: "back_to_start_x0.1", 6: "rate_x0.3"})
    take_part(policy, Cell(scenario=scenario, seed=1, split="development", contender="planned"), folder)
    return folder / RUN_ID, policy


def test_what_could_be_known_before_a_change_is_read_off_the_log(played: tuple[Path, PlannedPolicy]) -> None:
    folder, policy = played
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    log = RunLog.open_read_only(folder)
    asked = {event.seq: event.command_id for event in log.events(kinds=["proposed"], limit=10)}
    records = {seq: log.command(command_id) for seq, command_id in asked.items() if command_id}
    log.close()
    for (seq, record), (number, name) in zip(records.items(), policy.plan.items(), strict=True):
        snapshot = snapshot_before(folder, RUN_ID, seq)
        assert repr(snapshot.names) == repr(policy.known[number].names)
        change = change_like(record, snapshot)
        assert change is not None
        assert change.name == name
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after[LOG_NAME] == before[LOG_NAME]


def copies(played: tuple[Path, PlannedPolicy], runs_dir: Path, count: int) -> Path:
    for number in range(count):
        shutil.copytree(played[0], runs_dir / f"run-{number}")
        log = RunLog.open(runs_dir / f"run-{number}")
        log.update_info(run_id=f"run-{number}")
        log.close()
    return runs_dir


def test_too_few_runs_are_refused_in_a_sentence(played: tuple[Path, PlannedPolicy], tmp_path: Path) -> None:
    runs = copies(played, tmp_path / "runs", 1)
    with pytest.raises(
        UserError, match=r"too little to learn from in .*: 1 measured changes in 1 of 1 runs; not taken: 1 whose"
    ):
        moments_in(runs)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="0 measured changes in 0 of 0 runs"):
        moments_in(empty)


def test_weights_are_refined_and_written_where_one_says(
    played: tuple[Path, PlannedPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_runs, "FEWEST_MOMENTS", 2)
    monkeypatch.setattr(own_runs, "FEWEST_RUNS", 2)
    runs = copies(played, tmp_path / "runs", 2)
    foretelling({"stays": [0.4] * 4}, members=4).save(tmp_path / "old.safetensors")
    refined = refine(
        runs, tmp_path / "old.safetensors", tmp_path / "new.safetensors", Fitting(steps=60, rows=8, lr=1e-2)
    )
    assert refined.after < refined.before
    assert "2 measured changes in 2 of 2 runs" in load_ensemble(tmp_path / "new.safetensors").made["refined_on"]


def test_the_command_overwrites_nothing_and_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "runs").mkdir()
    ask = CliRunner().invoke
    result = ask(app, ["learn", str(tmp_path / "runs"), "-o", str(tmp_path / "there.safetensors")])
    assert "exists already" in str(result.exception)
    result = ask(app, ["learn", str(tmp_path / "none"), "-o", str(tmp_path / "new.safetensors")])
    assert "no folder" in str(result.exception)
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
