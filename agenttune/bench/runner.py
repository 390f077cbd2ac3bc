"""Does the cells of a suite that are not done yet, once each, and keeps each result when it ends."""

from __future__ import annotations

import fnmatch
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenttune.bench.backends.backend import Backend, FinishedCell
from agenttune.bench.cell import Cell, CellResult, Outcome
from agenttune.bench.contender_entries import changed_since
from agenttune.bench.play import ANSWERS, Work, drawn_fault, failed, make_contender
from agenttune.bench.store import Store
from agenttune.errors import ConfigError

HEARTBEAT_S = 10.0
WAIT_S = 0.2
"""How often the runner looks up while cells are under way."""
OTHERS_S = 2.0
"""How often it asks for cells that other runners have."""
MOST_ATTEMPTS = 2
"""Of a cell whose worker died: once may have been the machine's doing, such as a lack of memory."""


@dataclass(frozen=True)
class Progress:
    """How far a run of a suite is.

    Attributes:
        total: Cells that are asked for.
        done: Of them, with earlier ones.
        failed: Of those.
        taken: Under way with another runner.
        last: The newest result.
    """

    total: int
    done: int
    failed: int
    taken: int = 0
    last: CellResult | None = None


@dataclass
class Runner:
    """One run over cells.

    Attributes:
        store: Keeps the results.
        backend: Does the cells.
        project: As for `Trial`.
        limit_s: Wall time of a cell.
        keeps_runs: Whether the log of each run stays, in `runs/` beside the results.
        tell: Called whenever something has changed.
    """

    store: Store
    backend: Backend
    project: Path
    limit_s: float
    keeps_runs: bool = False
    tell: Callable[[Progress], None] = lambda progress: None
    _states: dict[str, str] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _attempts: dict[str, int] = field(default_factory=dict)
    _followers: dict[str, list[Cell]] = field(default_factory=dict)
    _entries: dict[tuple[str, int, str], str] = field(default_factory=dict)
    """Key of the cell of a scenario, a seed and an entry."""
    _heartbeat_at: float = 0.0

    def run(self, cells: Sequence[Cell]) -> Progress:
        """Do all that is not done, also what other runners leave when they die; returns when nothing is left."""
        self.store.register()
        self._entries = {_entry(cell, cell.spec): cell.key for cell in cells}
        keys = set(self._entries.values())
        self._read_states(keys)
        waiting = self._leaders([cell for cell in cells if cell.key not in self._states])
        taken: deque[Cell] = deque()
        under_way: dict[str, Cell] = {}
        self._told(len(keys), None, 0)
        while waiting or taken or under_way:
            self._live()
            while waiting and len(under_way) < self.backend.slots:
                self._begin(waiting.popleft(), under_way, taken)
            for done in self.backend.wait(WAIT_S) if under_way else []:
                if (result := self._result(done)) is None:
                    self.backend.submit(done.work)
                    continue
                del under_way[result.cell.key]
                self._refuse_changed(result.cell)
                self._keep(result)
                self._told(len(keys), result, len(taken))
            if not waiting and not under_way and taken:
                time.sleep(OTHERS_S)
                waiting, taken = taken, deque()
                self._read_states(keys)
                self._told(len(keys), None, len(waiting))
        return self._told(len(keys), None, 0)

    def _leaders(self, cells: Sequence[Cell]) -> deque[Cell]:
        """The cells to be done; of those that come to the same, one, unless it is done already."""
        shared = {cell.work for cell in cells if cell.work}
        done = {r.cell.work: r for r in self.store.results() if r.cell.work in shared} if shared else {}
        leaders: deque[Cell] = deque()
        for cell in cells:
            if cell.work in done:
                self._copy(done[cell.work], cell)
            elif cell.work in self._followers:
                self._followers[cell.work].append(cell)
            else:
                leaders.append(cell)
                if cell.work:
                    self._followers[cell.work] = []
        return leaders

    def _begin(self, cell: Cell, under_way: dict[str, Cell], taken: deque[Cell]) -> None:
        claim = self.store.claim(cell)
        if claim == "taken":
            taken.append(cell)
        elif claim == "claimed":
            under_way[cell.key] = cell
            folder = self.store.folder / "runs" / cell.key
            answers, known = self.store.folder / ANSWERS, self._looked_up(cell)
            self.backend.submit(Work(cell, folder, self.project, self.limit_s, self.keeps_runs, answers, known))
        elif (result := self.store.result(cell.key)) is not None:
            self._keep(result)

    def _looked_up(self, cell: Cell) -> Outcome | None:
        """What came of the cell that this one's contender asks about, if that is done."""
        if cell.scenario.script is not None:
            return None
        entry = make_contender(cell.spec, self.project).looks_up()
        key = None if entry is None else self._entries.get(_entry(cell, entry))
        result = None if key is None else self.store.result(key)
        return None if result is None or result.state == "failed" else result.outcome

    def _keep(self, result: CellResult) -> None:
        """Keep a result, and the same for the cells that come to the same."""
        self.store.keep(result)
        self._note(result.cell.key, result.state)
        for follower in self._followers.pop(result.cell.work, []) if result.cell.work else []:
            self._copy(result, follower)

    def _copy(self, result: CellResult, cell: Cell) -> None:
        if self.store.claim(cell) == "claimed":
            outcome = result.outcome.model_copy(update={"fault": drawn_fault(cell)})
            self.store.keep(result.model_copy(update={"cell": cell, "outcome": outcome}))
        self._note(cell.key, result.state)

    def _read_states(self, keys: set[str]) -> None:
        for key, state in self.store.done().items():
            if key in keys:
                self._note(key, state)

    def _note(self, key: str, state: str) -> None:
        self._states[key] = state
        if state == "failed":
            self._failed.add(key)

    def _refuse_changed(self, cell: Cell) -> None:
        """A result that rests on files which have changed since the suite was read is none of what they were.

        Raises:
            ConfigError: They have.
        """
        changed = changed_since(cell.code, self.project)
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} of {cell.contender} has changed while the suite ran; what was under way is not "
                "kept, and the same command goes on with what it is now",
                field="contenders",
            )

    def _result(self, done: FinishedCell) -> CellResult | None:
        """None: the worker died, and another one is to try."""
        if done.result is not None:
            return done.result
        key = done.work.cell.key
        self._attempts[key] = self._attempts.get(key, 1) + 1
        if self._attempts[key] <= MOST_ATTEMPTS:
            return None
        return failed(done.work.cell, f"{done.reason}; so it was at each of {MOST_ATTEMPTS} attempts")

    def _live(self) -> None:
        if time.monotonic() - self._heartbeat_at > HEARTBEAT_S:
            self._heartbeat_at = time.monotonic()
            self.store.heartbeat()

    def _told(self, total: int, last: CellResult | None, taken: int) -> Progress:
        progress = Progress(total, len(self._states), len(self._failed), taken, last)
        self.tell(progress)
        return progress


def _entry(cell: Cell, spec: dict[str, Any]) -> tuple[str, int, str]:
    return cell.scenario.name, cell.seed, json.dumps(spec, sort_keys=True)


def only(cells: Sequence[Cell], pattern: str) -> list[Cell]:
    """The cells whose `task/fault/contender/seed` fits a pattern such as `*/lr_x30/guardian/*`, or holds that text."""
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [cell for cell in cells if fnmatch.fnmatchcase(title(cell), wanted)]


def title(cell: Cell) -> str:
    """Which cell it is, for people."""
    return f"{cell.scenario.name}/{cell.contender}/{cell.seed}"
