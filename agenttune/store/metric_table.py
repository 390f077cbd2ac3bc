"""Metrics in a log: one row a step, and closed buckets beside them for quick curves.

The training process writes rows only. Series and buckets are derived from them by whoever reads.
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from agenttune.errors import UserError
from agenttune.protocol.events import WeightsSampled
from agenttune.protocol.metrics import Curve, Point, SeriesInfo, StoredPoint, encode_number
from agenttune.protocol.weight_looks import WeightLook
from agenttune.store.downsampling import FAN, LEVELS, Bucket, Rollup, thin

SOURCES = ("step", "log", "eval")
INDEX_ROWS = 2000
"""Rows indexed in one transaction: about 20 ms, in which the training process's writer thread waits (measured)."""
LAST = 2**62
"""Past every step and row."""
POINTS_SCHEMA = """
CREATE TABLE points (
    point_id INTEGER PRIMARY KEY AUTOINCREMENT, branch TEXT NOT NULL, step INTEGER NOT NULL, at_s REAL NOT NULL,
    source TEXT NOT NULL, metrics TEXT NOT NULL
);
CREATE INDEX points_by_step ON points (branch, source, step);
CREATE TABLE series (
    branch TEXT NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL, count INTEGER NOT NULL,
    first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, PRIMARY KEY (branch, name, source)
);
CREATE TABLE buckets (
    branch TEXT NOT NULL, name TEXT NOT NULL, level INTEGER NOT NULL, last_step INTEGER NOT NULL,
    first_step INTEGER NOT NULL, last_point INTEGER NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL,
    low REAL, high REAL, nonfinite INTEGER NOT NULL,
    PRIMARY KEY (branch, name, level, last_point)
) WITHOUT ROWID;
CREATE TABLE indexed (point_id INTEGER NOT NULL);
INSERT INTO indexed VALUES (0);
"""


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


class PointTable:
    """Reads and writes the metric tables over one connection. Its errors are sqlite3's own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._rollups: dict[tuple[str, str], Rollup] = {}
        self._known_to = -1

    def forget(self) -> None:
        """Drop the open buckets, after a transaction that was undone; they are rebuilt when needed."""
        self._rollups = {}
        self._known_to = -1

    def append(self, points: Iterable[Point | MetricRow]) -> int:
        """Insert rows, and nothing else: the training process pays for it. The caller holds a transaction.

        Returns:
            How many they are.
        """
        rows, events = [], []
        for p in points:
            metrics = metrics_json(p.values)
            rows.append((p.branch, p.step, p.at_s, p.source, metrics))
            if isinstance(p, MetricRow) and p.texts is not None:
                events.append((p.at_s, "logged", p.step, p.branch, logged_json(metrics, p.texts)))
            if isinstance(p, MetricRow) and p.look is not None:
                sampled = WeightsSampled(look=p.look)
                events.append((p.at_s, sampled.kind, p.step, p.branch, sampled.model_dump_json()))
        self._db.executemany(
            "INSERT INTO points (branch, step, at_s, source, metrics) VALUES (?, ?, ?, ?, ?)",
            rows,
        )
        if events:
            self._db.executemany("INSERT INTO events (at_s, kind, step, branch, body) VALUES (?, ?, ?, ?, ?)", events)
        return len(rows)

    def is_behind(self) -> bool:
        """Whether there are rows that `index` has not seen."""
        return self._indexed_to() < self.last_id()

    def index(self, limit: int = INDEX_ROWS) -> bool:
        """Take the next `limit` rows into series and buckets; returns whether there are more.

        These tables are a cache that any reader brings up to date. The caller holds a transaction, so two readers
        never take the same row; one that finds another was faster rebuilds its open buckets from the file.
        """
        start = self._indexed_to()
        if start != self._known_to:
            self.forget()
        closed: list[tuple[object, ...]] = []
        spans: dict[tuple[str, str, str], list[int]] = {}
        count, point_id = 0, start
        newer = (
            "SELECT point_id, branch, step, source, metrics FROM points WHERE point_id > ? ORDER BY point_id LIMIT ?"
        )
        for point_id, branch, step, source, metrics in self._db.execute(newer, (start, limit)).fetchall():
            count += 1
            for name, value in json.loads(metrics).items():
                rollup = self._rollup(branch, name, start)
                closed += [(branch, name, *b.row()) for b in rollup.add(float(value), step, point_id)]
                span = spans.setdefault((branch, name, source), [0, step, step])
                span[0] += 1
                span[1], span[2] = min(span[1], step), max(span[2], step)
        self._write_index(closed, spans, point_id)
        return count == limit

    def _indexed_to(self) -> int:
        return int(self._db.execute("SELECT point_id FROM indexed").fetchone()[0])

    def _write_index(
        self, closed: list[tuple[object, ...]], spans: dict[tuple[str, str, str], list[int]], to: int
    ) -> None:
        self._db.executemany("INSERT INTO buckets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", closed)
        self._db.executemany(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,"
            " first_step = min(first_step, excluded.first_step), last_step = max(last_step, excluded.last_step)",
            [(*key, *span) for key, span in spans.items()],
        )
        self._db.execute("UPDATE indexed SET point_id = ?", (to,))
        self._known_to = to

    def _rollup(self, branch: str, name: str, until: int) -> Rollup:
        key = (branch, name)
        if key not in self._rollups:
            self._rollups[key] = self._rebuild_rollup(branch, name, until)
        return self._rollups[key]

    def _rebuild_rollup(self, branch: str, name: str, until: int) -> Rollup:
        """The open buckets of a series as of row `until`, from what follows the last closed one of each level."""
        rollup = Rollup()
        after = self._last_bucketed(branch, name, LEVELS[-1])
        for level in reversed(LEVELS[:-1]):
            for bucket in self._buckets(branch, name, level, after):
                rollup.absorb(bucket)
                after = bucket.last_point
        for point_id, step, value in self._raw(branch, name, after, until=until):
            rollup.add(value, step, point_id)
        return rollup

    def _last_bucketed(self, branch: str, name: str, level: int) -> int:
        row = self._db.execute(
            "SELECT max(last_point) FROM buckets WHERE branch = ? AND name = ? AND level = ?",
            (branch, name, level),
        ).fetchone()
        return int(row[0] or 0)

    def _buckets(
        self, branch: str, name: str, level: int, after: int, first: int = 0, last: int = LAST
    ) -> list[Bucket]:
        rows = self._db.execute(
            "SELECT level, last_step, first_step, last_point, count, total, coalesce(low, 9e999), "
            "coalesce(high, -9e999), nonfinite FROM buckets "
            "WHERE branch = ? AND name = ? AND level = ? AND last_point > ? AND last_step >= ? AND first_step <= ? "
            "ORDER BY last_point",
            (branch, name, level, after, first, last),
        )
        return [Bucket(*row) for row in rows]

    def _raw(
        self, branch: str, name: str, after: int, first: int = 0, last: int = LAST, until: int = LAST
    ) -> list[tuple[int, int, float]]:
        """(point_id, step, value) of one metric, in order of writing."""
        # After a known row, walk the table from there; SQLite would otherwise sort out the whole run by its index.
        table, order = ("points", "step, point_id") if after == 0 else ("points NOT INDEXED", "point_id")
        rows = self._db.execute(
            f"SELECT point_id, step, (SELECT value FROM json_each(metrics) WHERE key = ?) FROM {table} "
            "WHERE branch = ? AND point_id > ? AND point_id <= ? AND step BETWEEN ? AND ? "
            f"AND source IN (SELECT source FROM series WHERE branch = ? AND name = ?) ORDER BY {order}",
            (name, branch, after, until, first, last, branch, name),
        )
        return [(i, step, float(value)) for i, step, value in rows if value is not None]

    def rows(self, since: int = 0, limit: int = 1000, sources: Sequence[str] = SOURCES) -> list[StoredPoint]:
        """Whole rows with `point_id > since`, in order of writing."""
        rows = self._db.execute(
            "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE point_id > ? "
            f"AND source IN ({','.join('?' * len(sources))}) ORDER BY point_id LIMIT ?",
            (since, *sources, limit),
        ).fetchall()
        return [_point(row) for row in rows]

    def recent(
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

    def first(
        self, limit: int, sources: Sequence[str], branch: str, after_step: int, last_step: int | None
    ) -> list[StoredPoint]:
        """The first `limit` rows of each source of a branch after a step, up to another; in order of steps."""
        sql = (
            "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE branch = ? AND source = ? "
            "AND step > ? AND step <= ? ORDER BY step, point_id LIMIT ?"
        )
        until = LAST if last_step is None else last_step
        rows = [row for source in sources for row in self._db.execute(sql, (branch, source, after_step, until, limit))]
        return [_point(row) for row in sorted(rows, key=lambda row: (row[2], row[0]))]

    def sample(
        self, count: int, sources: Sequence[str] = ("step",), branch: str = "main", last_step: int | None = None
    ) -> list[StoredPoint]:
        """About `count` rows of each source, evenly over the steps of a branch: costs the same however many there are.

        Not the buckets, which a reader would first have to bring up to date.
        """
        found: dict[int, StoredPoint] = {}
        for source in sources:
            for step in self._even_steps(count, source, branch, LAST if last_step is None else last_step):
                row = self._db.execute(
                    "SELECT point_id, branch, step, at_s, source, metrics FROM points WHERE branch = ? AND source = ? "
                    "AND step >= ? ORDER BY step, point_id LIMIT 1",
                    (branch, source, step),
                ).fetchone()
                found[row[0]] = _point(row)
        return [found[point_id] for point_id in sorted(found)]

    def _even_steps(self, count: int, source: str, branch: str, until: int) -> list[int]:
        """Steps from the first to the last one of a source, the last included."""
        ends = "SELECT min(step), max(step) FROM points WHERE branch = ? AND source = ? AND step <= ?"
        first, last = self._db.execute(ends, (branch, source, until)).fetchone()
        if first is None:
            return []
        most = max(1, min(count - 1, last - first))
        return [first + (last - first) * i // most for i in range(most + 1)]

    def lag(self) -> int:
        """Rows, at most, that `index` has not seen."""
        return self.last_id() - self._indexed_to()

    def last_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(point_id), 0) FROM points").fetchone()[0])

    def series(self, branch: str = "main") -> list[SeriesInfo]:
        """Every metric of a branch with its extent."""
        rows = self._db.execute(
            "SELECT name, branch, sum(count), min(first_step), max(last_step) FROM series WHERE branch = ? "
            "GROUP BY name ORDER BY name",
            (branch,),
        ).fetchall()
        keys = ("name", "branch", "count", "first_step", "last_step")
        return [SeriesInfo.model_validate(dict(zip(keys, row, strict=True))) for row in rows]

    def curve(
        self,
        name: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        """One metric over steps, with at most `max_points` entries.

        Raises:
            UserError: No such metric in that branch; lists those there are.
        """
        known = {s.name: s for s in self.series(branch)}
        if name not in known:
            names = sorted(known)
            raise UserError(
                f"no metric {name!r} in branch {branch!r}; there are: {', '.join(names) or 'none yet'}",
                field="metric",
                allowed=names,
            )
        info = known[name]
        last = info.last_step if last_step is None else last_step
        span = max(1, info.last_step - info.first_step + 1)
        asked = max(0, min(last, info.last_step) - max(first_step, info.first_step) + 1)
        expected = info.count * asked / span
        level = next((n for n in (0, *LEVELS) if expected / FAN**n <= max_points * FAN), LEVELS[-1])
        buckets = self._cover(branch, name, level, first_step, last)
        return thin(name, branch, buckets, max_points)

    def _cover(self, branch: str, name: str, level: int, first: int, last: int) -> list[Bucket]:
        """Closed buckets of `level`, then what is newer from the finer levels, down to raw points."""
        buckets: list[Bucket] = []
        after = 0
        for n in range(level, 0, -1):
            found = self._buckets(branch, name, n, after, first, last)
            after = self._last_bucketed(branch, name, n)
            buckets += found
        raw = self._raw(branch, name, after, first, last)
        return buckets + [Bucket.of_one(value, step, point_id) for point_id, step, value in raw]


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


def _point(row: tuple[Any, ...]) -> StoredPoint:
    point_id, branch, step, at_s, source, metrics = row
    return StoredPoint(
        point_id=point_id, branch=branch, step=step, at_s=at_s, source=source, values=json.loads(metrics)
    )
