"""Cells that are done stay done, whatever happens to a contender, a worker, or the runner itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agenttune.bench.backends.backend import Backend, InProcess
from agenttune.bench.backends.local import Local
from agenttune.bench.cell import CellResult
from agenttune.bench.cells import cells_of
from agenttune.bench.runner import Progress, Runner, only
from agenttune.bench.store import STORE_NAME, Store, read_results
from agenttune.bench.suite import Suite, load_suite
from agenttune.errors import ConfigError
from tests import warm

CONTENDERS = Path(__file__).with_name("contenders.py")
PRELOAD = ["agenttune.bench.play"]


def suite_of(folder: Path, *names: str, seeds: int = 2, sleep_s: float = 0.0) -> Suite:
    entries = "".join(
        f"  - {{type: '{CONTENDERS}:{name}', name: {name}, journal: {folder}/{name}.journal, sleep_s: {sleep_s}}}\n"
        for name in names
    )
    path = folder / "mine.yaml"
    path.write_text(
        f"seeds: {seeds}\nscenarios:\n  - {{task: mnist_cnn, fault: [healthy, lr_x30]}}\ncontenders:\n{entries}"
    )
    return load_suite(str(path))


def run(suite: Suite, out: Path, backend: Backend, limit_s: float = 60.0) -> Progress:
    with Store(out) as store:
        try:
            cells = cells_of(suite)
            store.align(cells)
            return Runner(store, backend, suite.project, limit_s).run(cells)
        finally:
            backend.close()


def journal(folder: Path, name: str = "Quick") -> list[str]:
    path = folder / f"{name}.journal"
    return path.read_text().splitlines() if path.exists() else []


def failures(results: list[CellResult], contender: str) -> list[str]:
    found = [r for r in results if r.cell.contender == contender]
    assert all(r.state == "failed" for r in found)
    return [r.outcome.failure for r in found]


def test_a_second_run_does_nothing_again(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "Quick")
    assert run(suite, tmp_path / "out", InProcess()) == run(suite, tmp_path / "out", InProcess())
    assert len(journal(tmp_path)) == 2 * 4


def test_what_a_contender_does_to_its_worker_costs_its_own_cells_only(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "Raises", "Quick", "Exits", "Vanishes", "Crashes", "CrashesOnce", seeds=1)
    ended = run(suite, tmp_path / "out", Local(2, PRELOAD))
    results = read_results(tmp_path / "out")
    assert (ended.done, ended.failed) == (12, 8)
    assert [r.state for r in results if r.cell.contender in ("Quick", "CrashesOnce")] == ["done"] * 4
    for failure in failures(results, "Raises"):
        assert "Traceback" in failure
        assert "ValueError: a bug of the user's" in failure
        assert "what it printed before" in failure
    assert all("SystemExit: 3" in failure for failure in failures(results, "Exits"))
    assert all("ended in the middle of it" in failure for failure in failures(results, "Vanishes"))
    assert all("exit code -11; so it was at each of 2 attempts" in failure for failure in failures(results, "Crashes"))
    assert all(r.outcome.fault is not None and r.machine["cores"] for r in results), "failures stay comparable"
    assert not list((tmp_path / "out" / "runs").iterdir())


def test_a_contender_that_hangs_is_killed_and_has_failed(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "Hangs", "Quick", seeds=1)
    run(suite, tmp_path / "out", Local(2, PRELOAD), limit_s=4.0)
    results = read_results(tmp_path / "out")
    assert len(results) == 4
    for failure in failures(results, "Hangs"):
        assert "not done after 4 s of wall time" in failure
        assert "in misbehave" in failure, "where it hung"


def test_worker_processes_and_this_one_come_to_the_same(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "Quick")
    run(suite, tmp_path / "here", InProcess())
    run(suite, tmp_path / "workers", Local(2, PRELOAD))
    here, workers = ({r.cell.key: r.outcome for r in read_results(tmp_path / name)} for name in ("here", "workers"))
    assert here == workers


def test_a_reference_that_does_not_see_the_fault_is_done_once_for_all_faults(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "Reference", "Quick")
    ended = run(suite, tmp_path / "out", InProcess())
    assert (ended.done, ended.failed) == (8, 0)
    assert len(journal(tmp_path, "Reference")) == 2 * 2, "a cell for each seed"
    kinds = {(r.cell.scenario.fault, r.outcome.fault and r.outcome.fault.kind) for r in read_results(tmp_path / "out")}
    assert kinds == {("healthy", "healthy"), ("lr_x30", "lr_x30")}
    wider = suite.path.read_text().replace("lr_x30]", "lr_x30, lr_x100]")
    suite.path.write_text(wider)
    assert run(load_suite(str(suite.path)), tmp_path / "out", InProcess()).done == 12
    assert len(journal(tmp_path, "Reference")) == 2 * 2, "nor again for a fault that the suite gets later"


def test_cells_are_chosen_by_a_pattern_or_a_part_of_their_name(tmp_path: Path) -> None:
    cells = cells_of(suite_of(tmp_path, "Quick", "Raises"))
    assert {cell.contender for cell in only(cells, "*/Raises/*")} == {"Raises"}
    assert {cell.scenario.fault for cell in only(cells, "lr_x30")} == {"lr_x30"}
    assert only(cells, "nothing") == []


RUN = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
from agenttune.bench.backends.local import Local
from agenttune.bench.suite import load_suite
from tests.bench.test_runner import PRELOAD, run
print(run(load_suite(sys.argv[1]), Path(sys.argv[2]), Local(2, PRELOAD)), flush=True)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    def started() -> subprocess.Popen[str]:
        (tmp_path / "run.py").write_text(RUN)
        command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "mine.yaml"), str(tmp_path / "out")]
        return warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    return started


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_runner_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, start: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    suite = suite_of(tmp_path, "Quick", seeds=6, sleep_s=0.2)
    runner = start()
    wait_until(lambda: sum(line.startswith("end") for line in journal(tmp_path)) >= 3)
    workers = psutil.Process(runner.pid).children(recursive=True)
    os.killpg(runner.pid, number) if number == signal.SIGINT else os.kill(runner.pid, number)
    _, told = runner.communicate(timeout=60)
    assert runner.returncode != 0, told
    psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in workers if worker.is_running()], "a worker ends with its runner"

    kept = {r.cell.key for r in read_results(tmp_path / "out")} if (tmp_path / "out" / STORE_NAME).exists() else set()
    begun = len(journal(tmp_path))
    ended = run(suite, tmp_path / "out", Local(2, PRELOAD))
    assert (ended.done, ended.failed) == (12, 0), [r.outcome.failure for r in read_results(tmp_path / "out")]
    assert len({r.cell.key for r in read_results(tmp_path / "out")}) == 12
    again = [line for line in journal(tmp_path)[begun:] if line.startswith("begin")]
    assert len(again) == 12 - len(kept), "what was kept is not done a second time"


def test_two_runners_share_the_cells_of_one_store(tmp_path: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    suite_of(tmp_path, "Quick", seeds=6, sleep_s=0.2)
    runners = [start(), start()]
    for runner in runners:
        said, told = runner.communicate(timeout=120)
        assert "done=12, failed=0" in said, told
    begun = Counter(line.split()[1:3].__str__() for line in journal(tmp_path) if line.startswith("begin"))
    assert set(begun.values()) == {1}
    assert len(begun) == 12
    assert len(read_results(tmp_path / "out")) == 12


OWN = """
from agenttune.policy import Decision, Policy
import knack

class Own(Policy):
    def decide(self, observation):
        return Decision(reason=str(knack.FACTOR))
"""


def own_suite(folder: Path) -> Suite:
    path = folder / "mine.yaml"
    (folder / "own.py").write_text(OWN)
    if not (folder / "knack.py").exists():
        (folder / "knack.py").write_text("from spare import FACTOR\n")
        (folder / "spare.py").write_text("FACTOR = 2\n")
    scenario = "{task: sim_quadratic, fault: healthy, recipe: {steps: 40, eval_every: 20}}"
    path.write_text(f"seeds: 2\nscenarios:\n  - {scenario}\ncontenders: [none, './own.py:Own']\n")
    return load_suite(str(path))


def test_modules_beside_a_policy_are_part_of_what_a_result_rests_on(tmp_path: Path) -> None:
    first = own_suite(tmp_path)
    assert run(first, tmp_path / "out", InProcess()).done == 4
    (tmp_path / "spare.py").write_text("FACTOR = 8\n")
    with Store(tmp_path / "out") as store:
        assert store.align(cells_of(own_suite(tmp_path))).changed == 2


def test_a_policy_that_changes_while_the_suite_runs_leaves_no_result_under_its_old_name(tmp_path: Path) -> None:
    suite = own_suite(tmp_path)
    (tmp_path / "spare.py").write_text("FACTOR = 8\n")  # after the suite was read
    with pytest.raises(ConfigError, match=r"spare\.py of Own has changed while the suite ran"):
        run(suite, tmp_path / "out", InProcess())
    assert {result.cell.contender for result in read_results(tmp_path / "out")} <= {"none"}
    assert run(own_suite(tmp_path), tmp_path / "out", InProcess()).done == 4


def test_results_of_both_ranges_do_not_share_a_folder(tmp_path: Path) -> None:
    run(own_suite(tmp_path), tmp_path / "out", InProcess())
    with Store(tmp_path / "out") as store:
        store.refuse_other_split("development")
        with pytest.raises(ConfigError, match="another folder with --out"):
            store.refuse_other_split("test")
