"""The checkpoints of a run that can still be loaded, folded from its events."""

from __future__ import annotations

from agenttune.protocol.events import (
    CheckpointDeleted,
    CheckpointLabelled,
    CheckpointMoved,
    CheckpointSaved,
    Event,
)
from agenttune.store.process_liveness import may_be_alive
from agenttune.store.run_log import RunLog

CHECKPOINT_KINDS = ("checkpoint_saved", "checkpoint_moved", "checkpoint_labelled", "checkpoint_deleted")
MOST_CHECKPOINTS = 20_000
"""Events about checkpoints that are read of one run (guess: far more than a disk holds)."""


def existing_checkpoints(log: RunLog, most_events: int = MOST_CHECKPOINTS) -> list[Event]:
    """`checkpoint_saved` events of the checkpoints that were not deleted, oldest first: path, tag and pin as now.

    What was kept in memory is among them also once the process that held it has ended: a policy saw it then.
    """
    left: dict[str, Event] = {}
    for event in log.events(kinds=CHECKPOINT_KINDS, limit=most_events, newest=True):
        if isinstance(event.body, CheckpointSaved):
            left[event.body.checkpoint_id] = event
        elif isinstance(event.body, CheckpointDeleted):
            left.pop(event.body.checkpoint_id, None)
        elif isinstance(event.body, (CheckpointMoved, CheckpointLabelled)) and event.body.checkpoint_id in left:
            saved = left[event.body.checkpoint_id]
            body = saved.body.model_copy(update=event.body.model_dump(exclude={"kind", "checkpoint_id"}))
            left[event.body.checkpoint_id] = saved.model_copy(update={"body": body})
    return list(left.values())


def loadable_checkpoints(log: RunLog) -> list[Event]:
    """The same without those that went with the memory of a process that has ended."""
    has_memory = may_be_alive(log.info())
    return [event for event in existing_checkpoints(log) if has_memory or not _is_in_memory(event)]


def _is_in_memory(event: Event) -> bool:
    return isinstance(event.body, CheckpointSaved) and event.body.keep_in == "memory"


def newest_on_disk(log: RunLog) -> Event | None:
    """The newest checkpoint of the run's own that lies on disk and can be loaded."""
    saved = [e for e in existing_checkpoints(log) if isinstance(e.body, CheckpointSaved) and not e.body.is_before]
    on_disk = [e for e in saved if isinstance(e.body, CheckpointSaved) and e.body.path and not e.body.problem]
    return max(on_disk, key=lambda e: e.seq, default=None)
