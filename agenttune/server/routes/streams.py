"""The route that follows a run live, over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from agenttune.protocol.reads import MAX_STEP, Cursor, PointsQuery
from agenttune.server.auth.guard import chosen_subprotocol
from agenttune.server.auth.identity import Identity
from agenttune.server.live_hub import PAGE, Ring, StreamEntry, Tail, event_entries, point_entries
from agenttune.server.request_context import Context, Ctx, RunId, Who

router = APIRouter()
BATCH = 100
SEND_TIMEOUT_S = 60.0
"""A client that takes in nothing of a batch for so long is dropped (a guess: longer than any pause of a page)."""


@router.websocket("/runs/{run_id}/events/live")
async def live(
    socket: WebSocket,
    run_id: RunId,
    context: Ctx,
    who: Who,
    since: Annotated[Cursor, Query()] = 0,
    from_now: Annotated[bool, Query(description="Only what comes from now on, whatever `since` says.")] = False,
    points: bool = False,
    points_since: Annotated[int | None, Query(ge=0, le=MAX_STEP)] = None,
) -> None:
    """Every event after a cursor, in order, each exactly once, one JSON frame each: `{"type": "event", "event": ...}`.

    With `points`, also metric rows: `{"type": "points", "points": [...], "next": cursor}`; from `points_since` on, by
    default from now.
    """
    async with context.hub.follow(run_id) as tail:
        await socket.accept(chosen_subprotocol(socket))
        streams = [event_stream(context, tail, tail.events.top if from_now else since)]
        if points:
            streams.append(_point_stream(context, tail, tail.points.top if points_since is None else points_since))
        # A send to a client that reads nothing never returns, so the end of the server must end it from outside.
        closing = context.hub.closing.wait()
        await until_first([_send_all(socket, tail, streams, who), until_gone(socket), closing])


@dataclass
class Stream:
    """One client's place in one stream."""

    ring: Ring
    cursor: int
    read: Callable[[int], list[StreamEntry]]

    async def upcoming(self) -> list[StreamEntry]:
        """The next frames: from the ring, or from the store for a client that has fallen behind."""
        entries = self.ring.after(self.cursor)
        if entries is None:
            entries = await run_in_threadpool(self.read, self.cursor)
        return entries[:BATCH]


def event_stream(context: Context, tail: Tail, since: int) -> Stream:
    def read(cursor: int) -> list[StreamEntry]:
        return event_entries(context.control.events(tail.run_id, cursor, BATCH))

    return Stream(tail.events, since, read)


def _point_stream(context: Context, tail: Tail, since: int) -> Stream:
    def read(cursor: int) -> list[StreamEntry]:
        query = PointsQuery(since=cursor, limit=PAGE)
        return point_entries(cursor, context.control.read(tail.run_id, query).points)

    return Stream(tail.points, since, read)


async def _send_all(socket: WebSocket, tail: Tail, streams: list[Stream], who: Identity) -> None:
    """Send what there is, wait for more, for ever."""
    while not tail.stopped:
        if tail.fault is not None:
            raise tail.fault
        changed, idle = tail.changed, True
        for stream in streams:
            entries = await stream.upcoming()
            if entries:
                await asyncio.wait_for(_send(socket, entries, who), SEND_TIMEOUT_S)
                stream.cursor, idle = entries[-1].upto, False
        if idle:
            await changed.wait()


async def _send(socket: WebSocket, entries: list[StreamEntry], who: Identity) -> None:
    for entry in entries:
        await socket.send_text(entry.text_for(who))


async def until_gone(socket: WebSocket) -> None:
    """Drop what the client says; returns when it leaves."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def until_first(works: list[Coroutine[Any, Any, object]]) -> None:
    """Run all until one ends, then end the others; a client that leaves or hangs is no error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, asyncio.TimeoutError)):
            raise end
