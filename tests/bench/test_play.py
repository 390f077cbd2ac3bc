"""A worker does one cell after the other, and nothing goes from one to the next."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agenttune.bench.cell import Cell
from agenttune.bench.cells import cells_of
from agenttune.bench.play import Work, play, play_in_worker
from agenttune.bench.suite import load_suite

POLICY = """
import random
import numpy
import torch
import beside
from agenttune.policy import Decision, Draft, Policy
from agenttune.protocol.commands import AddNote

class Remembers(Policy):
    seen = []

    def decide(self, observation):
        self.seen.append(observation.step)
        beside.SEEN.append(observation.step)
        if len(self.seen) % 2:
            return Decision(reason="not yet")
        drawn = random.random(), numpy.random.rand(), torch.rand(1).item()
        words = f"{len(self.seen)} {len(beside.SEEN)} {drawn}"
        return Decision(proposals=[Draft(AddNote(text=words), words)])
"""
SUITE = """
seeds: 2
scenarios: [{task: sim_quadratic, fault: [healthy, label_noise], recipe: {steps: 80, eval_every: 20}}]
contenders: [{type: policy, policy: './mine.py:Remembers'}]
settings: {wake: {every_steps: 20}}
"""


def said(cells: Sequence[Cell], folder: Path) -> dict[str, list[str]]:
    results = [play(Work(cell, folder / "work" / cell.key, folder, 60.0)) for cell in cells]
    assert [r.outcome.failure for r in results] == [""] * len(results)
    return {r.cell.key: [i.words for i in r.outcome.interventions] for r in results}


def test_cells_come_to_the_same_in_whatever_order_a_worker_does_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "beside.py").write_text("SEEN = []\n")
    (tmp_path / "mine.yaml").write_text(SUITE)
    cells = cells_of(load_suite(str(tmp_path / "mine.yaml")))
    there, back = said(cells, tmp_path), said(cells[::-1], tmp_path)
    assert there == back
    assert all(words for words in there.values())
    assert len({tuple(words) for words in there.values()}) == len(cells), "each seed draws its own"


@pytest.fixture
def collected_again() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("collected_again")
def test_what_a_cell_imports_is_looked_through_by_no_collection_of_the_next_cells(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE.replace("{type: policy, policy: './mine.py:Remembers'}", "none"))
    one, other = cells_of(load_suite(str(tmp_path / "mine.yaml")))[:2]
    sys.modules.pop("agenttune.bench.tasks.sim_quadratic", None)
    assert play_in_worker(Work(one, tmp_path / "one", tmp_path, 60.0)).state == "done"
    left_alone = gc.get_freeze_count()
    assert left_alone > 10_000, "torch and all that came with it"
    assert play_in_worker(Work(other, tmp_path / "other", tmp_path, 60.0)).state == "done"
    assert gc.get_freeze_count() == left_alone, "what cells make is collected, as ever"
