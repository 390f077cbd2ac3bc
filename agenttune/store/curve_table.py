"""Curves in a log: closed buckets of 16, 256, ... points of each metric, derived from the rows by whoever reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agenttune.errors import LogFull, UserError
from agenttune.protocol.metrics import Curve, SeriesInfo
from agenttune.store.downsampling import FAN, LEVELS, Bucket, Rollup, thin
from agenttune.store.log_connection import private_copy, reading, storing
from agenttune.store.metric_table import LAST, PointTable, values_in

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


class CurveTable(PointTable):
    """The curves of a log."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, is_read_only: bool = False) -> None:
        super().__init__(folder, connection)
        self._is_read_only = is_read_only
        self._rollups: dict[tuple[str, str], Rollup] = {}
        self._known_to = -1

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
