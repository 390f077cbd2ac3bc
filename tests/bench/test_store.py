"""Results that are kept stay; a cell is done by one runner at a time, and a dead runner's cells by the next."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agenttune.bench.cell import Cell, Outcome, Scenario
from agenttune.bench.play import result_of
from agenttune.bench.store import STORE_NAME, SetAside, Store, read_results
from agenttune.bench.training import Fault, Recipe, Trained
from agenttune.errors import StoreFault

RECIPE = Recipe(lr=0.1, steps=100, eval_every=10)


def cell_of(
    contender: str = "none", fault: str = "healthy", seed: int = 0, version: str = "1.task.own.-.spans.seed"
) -> Cell:
    scenario = Scenario(task="mnist_cnn", fault=fault, recipe=RECIPE)
    return Cell(scenario=scenario, seed=seed, split="development", contender=contender, version=version)


def keep(store: Store, cell: Cell, final: float = 1.0) -> None:
    store.keep(result_of(cell, Outcome(trained=Trained(final=final))))


def test_a_cell_is_done_once(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.register()
        assert store.claim(cell_of()) == "claimed"
        keep(store, cell_of(), float("nan"))
        assert store.claim(cell_of()) == "done"
    with Store(tmp_path) as again:
        again.register()
        assert again.claim(cell_of()) == "done"
    [result] = read_results(tmp_path)
    assert result.cell == cell_of()
    assert result.state == "done"
    assert result.outcome.trained is not None
    assert not math.isfinite(result.outcome.trained.final)


def test_two_runners_never_have_the_same_cell(tmp_path: Path) -> None:
    one = Store(tmp_path)
    with Store(tmp_path) as other:
        one.register()
        other.register()
        assert one.claim(cell_of()) == "claimed"
        assert other.claim(cell_of()) == "taken"
        assert other.claim(cell_of("jitter")) == "claimed"
        one.close()
        assert other.claim(cell_of()) == "claimed", "a runner that ends gives back what it has not done"


def test_the_cells_of_a_killed_runner_are_taken_over(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom agenttune.bench.store import Store\n"
        "from tests.bench.test_store import cell_of\n"
        "store = Store(Path(sys.argv[1]))\nstore.register()\nprint(store.claim(cell_of()))\nsys.stdout.flush()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert killed.stdout == "claimed\n", killed.stderr
    with Store(tmp_path) as store:
        store.register()
        assert store.claim(cell_of()) == "claimed"


def test_a_change_sets_aside_the_results_that_rest_on_it_and_no_others(tmp_path: Path) -> None:
    cells = [cell_of("none"), cell_of("mine"), cell_of("none", "lr_x30")]
    with Store(tmp_path) as store:
        for cell in cells:
            keep(store, cell)
        changed = [cells[0], cell_of("mine", version="1.task.other.-.spans.seed"), cells[2]]
        assert store.align(changed) == SetAside(changed=1)
        assert {r.cell.key for r in store.results()} == {cells[0].key, cells[2].key}
        assert store.align(changed[:2]) == SetAside(dropped=1)
        assert store.align(cells) == SetAside(returned=2), "what is as it was counts again, and is not done again"
        assert len(store.results()) == 3


def test_after_a_change_old_results_of_other_seeds_or_contenders_do_not_count_beside_new_ones(tmp_path: Path) -> None:
    old = [cell_of(contender, seed=seed) for contender in ("none", "mine") for seed in (0, 1)]
    new = "1.other.own.-.spans.seed"
    with Store(tmp_path) as store:
        for cell in old:
            keep(store, cell)
        assert store.align([cell_of("none")]) == SetAside(), "fewer seeds and contenders: the others count on"
        keep(store, cell_of("none", version=new))
        assert store.align([cell_of("none", version=new)]) == SetAside(changed=4)
        assert {r.cell.version for r in store.results()} == {new}
        assert store.align(old) == SetAside(changed=1, returned=4)
        assert {r.cell.version for r in store.results()} == {old[0].version}


def test_results_of_a_version_that_wrote_them_otherwise_are_set_aside(tmp_path: Path) -> None:
    cells = [cell_of(), cell_of("mine")]
    with Store(tmp_path) as store:
        for cell in cells:
            keep(store, cell)
    with sqlite3.connect(tmp_path / STORE_NAME) as db:
        db.execute("""UPDATE results SET key = key || '1', result = replace(result, '"spec":', '"parameters":')""")
    db.close()
    with Store(tmp_path) as store:
        assert store.align(cells) == SetAside(changed=2)
        assert store.results() == []


def test_an_agent_that_has_changed_makes_all_stale_that_have_one(tmp_path: Path) -> None:
    none, sham = cell_of("none"), cell_of("sham", version="1.task.own.agent.spans.seed")
    with Store(tmp_path) as store:
        for cell in (none, sham, cell_of("mine", version=sham.version)):
            keep(store, cell)
        assert store.align([none, sham]) == SetAside()
        changed = cell_of("sham", version="1.task.own.newer.spans.seed")
        assert store.align([none, changed]) == SetAside(changed=2)
        assert [r.cell.contender for r in store.results()] == ["none"]


def test_results_of_another_format_are_refused_with_the_way_out(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / STORE_NAME) as db:
        db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(StoreFault, match=r"has format 7, this agenttune reads and writes format 1: .* --out"):
        Store(tmp_path)


def test_a_file_that_is_no_store_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / STORE_NAME).write_bytes(b"not a database, whatever its name says" * 40)
    with pytest.raises(StoreFault, match=STORE_NAME):
        Store(tmp_path)
    with pytest.raises(StoreFault, match="no results in"):
        read_results(tmp_path / "nowhere")


def test_a_fault_that_was_stored_with_a_field_of_before_is_read() -> None:
    stored = {"kind": "dead_layer", "step": 5, "values": {}, "layer": None}
    assert Fault.model_validate(stored) == Fault(kind="dead_layer", step=5)
