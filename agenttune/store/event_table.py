"""Events in a log: appended, read, never changed. The log's transactions hold the writes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from agenttune.protocol.events import BODY, BranchStarted, Event
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.proposals import Record

MOST_BRANCHES = 100_000
"""Starts of branches that are read for a lineage (guess: more than any run has)."""

EVENTS_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, kind TEXT NOT NULL, step INTEGER,
    branch TEXT NOT NULL, command_id TEXT, body TEXT NOT NULL
);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX events_by_command ON events (command_id, seq) WHERE command_id IS NOT NULL;
"""


class EventTable:
    """The table of events.

    Args:
        connection: Of the log.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, body: Record, step: int | None, branch: str, command_id: str | None) -> int:
        """Append an event and return its `seq`."""
        cursor = self._db.execute(
            "INSERT INTO events (at_s, kind, step, branch, command_id, body) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time(), getattr(body, "kind"), step, branch, command_id, body.model_dump_json()),
        )
        return int(cursor.lastrowid or 0)

    def read(
        self,
        since: int,
        limit: int,
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

    def rows(self, since: int, until: int, limit: int) -> list[tuple[Any, ...]]:
        """Events with `since < seq <= until` as they lie in the file, with their kind before the body."""
        sql = (
            "SELECT seq, at_s, step, branch, command_id, kind, body FROM events WHERE seq > ? AND seq <= ? "
            "ORDER BY seq LIMIT ?"
        )
        return self._db.execute(sql, (since, until, limit)).fetchall()

    def lineage(self, branch: str) -> Lineage:
        """The branches that a branch stands on."""
        bodies = (event.body for event in self.read(0, MOST_BRANCHES, kinds=["branch_started"]))
        return Lineage.of(branch, [body for body in bodies if isinstance(body, BranchStarted)])

    def last_seq(self) -> int:
        row = self._db.execute("SELECT max(seq) FROM events").fetchone()
        return int(row[0] or 0)

    def extra_steps(self) -> int:
        """Training steps that probes took and gave back."""
        sql = "SELECT coalesce(sum(json_extract(body, '$.extra_steps')), 0) FROM events WHERE kind = 'probed'"
        return int(self._db.execute(sql).fetchone()[0])


def _event(row: tuple[Any, ...]) -> Event:
    seq, at_s, step, branch, command_id, body = row
    return Event(seq=seq, at_s=at_s, step=step, branch=branch, command_id=command_id, body=BODY.validate_json(body))
