"""The log's events as the frames of v1's WebSocket.

An event becomes no frame, one or a few. The frames of an event are the same for every client: they are made once and
kept for those who come to it later.
"""

from __future__ import annotations

import json
import threading
import uuid
from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import Any

from agenttune.control import LocalControl
from agenttune.protocol import events
from agenttune.protocol.events import Event
from agenttune.protocol.proposals import Ack, CommandRecord
from agenttune.protocol.reads import Checkpoint
from agenttune.protocol.run_info import LIVE
from agenttune.server.live_hub import StreamEntry
from agenttune.server.schemas import EventFrame
from agenttune.server.v1_compat.commands import (
    AUTHOR,
    Kept,
    Sent,
    is_optimizer_form,
    kept_of,
    optimizer_args,
    request_of,
)
from agenttune.server.v1_compat.shapes import (
    Json,
    branch_info,
    checkpoint,
    dataset_info,
    log_events,
    log_metrics,
    to_json,
    train_state,
)

KEPT_EVENTS = 4000
"""Events whose frames are kept: twice what the live ring holds."""
NAMES = uuid.UUID("5a1f6c1e-6a0b-5b5e-9d6f-0f6f2a7f7007")
"""Namespace of the uuids of events that are no answers; a fixed random one."""
Frames = list[str]


class Translator:
    """Makes v1's frames of a server's runs. Safe to share between threads."""

    def __init__(self, control: LocalControl) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, int], Frames] = OrderedDict()
        self._log_points: dict[str, LogPoints] = {}

    def known(self, run_id: str, entries: list[StreamEntry]) -> list[Frames] | None:
        """The frames of these events if all have been made; costs nothing."""
        with self._lock:
            found = [self._made.get((run_id, entry.upto)) for entry in entries]
        return None if None in found else [frames for frames in found if frames is not None]

    def frames(self, run_id: str, entries: list[StreamEntry]) -> list[Frames]:
        """The frames of each of these events; reads the log."""
        return [self._kept(run_id, entry) for entry in entries]

    def _kept(self, run_id: str, entry: StreamEntry) -> Frames:
        key = (run_id, entry.upto)
        with self._lock:
            known = self._made.get(key)
        if known is not None:
            return known
        made = [to_json(frame) for frame in self._translate(run_id, EventFrame.model_validate_json(entry.text).event)]
        with self._lock:
            self._made[key] = made
            while len(self._made) > KEPT_EVENTS:
                self._made.popitem(last=False)
        return made

    def _translate(self, run_id: str, event: Event) -> list[Json]:
        body = event.body
        if isinstance(body, (events.Logged, events.Evaluated)):
            return [self._log_update(run_id, event)]
        if isinstance(body, events.Proposed):
            sent = request_of(body.proposal)
            return [sent.event("pending")] if sent is not None else []
        if isinstance(body, events.Judged) and body.verdict.decision in ("rejected", "expired", "superseded"):
            sent = request_of(self._record(run_id, event).proposal)
            return [sent.event("failed", message=body.verdict.reason)] if sent is not None else []
        if isinstance(body, events.Acked):
            return self._answer(run_id, event, body.ack)
        if isinstance(body, events.NoteAdded):
            return _without_proposal(body)
        if isinstance(body, events.CheckpointSaved) and not body.kept_as:
            return [_notice(run_id, event, "checkpoint_info_update", checkpoint(Checkpoint.of(event)))]
        if isinstance(body, (events.DatasetRead, events.ModelRead)):
            return self._reading(run_id, event)
        return []

    def _reading(self, run_id: str, event: Event) -> list[Json]:
        """Model and dataset are told after each change, and at the start together, the dataset first."""
        at_start = event.command_id is None
        if isinstance(event.body, events.ModelRead) and at_start:
            return [self._dataset(run_id, event), self._state(run_id, event)]
        if at_start or self._is_of_load(run_id, event):  # told with the model; told with the answer to the load
            return []
        return [
            self._state(run_id, event) if isinstance(event.body, events.ModelRead) else self._dataset(run_id, event)
        ]

    def _record(self, run_id: str, event: Event) -> CommandRecord:
        return self._control.command(run_id, event.command_id or "")

    def _is_of_load(self, run_id: str, event: Event) -> bool:
        """Whether the event belongs to a load, whose answer is followed by model and dataset anyway."""
        return self._record(run_id, event).proposal.command.kind == "load_checkpoint"

    def _log_update(self, run_id: str, event: Event) -> Json:
        with self._lock:
            points = self._log_points.setdefault(run_id, LogPoints())
        point = {
            "local_step": points.number(self._control, run_id, event.seq),
            "wall_time": event.at_s,
            "branch_id": event.branch,
            "metrics": log_metrics(event),
        }
        return _notice(run_id, event, "log_update", point)

    def _dataset(self, run_id: str, event: Event) -> Json:
        return _notice(run_id, event, "initial_dataset_information", dataset_info(self._control, run_id))

    def _state(self, run_id: str, event: Event) -> Json:
        return _notice(run_id, event, "train_state_update", train_state(self._control, self._control.info(run_id)))

    # -- answers ----------------------------------------------------------------------------------------------

    def _answer(self, run_id: str, event: Event, ack: Ack) -> list[Json]:
        proposal = self._record(run_id, event).proposal
        sent = request_of(proposal)
        if sent is None:
            return []
        if ack.outcome != "applied":
            return [sent.event("failed", message=ack.message)]
        message = {"message": ack.message} if ack.message else {}
        if sent.command == "load_checkpoint":
            success = sent.event("success", args=to_json(self._loaded(run_id, event, sent)), **message)
            return [sent.event("running"), success, self._dataset(run_id, event), self._state(run_id, event)]
        kept = kept_of(proposal)
        if kept is not None and kept.said:
            words = f"{ack.message}; {kept.said}" if ack.message else kept.said
            return [sent.event("success", args=_with_base(kept), message=words)]
        if sent.command == "update_optimizer" and not is_optimizer_form(sent.args):
            return [sent.event("success", args=_in_force(ack), **message)]
        return [sent.event("success", **message)]

    def _loaded(self, run_id: str, event: Event, sent: Sent) -> Json:
        """The args of a load with the branch that it began; written in one transaction with the answer."""
        asked = _object(sent.args)
        for other in self._control.events_of(run_id, event.command_id or "", "branch_started"):
            if isinstance(other.body, events.BranchStarted):
                started = other.body
                info = branch_info(started.name, other.at_s, started.parent)
                return asked | {"branch_name": started.name, "branch_info": info}
        return asked | {"branch_name": event.branch, "branch_info": branch_info(event.branch, event.at_s, None)}


class LogPoints:
    """Numbers a run's log points, from 1, over all branches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seqs: array[int] = array("q")

    def number(self, control: LocalControl, run_id: str, seq: int) -> int:
        """How many log points there are up to `seq`."""
        with self._lock:
            last = self._seqs[-1] if self._seqs else 0
            if last < seq:
                self._seqs.extend(event.seq for event in log_events(control, run_id, last))
            return bisect_right(self._seqs, seq)


def ends_run(entry: StreamEntry) -> bool:
    """Whether the event says that its run has ended."""
    if '"kind":"status_changed"' not in entry.text:
        return False
    body = EventFrame.model_validate_json(entry.text).event.body
    return isinstance(body, events.StatusChanged) and body.status not in LIVE


def _object(args: str | None) -> Json:
    """Args that were understood once, as an object."""
    decoded: Any = json.loads(args or "{}")
    return decoded if isinstance(decoded, dict) else {}


def _without_proposal(note: events.NoteAdded) -> list[Json]:
    """A request that was never proposed, for it could not be understood or asks for nothing new: its client hears."""
    kept = Kept.read(note.text) if note.author == AUTHOR.name else None
    if kept is None:
        return []
    sent = kept.sent()
    if kept.refused:
        return [sent.event("pending"), sent.event("failed", message=kept.refused)]
    return [sent.event("pending"), sent.event("success", args=_with_base(kept), message=kept.said)]


def _with_base(kept: Kept) -> str | None:
    """The args of a request with the base rate that stays, in the form that v1's page reads."""
    asked = {name: value["value"] if isinstance(value, dict) else value for name, value in _object(kept.args).items()}
    return optimizer_args(asked | {"lr": kept.base_lr})


def _in_force(ack: Ack) -> str:
    return optimizer_args({c.name: c.base if c.base is not None else c.effective for c in ack.changes})


def _notice(run_id: str, event: Event, command: str, args: object) -> Json:
    """An event that answers nobody, with an id that is the same for every client."""
    return {
        "status": "success",
        "command": command,
        "args": to_json(args),
        "uuid": str(uuid.uuid5(NAMES, f"{run_id}/{event.seq}/{command}")),
        "time": event.at_s,
    }
