"""Commands in a log: a projection of its events, by id, state and author. The log's transactions hold the writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from agenttune.errors import UnknownCommandId
from agenttune.protocol.proposals import TAKEN, CommandRecord, Principal, State
from agenttune.store.log_connection import LogConnection, reading

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


class CommandTable(LogConnection):
    """The commands of a log."""

    def _add_command(self, record: CommandRecord) -> None:
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

    def _replace_command(self, record: CommandRecord) -> None:
        self._db.execute(
            "UPDATE commands SET state = ?, record = ? WHERE command_id = ?",
            (record.state.value, record.model_dump_json(), record.command_id),
        )

    @reading
    def find_command(self, command_id: str) -> CommandRecord | None:
        row = self._db.execute("SELECT record FROM commands WHERE command_id = ?", (command_id,)).fetchone()
        return _record(row[0]) if row else None

    def command(self, command_id: str) -> CommandRecord:
        """Raises UnknownCommandId if there is none of that id."""
        record = self.find_command(command_id)
        if record is None:
            raise UnknownCommandId(f"no command {command_id!r} in this run", field="command_id")
        return record

    @reading
    def commands(
        self, *states: State, limit: int = 1000, newest: bool = False, principal: Principal | None = None
    ) -> list[CommandRecord]:
        """Commands in order of submission, of all states or of those named; `newest`: the last `limit` of them."""
        rows = self._rows(states, principal, limit, "DESC" if newest else "ASC")
        return [_record(text) for _, text in (reversed(rows) if newest else rows)]

    @reading
    def commands_around(self, seq: int, count: int) -> list[CommandRecord]:
        """So many that were proposed last up to an event, and so many after it; in order of submission."""
        before = "SELECT record FROM commands WHERE submitted_seq <= ? ORDER BY submitted_seq DESC LIMIT ?"
        after = "SELECT record FROM commands WHERE submitted_seq > ? ORDER BY submitted_seq LIMIT ?"
        earlier = self._db.execute(before, (seq, count)).fetchall()[::-1]
        return [_record(text) for (text,) in [*earlier, *self._db.execute(after, (seq, count)).fetchall()]]

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

    @reading
    def count_commands(self, *states: State, principal: Principal | None = None) -> int:
        """How many commands there are, of all states or of those named."""
        where, arguments = _where(states, principal)
        return int(self._db.execute(f"SELECT count(*) FROM commands {where}", arguments).fetchone()[0])

    def count_returns(self) -> int:
        """How often agents went back to a checkpoint, or are about to."""
        return sum(c.goes_back() for c in self.commands(*TAKEN, principal="agent"))

    @reading
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
