"""A run's identity card in its log: a projection of the events. The log's transactions hold the writes."""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from agenttune.events import TRIAL_PREFIX, RunInfo

INFOS_KEPT = 64
"""Parsed identity cards kept, about 2 MB (guess: more than the runs that one process looks at in turn)."""

RUN_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), info TEXT NOT NULL);
"""

_LAST_STEP = (
    # Trials of a probe are at steps that the run does not stand at.
    f"coalesce((SELECT step FROM points WHERE branch NOT LIKE '{TRIAL_PREFIX}%' ORDER BY point_id DESC LIMIT 1), 0)"
)


class RunCard:
    """The table of one row.

    Args:
        connection: Of the log.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def make(self, info: RunInfo) -> None:
        self._db.execute("INSERT INTO run VALUES (1, ?)", (info.model_dump_json(),))

    def stored(self) -> RunInfo:
        """As it was written last; the step is that of a run that has ended."""
        return _info(self._db.execute("SELECT info FROM run").fetchone()[0])

    def read(self) -> RunInfo:
        """With the step that the run stands at."""
        text, step = self._db.execute(f"SELECT info, {_LAST_STEP} FROM run").fetchone()
        info = _info(text)
        return info.model_copy(update={"step": max(info.step, step)})

    def place(self) -> tuple[int, str]:
        """The step and the branch that the run stands at."""
        row = self._db.execute(f"SELECT {_LAST_STEP}, json_extract(info, '$.branch') FROM run").fetchone()
        return int(row[0]), str(row[1])

    def update(self, **fields: object) -> None:
        info = self.stored().model_copy(update=fields)
        self._db.execute("UPDATE run SET info = ?", (info.model_dump_json(),))


@lru_cache(INFOS_KEPT)
def _info(text: str) -> RunInfo:
    """An identity card; the same one is read again at every look and every submission."""
    return RunInfo.model_validate_json(text)
