"""Lets the learned policy take part where it has never been: in each task by weights that saw nothing of that task, and
in each kind of fault by weights that saw nothing of that kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from agenttune.bench.aims import aims
from agenttune.bench.backends.backend import Backend
from agenttune.bench.cell import JITTER, NONE, ORACLE, Cell, CellResult
from agenttune.bench.cells import cells_of
from agenttune.bench.contender_entries import POLICY, policy_code
from agenttune.bench.faults import fault_kind
from agenttune.bench.metrics import cell_figures
from agenttune.bench.report.aims_tables import glance_table
from agenttune.bench.report.content import Table
from agenttune.bench.runner import Runner
from agenttune.bench.store import Store, read_results
from agenttune.bench.suite import Suite
from agenttune.policy.base import PolicyContext
from agenttune.replay.learning.fit import Fitting, fit
from agenttune.replay.learning.moments import TrainingExample

GUARDIAN = "guardian"
NEW_TASK, NEW_FAULT = "learned, task not seen", "learned, fault not seen"
COMPARED = (NONE, GUARDIAN, NEW_TASK, NEW_FAULT)
REFERENCES = (NONE, JITTER, ORACLE, GUARDIAN)


def judge(
    suite: Suite, moments: Sequence[TrainingExample], text: str, folder: Path, backend: Backend, how: Fitting
) -> list[CellResult]:
    """The results of a suite's scenarios, with the learned policy twice. What is done stays done.

    Args:
        suite: Whose scenarios and seeds; of the development range.
        moments: All rows; those that a cell's weights may not have seen are left out.
        text: Of the policy's file, whose weights are `learned.safetensors`.
        folder: For weights and results.
        backend: Does the cells.
        how: The fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = [cell for cell in cells_of(suite) if cell.contender in REFERENCES]
    makers = _HeldOut(moments, text, folder, how)
    cells = [made for cell in known for made in (cell, *(makers.cells(cell) if cell.contender == GUARDIAN else ()))]
    with Store(folder / "results") as store:
        store.align(cells)
        Runner(store, backend, suite.project, suite.file.limit_s).run(cells)
    return read_results(folder / "results")


def table_of(results: Sequence[CellResult]) -> Table:
    """How it did, beside doing nothing and the rules."""
    figures = cell_figures(results)
    there = {f.contender for f in figures}
    return glance_table(aims(figures, [name for name in COMPARED if name in there]))


class _HeldOut:
    """Weights that have not seen something, made once each."""

    def __init__(self, moments: Sequence[TrainingExample], text: str, folder: Path, how: Fitting) -> None:
        self._moments, self._text, self._folder, self._how = moments, text, folder, how
        self._made: dict[str, Path] = {}

    def cells(self, cell: Cell) -> list[Cell]:
        """The learned policy in the place of another."""
        task, group = cell.scenario.task, fault_kind(cell.scenario.fault).group
        return [
            self._cell(cell, NEW_TASK, f"task {task}", lambda moment: moment.task != task),
            self._cell(cell, NEW_FAULT, f"fault {group}", lambda moment: moment.group != group),
        ]

    def _cell(self, cell: Cell, name: str, without: str, may_see: Callable[[TrainingExample], bool]) -> Cell:
        path = self._policy(without, may_see)
        code = policy_code(str(path), path.parent, PolicyContext(path.parent))
        spec = {"type": POLICY, POLICY: str(path)}
        return cell.model_copy(update={"contender": name, "spec": spec, "code": code})

    def _policy(self, without: str, may_see: Callable[[TrainingExample], bool]) -> Path:
        if without not in self._made:
            folder = (self._folder / f"without {without}").resolve()
            folder.mkdir(exist_ok=True)
            seen = list(filter(may_see, self._moments))
            fit(seen, {"without": without, "rows": len(seen)}, self._how).save(folder / "learned.safetensors")
            (folder / "learned.yaml").write_text(self._text, encoding="utf-8")
            self._made[without] = folder / "learned.yaml"
        return self._made[without]
