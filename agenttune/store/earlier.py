"""A run's log as it stood at an earlier event: for whoever asks what could be known then."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agenttune.protocol.events import KnobsRead
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.store.sqlite_file import connect_read_only

FORGET = (
    "DELETE FROM points WHERE at_s > (SELECT at_s FROM events WHERE seq = :seq)",
    "DELETE FROM commands WHERE submitted_seq >= :seq",
    "DELETE FROM events WHERE seq >= :seq",
    "DELETE FROM series",
    "DELETE FROM buckets",
    "UPDATE indexed SET point_id = 0",
)
"""What came at that event and later, and what is computed from rows. Commands of before keep the state that they came
to: one that was on its way is told of as if it had arrived."""


def copy_as_of(folder: Path, seq: int, into: Path) -> RunLog:
    """A copy of a run's log without an event and all that came after it.

    Args:
        folder: The run's folder, in which nothing is written.
        seq: Of the event.
        into: Folder of the copy; made.

    Raises:
        sqlite3.Error, OSError, StoreFault: The log cannot be read, or the copy not written.
    """
    into.mkdir(parents=True)
    source, copy = connect_read_only(folder / LOG_NAME), sqlite3.connect(into / LOG_NAME)
    try:
        source.backup(copy)
        step, branch = copy.execute("SELECT step, branch FROM events WHERE seq = ?", (seq,)).fetchone()
        with copy:
            for statement in FORGET:
                copy.execute(statement, {"seq": seq})
    finally:
        source.close()
        copy.close()
    log = RunLog.open(into)
    last_step = log.points(limit=1_000_000)[-1:]
    read = next((e.body for e in log.events(kinds=["knobs_read"], limit=1, newest=True)), None)
    known = {"knobs": read.knobs, "schedule": read.schedule, "facts": read.facts} if isinstance(read, KnobsRead) else {}
    at = step if step is not None else (last_step[0].step if last_step else 0)
    log.update_info(step=at, branch=branch, status="running", knobs_point_id=0, evaluating_step=None, **known)
    return log
