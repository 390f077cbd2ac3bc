"""Commands in a log: a projection of its events, by id, state and author. The log's transactions hold the writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

from agenttune.protocol.proposals import CommandRecord, Principal, State

RECORDS_KEPT = 2048
"""Parsed command records kept, about 10 MB (guess: the newest of many runs)."""

COMMANDS_SCHEMA = """
CREATE TABLE commands (
    command_id TEXT PRIMARY KEY, state TEXT NOT NULL, principal TEXT NOT NULL, digest TEXT NOT NULL,
    submitted_seq INTEGER NOT NULL, record TEXT NOT NULL
);
CREATE INDEX commands_by_state ON commands (state, submitted_seq);
CREATE INDEX commands_by_principal ON commands (principal, submitted_seq);
CREATE INDEX commands_by_both ON commands (principal, state, submitted_seq);
"""


class CommandTable:
    """The table of commands.

    Args:
        connection: Of the log.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, record: CommandRecord) -> None:
        proposal = record.proposal
        self._db.execute(
            "INSERT INTO commands VALUES (?, ?, ?, ?, ?, ?)",
            (
                proposal.command_id,
                record.state.value,
                proposal.author.principal,
                proposal.digest(),
                record.submitted_seq,
                record.model_dump_json(),
            ),
        )

    def replace(self, record: CommandRecord) -> None:
        self._db.execute(
            "UPDATE commands SET state = ?, record = ? WHERE command_id = ?",
            (record.state.value, record.model_dump_json(), record.command_id),
        )

    def find(self, command_id: str) -> CommandRecord | None:
        row = self._db.execute("SELECT record FROM commands WHERE command_id = ?", (command_id,)).fetchone()
        return _record(row[0]) if row else None

    def oldest(self, states: Sequence[State], principal: Principal | None, limit: int) -> list[CommandRecord]:
        """The first ones in these states (none given: all), in order of submission."""
        return [_record(text) for _, text in self._rows(states, principal, limit, "ASC")]

    def newest(self, states: Sequence[State], principal: Principal | None, limit: int) -> list[CommandRecord]:
        """The last ones in these states (none given: all), in order of submission."""
        return [_record(text) for _, text in reversed(self._rows(states, principal, limit, "DESC"))]

    def _rows(
        self, states: Sequence[State], principal: Principal | None, limit: int, order: str
    ) -> list[tuple[int, str]]:
        # State by state: only then does the index give each state's in order, and SQLite merges them up to the limit;
        # with `state IN (...)` it reads and sorts them all.
        each = [_where((state,), principal) for state in dict.fromkeys(states)] or [_where((), principal)]
        selects = " UNION ALL ".join(f"SELECT submitted_seq, record FROM commands {where}" for where, _ in each)
        arguments = [argument for _, given in each for argument in given]
        sql = f"{selects} ORDER BY submitted_seq {order} LIMIT ?"
        return self._db.execute(sql, (*arguments, limit)).fetchall()

    def count(self, states: Sequence[State], principal: Principal | None) -> int:
        where, arguments = _where(states, principal)
        return int(self._db.execute(f"SELECT count(*) FROM commands {where}", arguments).fetchone()[0])

    def agent_proposed_at_s(self, back: int) -> float | None:
        """Unix time at which an agent made the proposal that is `back` before the newest; None if there are fewer."""
        sql = (
            "SELECT at_s FROM events WHERE seq = (SELECT submitted_seq FROM commands WHERE principal = 'agent' "
            "ORDER BY submitted_seq DESC LIMIT 1 OFFSET ?)"
        )
        row = self._db.execute(sql, (back,)).fetchone()
        return float(row[0]) if row else None


@lru_cache(RECORDS_KEPT)
def _record(text: str) -> CommandRecord:
    """A command's record; the same newest ones are read again at every look and every submission."""
    return CommandRecord.model_validate_json(text)


def _where(states: Sequence[State], principal: Principal | None) -> tuple[str, list[str]]:
    """The condition of a query over commands, with its arguments."""
    parts = [f"state IN ({','.join('?' * len(states))})"] if states else []
    arguments = [state.value for state in states]
    if principal is not None:
        parts.append("principal = ?")
        arguments.append(principal)
    return f"WHERE {' AND '.join(parts)}" if parts else "", arguments
