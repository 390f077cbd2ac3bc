"""Metrics in a log: one row a step, which is all that the training process writes, and the curves made of them.

Curves come from closed buckets of 16, 256, ... points of each metric, which whoever reads derives from the rows.
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from agenttune.errors import LogFull, UserError
from agenttune.protocol.events import WeightsSampled
from agenttune.protocol.metrics import Curve, JsonNumber, Point, SeriesInfo, StoredPoint, encode_number
from agenttune.protocol.weight_looks import WeightLook
from agenttune.store.downsampling import FAN, LEVELS, Bucket, Rollup, thin
from agenttune.store.log_connection import LogConnection, private_copy, reading, storing
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
INDEX_ROWS = 2000
"""Rows indexed in one transaction: about 20 ms, in which the training process's writer thread waits (measured)."""
MOST_PER_POINT = FAN // 2
"""Buckets read for each entry of a curve: with the next coarser ones there would still be half as many as entries."""
CURVES_SCHEMA = """
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


class MetricTable(LogConnection):
    """The rows of metrics of a log, and its curves."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, is_read_only: bool = False) -> None:
        super().__init__(folder, connection)
        self._is_read_only = is_read_only
        self._rollups: dict[tuple[str, str], Rollup] = {}
        self._known_to = -1
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

    # -- curves --------------------------------------------------------------------------------------------------

    def index_points(self) -> None:
        """Bring the curves' cache up to date; done by readers, in transactions of a few milliseconds.

        On a full disk curves are told as far as they are kept: who only reads needs no room.
        """
        if self._is_read_only:
            self._index_copy()
            return
        while self.index_lag() > 0:
            try:
                with self.transaction():
                    self._index()
            except BaseException as error:
                self._forget()
                if isinstance(error, LogFull):
                    return
                raise

    @reading
    def _index_copy(self) -> None:
        """Where nobody may write, the cache is brought up to date in a copy of our own, which ends with us."""
        if self.index_lag() <= 0:
            return
        copy = private_copy(self._db)
        self._db.close()
        self._db = copy
        while self.index_lag() > 0:
            self._index()
        copy.execute("PRAGMA query_only=ON")

    @reading
    def index_lag(self) -> int:
        """Rows, at most, that a curve would first have to take in."""
        return self.last_point_id() - self._indexed_to()

    def _forget(self) -> None:
        """Drop the open buckets, after a transaction that was undone; they are rebuilt when needed."""
        self._rollups = {}
        self._known_to = -1

    def _index(self) -> None:
        """Take the next rows into series and buckets.

        These tables are a cache that any reader brings up to date. The caller holds a transaction, so two readers
        never take the same row; one that finds another was faster rebuilds its open buckets from the file.
        """
        start = self._indexed_to()
        if start != self._known_to:
            self._forget()
        closed: list[tuple[object, ...]] = []
        spans: dict[tuple[str, str, str], list[int]] = {}
        point_id = start
        newer = (
            "SELECT point_id, branch, step, source, metrics FROM points WHERE point_id > ? ORDER BY point_id LIMIT ?"
        )
        for point_id, branch, step, source, metrics in self._db.execute(newer, (start, INDEX_ROWS)).fetchall():
            for name, value in values_in(metrics).items():
                rollup = self._rollup(branch, name, start)
                closed += [(branch, name, *b.row()) for b in rollup.add(float(value), step, point_id)]
                span = spans.setdefault((branch, name, source), [0, step, step])
                span[0] += 1
                span[1], span[2] = min(span[1], step), max(span[2], step)
        self._write_index(closed, spans, point_id)

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
        for point_id, step, value in self._raw(branch, name, after, until):
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

    def _raw(self, branch: str, name: str, after: int, until: int) -> list[tuple[int, int, float]]:
        """(point_id, step, value) of one metric, in order of writing."""
        # After a known row, walk the table from there; SQLite would otherwise sort out the whole run by its index.
        table, order = ("points", "step, point_id") if after == 0 else ("points NOT INDEXED", "point_id")
        rows = self._db.execute(
            f"SELECT point_id, step, (SELECT value FROM json_each(metrics) WHERE key = ?) FROM {table} "
            "WHERE branch = ? AND point_id > ? AND point_id <= ? "
            f"AND source IN (SELECT source FROM series WHERE branch = ? AND name = ?) ORDER BY {order}",
            (name, branch, after, until, branch, name),
        )
        return [(i, step, float(value)) for i, step, value in rows if value is not None]

    def series(self, branch: str = "main") -> list[SeriesInfo]:
        """Every metric of a branch with its extent."""
        self.index_points()
        return self._series(branch)

    @reading
    def _series(self, branch: str) -> list[SeriesInfo]:
        rows = self._db.execute(
            "SELECT name, branch, sum(count), min(first_step), max(last_step) FROM series WHERE branch = ? "
            "GROUP BY name ORDER BY name",
            (branch,),
        ).fetchall()
        keys = ("name", "branch", "count", "first_step", "last_step")
        return [SeriesInfo.model_validate(dict(zip(keys, row, strict=True))) for row in rows]

    def metric_names(self, branches: Sequence[str] = ()) -> list[str]:
        """Every metric of some branches, or of all."""
        self.index_points()
        with storing(self.folder):
            rows = self._db.execute("SELECT DISTINCT branch, name FROM series").fetchall()
        return sorted({name for branch, name in rows if not branches or branch in branches})

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
        found = self.curves([name], branch, first_step, last_step, max_points)
        if not found:
            names = [series.name for series in self._series(branch)]
            raise UserError(
                f"no metric {name!r} in branch {branch!r}; there are: {', '.join(names) or 'none yet'}",
                field="metric",
                allowed=names,
            )
        return found[0]

    def curves(
        self,
        names: Sequence[str],
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> list[Curve]:
        """Several metrics over steps in one reading; those that the branch does not have are left out."""
        self.index_points()
        with storing(self.folder), self.snapshot():  # a bucket that is closed meanwhile would be missed by both looks
            return self._curves(names, branch, first_step, last_step, max_points)

    def _curves(
        self, names: Sequence[str], branch: str, first_step: int, last_step: int | None, max_points: int
    ) -> list[Curve]:
        known = {s.name: s for s in self._series(branch)}
        there = [name for name in dict.fromkeys(names) if name in known]
        covers, tails = {}, {}
        for name in there:
            info = known[name]
            last = info.last_step if last_step is None else last_step
            level = _level(info, first_step, last, max_points)
            stride = max(1, int(_expected(info, first_step, last) / FAN**level / max_points))
            covers[name], tails[name] = self._closed(branch, name, level, first_step, last, stride)
        raw = self._tails(branch, tails, first_step, LAST if last_step is None else last_step)
        return [thin(name, branch, covers[name] + raw.get(name, []), max_points) for name in there]

    def _closed(
        self, branch: str, name: str, level: int, first: int, last: int, stride: int
    ) -> tuple[list[Bucket], _Tail]:
        """Closed buckets of `level`, `stride` of them merged, then what is newer; and where the raw points begin."""
        buckets: list[Bucket] = []
        tail = _Tail(0, 0)
        for n in range(level, 0, -1):
            if n == level and stride > 1:
                buckets += self._merged(branch, name, n, first, last, stride)
            else:
                buckets += self._buckets(branch, name, n, tail.after, first, last)
            tail = max(tail, self._last_closed(branch, name, n))
        return buckets, tail

    def _merged(self, branch: str, name: str, level: int, first: int, last: int, stride: int) -> list[Bucket]:
        """Closed buckets, about so many neighbours merged into one by SQLite, which does it several times faster."""
        ends = "SELECT min(last_point), max(last_point), count(*) FROM buckets "
        ends += "WHERE branch = ? AND name = ? AND level = ? AND last_step >= ? AND first_step <= ?"
        start, end, count = self._db.execute(ends, (branch, name, level, first, last)).fetchone()
        width = (end - start) * stride // max(1, count - 1) if count else 1
        rows = self._db.execute(
            "SELECT 0, max(last_step), min(first_step), max(last_point), sum(count), sum(total), "
            "coalesce(min(low), 9e999), coalesce(max(high), -9e999), sum(nonfinite) FROM ("
            "SELECT *, last_point / ? AS place FROM buckets WHERE branch = ? "
            "AND name = ? AND level = ? AND last_step >= ? AND first_step <= ?) GROUP BY place ORDER BY place",
            (max(1, width), branch, name, level, first, last),
        )
        return [Bucket(*row) for row in rows]

    def _last_closed(self, branch: str, name: str, level: int) -> _Tail:
        row = self._db.execute(
            "SELECT last_point, first_step FROM buckets WHERE branch = ? AND name = ? AND level = ? "
            "ORDER BY last_point DESC LIMIT 1",
            (branch, name, level),
        ).fetchone()
        return _Tail(0, 0) if row is None else _Tail(*row)

    def _tails(self, branch: str, tails: dict[str, _Tail], first: int, last: int) -> dict[str, list[Bucket]]:
        """The raw points that no closed bucket holds, of all metrics of a source in one reading of its rows."""
        found: dict[str, list[Bucket]] = {}
        for source, names in self._by_source(branch, tails).items():
            # Steps are written in order, but for rows of a step that was logged late: so far back a bucket's reach.
            start = max(first, min(tails[name].first_step for name in names))
            rows = self._db.execute(
                "SELECT point_id, step, metrics FROM points INDEXED BY points_by_step "
                "WHERE branch = ? AND source = ? AND step BETWEEN ? AND ? ORDER BY step, point_id",
                (branch, source, start, last),
            )
            for point_id, step, metrics in rows:
                values = values_in(metrics)
                for name in names:
                    if name in values and point_id > tails[name].after:
                        found.setdefault(name, []).append(Bucket.of_one(float(values[name]), step, point_id))
        for points in found.values():  # of several sources
            points.sort(key=lambda point: (point.last_step, point.last_point))
        return found

    def _by_source(self, branch: str, tails: Iterable[str]) -> dict[str, list[str]]:
        wanted, found = set(tails), dict[str, list[str]]()
        for name, source in self._db.execute("SELECT name, source FROM series WHERE branch = ?", (branch,)):
            if name in wanted:
                found.setdefault(source, []).append(name)
        return found


class _Tail(NamedTuple):
    """Where the points begin that no closed bucket holds: after a row, at that bucket's first step at the earliest."""

    after: int
    first_step: int


def _expected(info: SeriesInfo, first_step: int, last: int) -> float:
    """About how many points of a metric there are in a range."""
    span = max(1, info.last_step - info.first_step + 1)
    asked = max(0, min(last, info.last_step) - max(first_step, info.first_step) + 1)
    return info.count * asked / span


def _level(info: SeriesInfo, first_step: int, last: int, max_points: int) -> int:
    """The finest buckets of which there are not too many in a range."""
    expected = _expected(info, first_step, last)
    return next((n for n in (0, *LEVELS) if expected / FAN**n <= max_points * MOST_PER_POINT), LEVELS[-1])


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
