"""Events in a log: appended, read, never changed. The log's transactions hold the writes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from agenttune.protocol.events import BODY, BranchStarted, Event
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.metrics import decode_number
from agenttune.protocol.overview import Spent
from agenttune.protocol.proposals import Record
from agenttune.protocol.reads import EventsQuery
from agenttune.store.log_connection import LogConnection, reading

EVENT_ROWS = 100
"""Events in memory at once where all of them are read: a transcript may hold megabytes."""
EVENTS_KEPT, KEPT_CHARACTERS = 2048, 2000
"""Parsed events kept, of bodies up to that length: about 10 MB (guess: the newest of many runs)."""
MOST_BRANCHES = 100_000
"""Starts of branches that are read for a lineage (guess: more than any run has)."""

UNSAID = "iif(kind = 'model_called', json_set(body, '$.messages', json('[]'), '$.answer', NULL), body)"
"""An event's body without what was said to a model, which not everybody may read, nor find by searching."""

EVENTS_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, kind TEXT NOT NULL, step INTEGER,
    branch TEXT NOT NULL, command_id TEXT, body TEXT NOT NULL
);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX events_by_command ON events (command_id, seq) WHERE command_id IS NOT NULL;
"""


class CallNote(NamedTuple):
    """A call of a language model: its place in the log, when it was (Unix time), and of which model."""

    seq: int
    at_s: float
    model: str


class EvaluatedAt(NamedTuple):
    """A metric's value in an evaluation, and where that was."""

    step: int
    branch: str
    value: float


class EventTable(LogConnection):
    """The events of a log."""

    def _add_event(self, body: Record, step: int | None, branch: str, command_id: str | None) -> int:
        """Append an event and return its `seq`."""
        cursor = self._db.execute(
            "INSERT INTO events (at_s, kind, step, branch, command_id, body) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time(), getattr(body, "kind"), step, branch, command_id, body.model_dump_json()),
        )
        return int(cursor.lastrowid or 0)

    @reading
    def events(
        self,
        since: int = 0,
        limit: int = 1000,
        kinds: Sequence[str] | None = None,
        command_id: str | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Events with `seq > since`, oldest first; with `newest`, the last `limit` of them (still oldest first)."""
        where, arguments = ["seq > ?"], [since]  # type: tuple[list[str], list[Any]]
        if kinds is not None:
            where.append(f"kind IN ({','.join('?' * len(kinds))})")
            arguments += list(kinds)
        if command_id is not None:
            where.append("command_id = ?")
            arguments.append(command_id)
        order = "DESC" if newest else "ASC"
        sql = (
            "SELECT seq, at_s, step, branch, command_id, body FROM events "
            f"WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"
        )
        rows = self._db.execute(sql, (*arguments, limit)).fetchall()
        events = [_event(row) for row in rows]
        return events[::-1] if newest else events

    def every_event(self, *kinds: str) -> Iterator[Event]:
        """All events of these kinds, oldest first; a page in memory at once, as a transcript may hold megabytes."""
        since = 0
        while page := self.events(since, EVENT_ROWS, kinds):
            yield from page
            since = page[-1].seq

    @reading
    def find_events(self, query: EventsQuery) -> list[Event]:
        """The events that a read asks for, oldest first."""
        where, arguments = _where(query)
        order = "ASC" if query.before is None else "DESC"
        body = "body" if query.texts else UNSAID
        sql = (
            f"SELECT seq, at_s, step, branch, command_id, {body} FROM events WHERE {where} ORDER BY seq {order} LIMIT ?"
        )
        events = [_event(row) for row in self._db.execute(sql, (*arguments, query.limit))]
        return events if query.before is None else events[::-1]

    def events_before(self, seq: int, kinds: Sequence[str], limit: int) -> list[Event]:
        """The newest events of these kinds before one, oldest first; without what was said to models."""
        return self.find_events(EventsQuery(before=max(1, seq), kinds=list(kinds), limit=limit, texts=False))

    def calls_before(self, seq: int, limit: int) -> list[Event]:
        """The newest calls of models before an event, oldest first, with all that was said."""
        return self.find_events(EventsQuery(before=max(1, seq), kinds=["model_called"], limit=limit))

    @reading
    def count_events(self, kind: str | None = None) -> dict[str, int]:
        """How many events there are of each kind, or of one."""
        where, arguments = ("", ()) if kind is None else ("WHERE kind = ?", (kind,))
        return dict(self._db.execute(f"SELECT kind, count(*) FROM events {where} GROUP BY kind", arguments).fetchall())

    @reading
    def model_calls_between(self, since: int, until: int) -> list[CallNote]:
        """The calls of models in `since < seq <= until`, oldest first, without what was said."""
        sql = (
            "SELECT seq, at_s, json_extract(body, '$.model') FROM events "
            "WHERE kind = 'model_called' AND seq > ? AND seq <= ? ORDER BY seq"
        )
        return [CallNote(*row) for row in self._db.execute(sql, (since, until))]

    @reading
    def evaluations(self, metric: str) -> list[EvaluatedAt]:
        """What evaluations have said of a metric, oldest first; the rest of them, which may be much, stays there."""
        # SQLite reads a number a bit otherwise than Python, and a name up to a NUL only.
        sql = "SELECT step, branch, json_extract(body, '$.metrics') FROM events WHERE kind = 'evaluated' ORDER BY seq"
        rows = ((step, branch, json.loads(metrics)) for step, branch, metrics in self._db.execute(sql))
        return [EvaluatedAt(step or 0, at, decode_number(of[metric])) for step, at, of in rows if metric in of]

    @reading
    def shadowed(self) -> list[Event]:
        """Decisions that tell what a policy in shadow would have asked for, oldest first."""
        sql = (
            "SELECT seq, at_s, step, branch, command_id, body FROM events "
            "WHERE kind = 'decided' AND json_array_length(body, '$.shadowed') > 0 ORDER BY seq"
        )
        return [_event(row) for row in self._db.execute(sql)]

    def event_rows(self, since: int, until: int) -> Iterator[tuple[Any, ...]]:
        """Events with `since < seq <= until` as they lie in the file, one at a time: memory does not grow.

        Yields:
            (seq, at_s, step, branch, command_id, kind, body); the body is JSON text.
        """
        while rows := self._event_rows(since, until):
            yield from rows
            since = rows[-1][0]

    @reading
    def _event_rows(self, since: int, until: int) -> list[tuple[Any, ...]]:
        sql = (
            "SELECT seq, at_s, step, branch, command_id, kind, body FROM events WHERE seq > ? AND seq <= ? "
            "ORDER BY seq LIMIT ?"
        )
        return self._db.execute(sql, (since, until, EVENT_ROWS)).fetchall()

    def lineage(self, branch: str) -> Lineage:
        """The branches that a branch stands on."""
        bodies = (event.body for event in self.events(0, MOST_BRANCHES, kinds=["branch_started"]))
        return Lineage.of(branch, [body for body in bodies if isinstance(body, BranchStarted)])

    def last_seq(self) -> int:
        row = self._db.execute("SELECT max(seq) FROM events").fetchone()
        return int(row[0] or 0)

    @reading
    def spent_on_models(self, since: int, until: int) -> Spent:
        """What calls of models took in `since < seq <= until`; what was said, which may be megabytes, stays there."""
        usage = [f"coalesce(json_extract(body, '$.usage.{name}_tokens'), 0)" for name in ("input", "output")]
        sql = f"""
            SELECT count(*), coalesce(sum({" + ".join(usage)}), 0),
                coalesce(sum(CASE WHEN typeof(usd) IN ('real', 'integer') AND usd >= 0 THEN usd END), 0.0),
                coalesce(sum(typeof(usd) NOT IN ('real', 'integer') AND (counted IS NOT NULL OR error = '')), 0)
            FROM (SELECT body, json_extract(body, '$.usd') AS usd, json_extract(body, '$.usage') AS counted,
                coalesce(json_extract(body, '$.error'), '') AS error
                FROM events WHERE kind = 'model_called' AND seq > ? AND seq <= ?)"""
        calls, tokens, usd, unpriced = self._db.execute(sql, (since, until)).fetchone()
        return Spent(calls=calls, tokens=tokens, usd=None if unpriced else usd)

    @reading
    def extra_steps(self) -> int:
        """Training steps that probes took and gave back."""
        sql = "SELECT coalesce(sum(json_extract(body, '$.extra_steps')), 0) FROM events WHERE kind = 'probed'"
        return int(self._db.execute(sql).fetchone()[0])


def _where(query: EventsQuery) -> tuple[str, list[Any]]:
    """What a read asks for as a condition with its arguments."""
    parts: list[tuple[str, list[Any]]] = [("seq > ?", [query.since])]
    if query.before is not None:
        parts.append(("seq < ?", [query.before]))
    if query.kinds:
        parts.append((f"kind IN ({','.join('?' * len(query.kinds))})", list(query.kinds)))
    if query.command_id is not None:
        parts.append(("command_id = ?", [query.command_id]))
    if query.first_step is not None:
        parts.append(("step >= ?", [query.first_step]))
    if query.last_step is not None:
        parts.append(("step <= ?", [query.last_step]))
    if query.search:
        escaped = re.sub(r"([%_\\])", r"\\\1", json.dumps(query.search, ensure_ascii=False)[1:-1])
        parts.append((f"({UNSAID} LIKE ? ESCAPE '\\' OR branch LIKE ? ESCAPE '\\')", [f"%{escaped}%"] * 2))
    return " AND ".join(condition for condition, _ in parts), [value for _, values in parts for value in values]


def _event(row: tuple[Any, ...]) -> Event:
    return _kept(row) if len(row[-1]) <= KEPT_CHARACTERS else _parsed(row)


@lru_cache(EVENTS_KEPT)
def _kept(row: tuple[Any, ...]) -> Event:
    """An event; it never changes, and the same newest ones are read again at every look."""
    return _parsed(row)


def _parsed(row: tuple[Any, ...]) -> Event:
    seq, at_s, step, branch, command_id, body = row
    return Event(seq=seq, at_s=at_s, step=step, branch=branch, command_id=command_id, body=BODY.validate_json(body))
