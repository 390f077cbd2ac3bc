"""Metrics in a log: one row a step, which is all that the training process writes."""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from agenttune.protocol.events import WeightsSampled
from agenttune.protocol.metrics import JsonNumber, Point, StoredPoint, encode_number
from agenttune.protocol.weight_looks import WeightLook
from agenttune.store.log_connection import LogConnection, reading
from agenttune.store.wal_monitor import OwnCommits

ROWS_A_STATEMENT = 16
SOURCES = ("step", "log", "eval")
ROWS_KEPT = 1024
"""Rows whose parsed metrics are kept, about 1 MB where a row has ten (guess: more than a curve's newest ones)."""
LAST = 2**62
"""Past every step and row."""
POINTS_SCHEMA = """
CREATE TABLE points (
    point_id INTEGER PRIMARY KEY AUTOINCREMENT, branch TEXT NOT NULL, step INTEGER NOT NULL, at_s REAL NOT NULL,
    source TEXT NOT NULL, metrics TEXT NOT NULL
);
CREATE INDEX points_by_step ON points (branch, source, step);
"""


TIME_OF_STEP = (
    "SELECT step, at_s FROM points INDEXED BY points_by_step WHERE branch = ? AND source = ? AND step >= ? "
    "ORDER BY step, point_id LIMIT 1"
)


class MetricRow(NamedTuple):
    """A `Point` without its checks, for the training process: made in a tenth of the time.

    Attributes:
        texts: Of a row of the loop's own log: what it says that is no number. Given, the row is an event too.
        look: At the weights after this step; an event of its own.
    """

    step: int
    at_s: float
    values: dict[str, float]
    source: str = "step"
    branch: str = "main"
    texts: dict[str, str] | None = None
    look: WeightLook | None = None


class PointTable(LogConnection):
    """The rows of metrics of a log."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        super().__init__(folder, connection)
        self.own: OwnCommits | None = None
        """Where own commits of rows are reported, so that the command queue ignores them."""

    def append_points(self, points: Iterable[Point | MetricRow]) -> None:
        """Append metric rows, and the events that some of them are, in one transaction.

        One process writes a run's points.
        """
        with self.transaction():
            count = self._append_points(points)
            number = self.own.next() if self.own is not None and count else None
        if self.own is not None:
            self.own.note(number)

    def _append_points(self, points: Iterable[Point | MetricRow]) -> int:
        """Insert rows, and nothing else: the training process pays for it. Returns how many they are."""
        rows: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        for p in points:
            metrics = metrics_json(p.values)
            rows.append((p.branch, p.step, p.at_s, p.source, metrics))
            if isinstance(p, MetricRow):
                if p.texts is not None:
                    events.append((p.at_s, "logged", p.step, p.branch, logged_json(metrics, p.texts)))
                if p.look is not None:
                    sampled = WeightsSampled(look=p.look)
                    events.append((p.at_s, sampled.kind, p.step, p.branch, sampled.model_dump_json()))
        self._insert("points (branch, step, at_s, source, metrics)", rows)
        self._insert("events (at_s, kind, step, branch, body)", events)
        return len(rows)

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows of five values, many in a statement: each takes a third of what its rows take (measured)."""
        one = f"INSERT INTO {into} VALUES (?, ?, ?, ?, ?)"
        most = one + ", (?, ?, ?, ?, ?)" * (ROWS_A_STATEMENT - 1)
        whole = len(rows) - len(rows) % ROWS_A_STATEMENT
        for i in range(0, whole, ROWS_A_STATEMENT):
            self._db.execute(most, tuple(chain.from_iterable(rows[i : i + ROWS_A_STATEMENT])))
        self._db.executemany(one, rows[whole:])

    @reading
    def points(self, since: int = 0, limit: int = 1000, sources: Sequence[str] = SOURCES) -> list[StoredPoint]:
        """Whole rows with `point_id > since`, in order of writing."""
        rows = self._db.execute(
            "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE point_id > ? "
            f"AND source IN ({','.join('?' * len(sources))}) ORDER BY point_id LIMIT ?",
            (since, *sources, limit),
        ).fetchall()
        return [_point(row) for row in rows]

    @reading
    def recent_points(
        self, limit: int, sources: Sequence[str] = ("step",), branch: str = "main", last_step: int | None = None
    ) -> list[StoredPoint]:
        """The last `limit` rows of a branch, up to a step, oldest first."""
        # Source by source: only then does the index give the newest first; else SQLite reads and sorts them all.
        sql = (
            "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE branch = ? AND source = ? "
            "AND step <= ? ORDER BY step DESC, point_id DESC LIMIT ?"
        )
        until = LAST if last_step is None else last_step
        rows = [row for source in sources for row in self._db.execute(sql, (branch, source, until, limit))]
        return [_point(row) for row in sorted(rows)[-limit:]]

    @reading
    def recent_times(self, limit: int, branch: str) -> list[tuple[int, float]]:
        """(step, Unix time) of the last `limit` rows of steps of a branch, oldest first: no row's metrics are read."""
        sql = (
            "SELECT step, at_s FROM points WHERE branch = ? AND source = 'step' "
            "ORDER BY step DESC, point_id DESC LIMIT ?"
        )
        return self._db.execute(sql, (branch, limit)).fetchall()[::-1]

    @reading
    def first_points(
        self,
        limit: int,
        sources: Sequence[str] = ("step",),
        branch: str = "main",
        after_step: int = 0,
        last_step: int | None = None,
    ) -> list[StoredPoint]:
        """The first `limit` rows of each source of a branch after a step, up to another; in order of steps."""
        sql = (
            "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE branch = ? AND source = ? "
            "AND step > ? AND step <= ? ORDER BY step, point_id LIMIT ?"
        )
        until = LAST if last_step is None else last_step
        rows = [row for source in sources for row in self._db.execute(sql, (branch, source, after_step, until, limit))]
        return [_point(row) for row in sorted(rows, key=lambda row: (row[2], row[0]))]

    @reading
    def sampled_points(
        self,
        count: int,
        sources: Sequence[str] = ("step",),
        branch: str = "main",
        last_step: int | None = None,
        first_step: int = 0,
    ) -> list[StoredPoint]:
        """About `count` rows of each source, evenly over the steps of a branch: costs the same however many there are.

        Not the buckets, which a reader would first have to bring up to date.
        """
        found: dict[int, StoredPoint] = {}
        for source in sources:
            for step in self._even_steps(count, source, branch, first_step, LAST if last_step is None else last_step):
                row = self._db.execute(
                    "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE branch = ? AND source = ? "
                    "AND step >= ? ORDER BY step, point_id LIMIT 1",
                    (branch, source, step),
                ).fetchone()
                found[row[0]] = _point(row)
        return [found[point_id] for point_id in sorted(found)]

    def _even_steps(self, count: int, source: str, branch: str, start: int, until: int) -> list[int]:
        """Steps from the first to the last one of a source in a range, the last included."""
        ends = "SELECT min(step), max(step) FROM points WHERE branch = ? AND source = ? AND step BETWEEN ? AND ?"
        first, last = self._db.execute(ends, (branch, source, start, until)).fetchone()
        if first is None:
            return []
        most = max(1, min(count - 1, last - first))
        return [first + (last - first) * i // most for i in range(most + 1)]

    @reading
    def last_point_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(point_id), 0) FROM points").fetchone()[0])

    @reading
    def times(self, branch: str, steps: Sequence[int]) -> list[float]:
        """Unix time of the first row at each of these steps or after it; of the last row, past the end."""
        found: list[float] = []
        for step in steps:
            rows = [
                row
                for source in SOURCES
                if (row := self._db.execute(TIME_OF_STEP, (branch, source, step)).fetchone()) is not None
            ]
            at_s = min(rows)[1] if rows else (found[-1] if found else self._last_at_s(branch))
            found.append(float(at_s))
        return found

    def _last_at_s(self, branch: str) -> float:
        row = self._db.execute("SELECT max(at_s) FROM points WHERE branch = ?", (branch,)).fetchone()
        return float(row[0] or 0.0)


def metrics_json(values: dict[str, float]) -> str:
    """Metrics as they lie in the file."""
    numbers = tuple(values.values())
    if math.isfinite(sum(numbers)):
        if set(map(type, numbers)) == {float}:  # of nearly every row, with the names of the row before
            return _template(tuple(values)) % numbers
        return json.dumps(values)
    return json.dumps({name: encode_number(value) for name, value in values.items()})


@functools.lru_cache(maxsize=256)
def _template(names: tuple[str, ...]) -> str:
    """What finite floats of these names are as JSON, in a fifth of the time that `json.dumps` takes."""
    return "{{{}}}".format(", ".join(f"{json.dumps(name).replace('%', '%%')}: %r" for name in names))


def logged_json(metrics: str, texts: dict[str, str]) -> str:
    """The body of a `Logged` event, of metrics that were encoded already: one a step, so no model is built for it."""
    return f'{{"kind": "logged", "metrics": {metrics}, "texts": {json.dumps(texts) if texts else "{}"}}}'


@functools.lru_cache(maxsize=ROWS_KEPT)
def values_in(metrics: str) -> Mapping[str, JsonNumber]:
    """The metrics of a row; the newest rows are read again and again, for every curve that they are in."""
    values: dict[str, JsonNumber] = json.loads(metrics)
    return values


def _point(row: tuple[Any, ...]) -> StoredPoint:
    point_id, branch, step, at_s, source, metrics = row
    return StoredPoint(point_id=point_id, branch=branch, step=step, at_s=at_s, source=source, values=values_in(metrics))
