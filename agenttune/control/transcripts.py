"""All that was said to a language model in one call; texts that the log has with an earlier call are filled in."""

from __future__ import annotations

from agenttune.errors import UserError
from agenttune.protocol.events import Event
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.reads import Transcript
from agenttune.store.run_log import RunLog

PAGE = 100
"""Calls in memory at once: each may hold megabytes."""


def transcript_of(log: RunLog, seq: int) -> Transcript:
    """One call of a model.

    Raises:
        UserError: That event is no call of a model.
    """
    found = log.events(seq - 1, 1, ["model_called"])
    if not found or found[0].seq != seq or not isinstance(found[0].body, ModelCalled):
        calls = [call.seq for call in log.model_calls_between(0, log.last_seq())][-10:]
        there = ", ".join(map(str, calls)) or "none"
        raise UserError(f"event {seq} is no call of a model; the newest are: {there}", field="seq", allowed=calls)
    event, call = found[0], found[0].body
    known = _texts(log, event, {m.sha256 for m in call.messages if m.content is None and m.sha256})
    messages = [
        m.model_copy(update={"content": known.get(m.sha256)}) if m.content is None and m.sha256 else m
        for m in call.messages
    ]
    return Transcript(seq=seq, step=event.step, at_s=event.at_s, call=call.model_copy(update={"messages": messages}))


def _texts(log: RunLog, event: Event, missing: set[str | None]) -> dict[str, str]:
    """Texts that earlier calls were sent, by their hashes; looked for backwards until all are found."""
    known: dict[str, str] = {}
    before = event.seq
    while missing - known.keys() and (page := log.calls_before(before, PAGE)):
        before = page[0].seq
        for earlier in page:
            for message in earlier.body.messages if isinstance(earlier.body, ModelCalled) else ():
                if message.content is not None and message.sha256 in missing and message.sha256 is not None:
                    known[message.sha256] = message.content
    return known
