"""A run's log as text for other programs, a page at a time: events as JSON lines, metrics as one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from agenttune.control.run_logs import RunLogs
from agenttune.protocol.events import Event
from agenttune.protocol.reads import EventsQuery

PAGE_EVENTS, PAGE_ROWS = 500, 2000
"""In memory at once (guess: a few megabytes)."""
FIXED = ("step", "at_s", "branch", "source")
"""Columns of every table of metrics."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings by which spreadsheets take a text for a formula."""


def events_as_jsonl(
    logs: RunLogs, run_id: str, query: EventsQuery, shown: Callable[[Sequence[Event]], list[Event]]
) -> Iterator[str]:
    """All events that a read asks for, however many: one as JSON on each line, oldest first.

    Args:
        logs: The logs of the folder.
        run_id: The run.
        query: Which events; its `limit` does not count, nor does `wait_s`.
        shown: What of them who asks may see.
    """
    since = query.since
    while True:
        asked = query.model_copy(update={"since": since, "limit": PAGE_EVENTS, "before": None})
        page = logs.log(run_id).find_events(asked)
        if query.before is not None:
            page = [event for event in page if event.seq < query.before]
        if not page:
            return
        since = page[-1].seq
        yield "".join(f"{event.model_dump_json()}\n" for event in shown(page))


def metrics_as_csv(logs: RunLogs, run_id: str, names: Sequence[str], branches: Sequence[str]) -> Iterator[str]:
    """Rows of metrics in order of writing, as comma-separated values with a heading.

    Args:
        logs: The logs of the folder.
        run_id: The run.
        names: Metrics, a column each; none given: all that those branches have.
        branches: None given: all.
    """
    columns = list(dict.fromkeys(names)) or logs.log(run_id).metric_names(branches)
    yield _lines([[*FIXED, *map(_plain, columns)]])
    since, wanted, last = 0, set(branches), logs.log(run_id).last_point_id()
    while since < last and (rows := logs.log(run_id).points(since, PAGE_ROWS)):
        since = rows[-1].point_id
        lines = [
            [row.step, repr(row.at_s), _plain(row.branch), row.source, *(_number(row.values.get(c)) for c in columns)]
            for row in rows
            if (not wanted or row.branch in wanted) and (not names or any(c in row.values for c in columns))
        ]
        yield _lines(lines)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _plain(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _lines(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
