"""A run's identity card in its log: a projection of the events. The log's transactions hold the writes."""

from __future__ import annotations

import math
import sqlite3
from functools import lru_cache

from agenttune.protocol.events import TRIAL_PREFIX
from agenttune.protocol.metrics import decode_number, rate_name
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.metric_table import values_in

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
        step = max(info.step, step)
        return info.model_copy(update={"step": step, **self._with_rates(info, step)})

    def _with_rates(self, info: RunInfo, step: int) -> dict[str, object]:
        """Knobs, with the rates of the newest step, which a schedule moves, and of the schedule what lies ahead of it.

        The rates of all groups are read at once.
        """
        if not any(knob.name == "lr" for knob in info.knobs):
            return {}
        # The plus signs keep SQLite from sorting what an index of branches finds: the newest row is the first it meets.
        row = self._db.execute(
            "SELECT metrics FROM points WHERE point_id > ? AND +branch = ? AND +source = 'step' "
            "ORDER BY point_id DESC LIMIT 1",
            (info.knobs_point_id, info.branch),
        ).fetchone()
        values = {} if row is None else {name: decode_number(value) for name, value in values_in(row[0]).items()}
        knobs = [_as_of(knob, values) if knob.name == "lr" else knob for knob in info.knobs]
        if info.schedule is None:
            return {"knobs": knobs}
        rate = next(knob for knob in knobs if knob.name == "lr")
        rates = (rate.groups or [rate.effective]) if math.isfinite(values.get("lr", math.nan)) else None
        return {"knobs": knobs, "schedule": info.schedule.from_now(step, rates)}

    def place(self) -> tuple[int, str]:
        """The step and the branch that the run stands at."""
        row = self._db.execute(f"SELECT {_LAST_STEP}, json_extract(info, '$.branch') FROM run").fetchone()
        return int(row[0]), str(row[1])

    def update(self, **fields: object) -> None:
        info = self.stored().model_copy(update=fields)
        self._db.execute("UPDATE run SET info = ?", (info.model_dump_json(),))


def _as_of(knob: KnobState, values: dict[str, float]) -> KnobState:
    """The learning rates as a step left them."""
    if "lr" not in values:
        return knob
    base = values.get("base_lr", knob.base)
    fields: dict[str, object] = {"effective": values["lr"], "base": base}
    if knob.base_groups is None:  # an older version's, whose rows tell of the first group only
        return knob.model_copy(update={**fields, "groups": None})
    groups = range(len(knob.base_groups))
    fields["groups"] = [values.get(rate_name("lr", group), values["lr"]) for group in groups]
    fields["base_groups"] = [values.get(rate_name("base_lr", group), base) for group in groups]
    return knob.model_copy(update=fields)


@lru_cache(INFOS_KEPT)
def _info(text: str) -> RunInfo:
    """An identity card; the same one is read again at every look and every submission."""
    return RunInfo.model_validate_json(text)
