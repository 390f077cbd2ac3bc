"""On a Ray cluster the same comes out, also when a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from agenttune.bench.backends.backend import Backend
from agenttune.bench.backends.local import Local
from agenttune.bench.store import read_results
from agenttune.bench.suite import Suite, load_suite
from tests.bench.test_runner import CONTENDERS, journal, run, wait_until
from tests.bench.test_runner import suite_of as runs_of

pytestmark = pytest.mark.ray
TIMES = {"seconds", "process_seconds"}
SUITE = """\
seeds: 3
scenarios:
  - {{task: sim_quadratic, fault: [healthy, lr_x30], recipe: {{steps: 100, eval_every: 20}}}}
contenders:
  - none
  - guardian
  - {{type: '{contenders}:Quick', name: Quick, journal: {folder}/{name}.journal, sleep_s: 0.5}}
"""


def suite_of(folder: Path, name: str) -> Suite:
    path = folder / f"{name}.yaml"
    path.write_text(SUITE.format(contenders=CONTENDERS, folder=folder, name=name))
    return load_suite(str(path))


def without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_times(value) for key, value in found.items() if key not in TIMES}
    return [without_times(value) for value in found] if isinstance(found, list) else found


def outcomes(folder: Path) -> dict[str, Any]:
    return {
        f"{r.cell.scenario.name} {r.cell.contender} {r.cell.seed} {r.state}": without_times(
            r.outcome.model_dump(mode="json")
        )
        for r in read_results(folder)
    }


def played(folder: Path, name: str, backend: Backend) -> dict[str, Any]:
    run(suite_of(folder, name), folder / f"out-{name}", backend)
    return outcomes(folder / f"out-{name}")


@pytest.mark.timeout(300)
def test_the_time_of_a_cell_begins_when_a_worker_takes_it(tmp_path: Path) -> None:
    ray_cluster = pytest.importorskip("agenttune.bench.backends.ray_cluster")
    pytest.importorskip("ray")
    suite = runs_of(tmp_path, "Quick", "Hangs", seeds=1, sleep_s=1.0)
    backend = ray_cluster.RayCluster(1, "local")
    backend.slots = 4  # as on a cluster that others have filled: they are submitted at once, and wait for each other
    run(suite, tmp_path / "out", backend, limit_s=10.0)
    ended = {(r.cell.contender, r.state): r.outcome.failure for r in read_results(tmp_path / "out")}
    assert set(ended) == {("Quick", "done"), ("Hangs", "failed")}
    assert "not done after 10 s of wall time" in ended["Hangs", "failed"]


@pytest.mark.timeout(300)
def test_a_cluster_with_a_worker_killed_in_the_middle_comes_to_the_same_as_this_machine(tmp_path: Path) -> None:
    ray_cluster = pytest.importorskip("agenttune.bench.backends.ray_cluster")
    pytest.importorskip("ray")
    killed: list[int] = []

    def kill_one() -> None:
        wait_until(lambda: bool(journal(tmp_path, "ray")))
        killed.append(int(journal(tmp_path, "ray")[0].split()[-1]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    there = played(tmp_path, "ray", ray_cluster.RayCluster(2, "local"))
    killer.join()
    here = played(tmp_path, "local", Local(2))
    begun = [line for line in journal(tmp_path, "ray") if line.startswith("begin")]
    assert len(begun) == 6 + 1, "the cell of the killed worker was done again, and no other"
    assert len({line.split()[-1] for line in begun}) > 1
    assert len(here) == 2 * 3 * 3
    assert all(name.endswith("done") for name in here)
    assert there == here
