"""A log as JSON lines: a header, then every event in order. Streams, and writes nothing to the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from agenttune import __version__
from agenttune.errors import UserError
from agenttune.protocol.events import Event
from agenttune.store.journal.run_summary import newest_interventions
from agenttune.store.run_log import RunLog

FORMAT_NAME = "agenttune-events"
FORMAT_VERSION = 1
MOST_EFFECTS = 1000
"""Effects are computed for so many of the newest commands: each reads the curves around it."""


def jsonl(log: RunLog, since: int = 0) -> Iterator[str]:
    """The lines of an export, without line ends.

    Args:
        log: The run's log; what is written to it meanwhile is not part of the export.
        since: Only events with a larger `seq`.

    Raises:
        UserError: `since` lies beyond the log.
        StoreFault: The log cannot be read.
    """
    last = log.last_seq()
    if not 0 <= since <= last:
        raise UserError(
            f"--since {since}: this log has events 1 to {last}; give 0 to {last}", field="since", allowed=[0, last]
        )
    yield _header(log, since, last)
    for seq, at_s, step, branch, command_id, kind, body in log.event_rows(since, last):
        place = {"seq": seq, "at_s": at_s, "step": step, "branch": branch, "command_id": command_id, "kind": kind}
        # The body goes out as it lies in the log: nothing that another version wrote is lost or turned.
        yield f'{json.dumps(place)[:-1]}, "body": {body}}}'


def _header(log: RunLog, since: int, last: int) -> str:
    info = log.info()
    return json.dumps(
        {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "agenttune_version": __version__,
            "exported_at_s": time.time(),
            "since": since,
            "last_seq": last,
            "run": info.model_dump(mode="json"),
            "effects": effects(log),
        }
    )


def effects(log: RunLog) -> dict[str, dict[str, Any]]:
    """The effect of each change by command id; it is computed, and in no event."""
    found = newest_interventions(log, log.info(), MOST_EFFECTS)
    return {one.command_id: one.effect.model_dump(mode="json") for one in found if one.effect is not None}


def read_jsonl(lines: Iterable[str]) -> Iterator[Event]:
    """The events of an export.

    Raises:
        UserError: It is none, or of a newer format.
        pydantic.ValidationError: A line is no event that this version knows.
    """
    rest = iter(lines)
    first = next(rest, "")
    header = json.loads(first) if first.startswith("{") else {}
    if header.get("format") != FORMAT_NAME or header.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"the first line is no header of {FORMAT_NAME} version {FORMAT_VERSION}; "
            "write one with: agenttune report --format jsonl"
        )
    for line in rest:
        raw = json.loads(line)
        raw.pop("kind")
        yield Event.model_validate_json(json.dumps(raw))
