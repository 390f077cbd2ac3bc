"""The results of a suite: one SQLite file, in which cells are claimed before they are done and kept when they are.

Any number of runners on one machine may share it: a cell is done by whoever claimed it, and a claim ends with its
runner. A result whose cell is no longer what the suite asks for is set aside, and comes back if the suite does.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import ValidationError

from agenttune.bench.cell import Cell, CellResult
from agenttune.bench.code_version import is_same_code, without_draw
from agenttune.bench.training import Split
from agenttune.errors import ConfigError, StoreFault
from agenttune.store.process_liveness import is_alive, started_s
from agenttune.store.sqlite_file import BUSY_TIMEOUT_S, refuse_network_file_system

STORE_NAME = "results.db"
FORMAT = 1
LOST_AFTER_S = 120.0
"""A runner of another machine that was silent for so long is taken for dead (guess: twelve heartbeats)."""
_SCHEMA = """
CREATE TABLE results (
    key TEXT PRIMARY KEY, scenario TEXT NOT NULL, contender TEXT NOT NULL, seed INTEGER NOT NULL, split TEXT NOT NULL,
    state TEXT NOT NULL, at_s REAL NOT NULL, aside TEXT NOT NULL DEFAULT '', result TEXT NOT NULL
);
CREATE TABLE runners (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started_s REAL, heartbeat_s REAL NOT NULL
);
CREATE TABLE claims (key TEXT PRIMARY KEY, runner TEXT NOT NULL, at_s REAL NOT NULL);
"""
Claim = Literal["claimed", "done", "taken"]


@dataclass(frozen=True)
class SetAside:
    """Results that do not count any longer.

    Attributes:
        changed: Of cells whose policy, task, settings or code is another by now; also of seeds or contenders that are
            not asked for this time, as they would be compared with new ones.
        dropped: Of scenarios that the suite no longer has.
        returned: That count again, as their cells are as they were.
    """

    changed: int = 0
    dropped: int = 0
    returned: int = 0


class Store:
    """The results in a folder; made if there are none.

    Args:
        folder: The folder.

    Raises:
        StoreFault: It cannot be read or written, or another version of agenttune wrote it.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()  # workers may be elsewhere
        self.folder, self.path = folder, folder / STORE_NAME
        self.runner_id = uuid.uuid4().hex[:12]
        with self._storing():
            folder.mkdir(parents=True, exist_ok=True)
        refuse_network_file_system(folder)
        with self._storing():
            self._db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is still claimed."""
        with self._storing():
            self._db.execute("DELETE FROM claims WHERE runner = ?", (self.runner_id,))
            self._db.execute("DELETE FROM runners WHERE id = ?", (self.runner_id,))
            self._db.close()

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # whoever is killed loses nothing; a machine without power might
        with self._writing():
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={FORMAT}")
                found = FORMAT
        if found != FORMAT:
            raise StoreFault(
                f"{self.path} has format {found}, this agenttune reads and writes format {FORMAT}: give another folder "
                "with --out, move that one away, or use the agenttune that wrote it"
            )

    def results(self) -> list[CellResult]:
        """Those that count, oldest first."""
        with self._storing():
            rows = self._db.execute("SELECT result FROM results WHERE aside = '' ORDER BY at_s").fetchall()
            return [CellResult.model_validate_json(row[0]) for row in rows]

    def result(self, key: str) -> CellResult | None:
        """That of a cell, if it is done and counts."""
        with self._storing():
            row = self._db.execute("SELECT result FROM results WHERE key = ? AND aside = ''", (key,)).fetchone()
            return None if row is None else CellResult.model_validate_json(row[0])

    def done(self) -> dict[str, str]:
        """Keys of the results that count, with their state."""
        with self._storing():
            return dict(self._db.execute("SELECT key, state FROM results WHERE aside = ''").fetchall())

    def refuse_other_split(self, split: Split) -> None:
        """Results of both ranges could not be reported together.

        Raises:
            ConfigError: There are some of the other range.
        """
        with self._storing():
            rows = self._db.execute("SELECT DISTINCT split FROM results WHERE aside = ''").fetchall()
        if any(found != split for (found,) in rows):
            raise ConfigError(
                f"{self.folder} has results of the other range than {split}; give another folder with --out",
                field="out",
            )

    def align(self, cells: Sequence[Cell]) -> SetAside:
        """Set aside what no longer belongs to a suite of these cells, and take back what does again."""
        asked = _Asked(cells)
        counts = {"changed": 0, "dropped": 0, "": 0}
        with self._storing(), self._writing():
            for key, was, text in self._db.execute("SELECT key, aside, result FROM results").fetchall():
                aside = asked.aside(_cell_in(text), was)
                if aside != was:
                    counts[aside] += 1
                    self._db.execute("UPDATE results SET aside = ? WHERE key = ?", (aside, key))
        return SetAside(counts["changed"], counts["dropped"], counts[""])

    def register(self) -> None:
        """Make this process known as a runner; those that are dead lose their claims."""
        with self._storing(), self._writing():
            self._forget_dead_runners()
            self._db.execute(
                "INSERT OR REPLACE INTO runners VALUES (?, ?, ?, ?, ?)",
                (self.runner_id, socket.gethostname(), os.getpid(), started_s(os.getpid()), time.time()),
            )

    def heartbeat(self) -> None:
        """Say that this runner lives."""
        with self._storing(), self._writing():
            self._db.execute("UPDATE runners SET heartbeat_s = ? WHERE id = ?", (time.time(), self.runner_id))
            self._forget_dead_runners()

    def claim(self, cell: Cell) -> Claim:
        """Take a cell, unless it is done or another runner that lives has it."""
        with self._storing(), self._writing():
            if self._db.execute("SELECT 1 FROM results WHERE key = ?", (cell.key,)).fetchone():
                return "done"
            owner = self._db.execute("SELECT runner FROM claims WHERE key = ?", (cell.key,)).fetchone()
            if owner is not None and owner[0] != self.runner_id:
                return "taken"
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (cell.key, self.runner_id, time.time()))
            return "claimed"

    def keep(self, result: CellResult) -> None:
        """Keep a result, and end the claim."""
        key, row = result.cell.key, (*_identity(result.cell), result.state, result.at_s, result.model_dump_json())
        with self._storing(), self._writing():
            self._db.execute(
                "INSERT OR IGNORE INTO results (key, scenario, contender, seed, split, state, at_s, result) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, *row),
            )
            self._db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def forget(self, keys: Collection[str]) -> None:
        """Drop results, so that their cells are done again."""
        with self._storing(), self._writing():
            self._db.executemany("DELETE FROM results WHERE key = ?", [(key,) for key in keys])

    def _forget_dead_runners(self) -> None:
        for runner, host, pid, start, heartbeat in self._db.execute("SELECT * FROM runners").fetchall():
            if runner == self.runner_id or _lives(host, pid, start, heartbeat):
                continue
            self._db.execute("DELETE FROM claims WHERE runner = ?", (runner,))
            self._db.execute("DELETE FROM runners WHERE id = ?", (runner,))
        self._db.execute("DELETE FROM claims WHERE runner NOT IN (SELECT id FROM runners)")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that nobody else's comes in between."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Tell SQLite's and the disk's errors, and unreadable results, with the file's name."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreFault(f"the results in {self.path}: {error}") from error
        except ValidationError as error:
            raise StoreFault(
                f"{self.path} is damaged or was written by another version of agenttune "
                f"({error.error_count()} problems, first: {error.errors()[0]['msg']}); give another folder with --out"
            ) from error


def read_results(folder: Path) -> list[CellResult]:
    """The results of a suite that count, oldest first.

    Raises:
        StoreFault: There are none, or they cannot be read.
    """
    if not (folder / STORE_NAME).is_file():
        raise StoreFault(f"no results in {folder} ({STORE_NAME}); make some with: agenttune bench suites/NAME.yaml")
    with Store(folder) as store:
        return store.results()


class _Asked:
    """What a suite asks for, as far as it tells whether a result still counts.

    Results of seeds or contenders that are not asked for this time count on, if they rest on the same.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._keys = {cell.key for cell in cells}
        self._identities = {_identity(cell) for cell in cells}
        self._bases: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._scenarios: dict[str, dict[str, Cell]] = defaultdict(dict)
        for cell in cells:
            self._bases[cell.scenario.name, cell.contender].add(_basis(cell))
            self._scenarios[cell.scenario.name][cell.contender] = cell

    def aside(self, cell: Cell | None, was: str) -> str:
        """Why a result does not count; empty if it does.

        Args:
            cell: Of the result; None: of a version whose cells were made otherwise.
            was: What was said of it before.
        """
        if cell is None:
            return "changed"
        if cell.key in self._keys:
            return ""
        others = self._scenarios.get(cell.scenario.name)
        if others is None:
            return "dropped"
        if _identity(cell) in self._identities:
            return "changed"
        if cell.contender in others:
            return "" if _basis(cell) in self._bases[cell.scenario.name, cell.contender] else "changed"
        return was if all(_fit(cell, other) for other in others.values()) else "changed"


def _cell_in(result: str) -> Cell | None:
    """The cell of a result; a result that will not count any longer may be of a version that wrote another outcome."""
    try:
        return Cell.model_validate(json.loads(result)["cell"])
    except ValidationError:
        return None


def _basis(cell: Cell) -> str:
    """What the cells of all seeds of a scenario and contender have in common."""
    same = cell.model_copy(update={"seed": 0, "version": without_draw(cell.version), "work": ""})
    return same.model_dump_json()


def _fit(one: Cell, other: Cell) -> bool:
    """Whether results of two contenders can be compared."""
    same_scenario = (one.scenario, one.split) == (other.scenario, other.split)
    return same_scenario and is_same_code(one.version, other.version)


def _identity(cell: Cell) -> tuple[str, str, int, str]:
    return cell.scenario.name, cell.contender, cell.seed, cell.split


def _lives(host: str, pid: int, start: float | None, heartbeat_s: float) -> bool:
    if host == socket.gethostname():
        return is_alive(pid, start)
    return time.time() - heartbeat_s < LOST_AFTER_S
