"""Following runs for many clients: one reader per followed run, one cursor per client.

The reader looks every 20 ms whether the log was written to, and only while somebody listens. An event is passed on at
once; rows of metrics, of which a fast training writes hundreds a second, a few times a second together. What is new is
encoded once and kept in a ring of bounded size; a client takes from the ring what follows its own cursor, and reads
from the store if it has fallen behind. So a slow client delays nobody and costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agenttune.control import LocalControl
from agenttune.errors import AgenttuneError, SystemFault
from agenttune.protocol.events import Event
from agenttune.protocol.metrics import StoredPoint
from agenttune.server.auth.identity import Identity
from agenttune.server.auth.rights import ROLES, Right, without_texts
from agenttune.server.schemas import EventFrame, PointsFrame

POLL_S = 0.02
ROWS_S = 0.2
"""Between two frames of rows: each is work for every page, whose curves nobody sees move faster (guess)."""
STATUS_POLL_S = 2.0
"""How often a followed run's process is looked at: a killed trainer cannot say itself that it is gone."""
PAGE = 500
RING_ENTRIES = 2000
RING_CHARS = 4_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class StreamEntry:
    """A frame, the cursors before and after it, and how many events or rows are in it.

    Attributes:
        public: The frame for those who may not read what was said to models; None: the same.
    """

    after: int
    upto: int
    text: str
    count: int = 1
    public: str | None = None

    @property
    def chars(self) -> int:
        return len(self.text) + len(self.public or "")

    def text_for(self, identity: Identity) -> str:
        return self.text if self.public is None or Right.RULES in ROLES[identity.principal] else self.public


class Ring:
    """The newest frames of a stream, without a gap between `floor` and `top`."""

    def __init__(self, start: int) -> None:
        self.floor = self.top = start
        self._entries: deque[StreamEntry] = deque()
        self._chars = 0

    def add(self, entry: StreamEntry) -> None:
        self._entries.append(entry)
        self._chars += entry.chars
        self.top = entry.upto
        while len(self._entries) > RING_ENTRIES or self._chars > RING_CHARS:
            oldest = self._entries.popleft()
            self._chars -= oldest.chars
            self.floor = oldest.upto

    def after(self, cursor: int) -> list[StreamEntry] | None:
        """The frames that follow a cursor; None if they are not (all) here and must be read from the store."""
        if cursor < self.floor:
            return None
        found: list[StreamEntry] = []
        for entry in reversed(self._entries):
            if entry.upto <= cursor:
                break
            found.append(entry)
        if found and found[-1].after < cursor:
            return None
        return found[::-1]


def event_entries(events: list[Event]) -> list[StreamEntry]:
    """One frame per event."""
    return [_event_entry(event) for event in events]


def _event_entry(event: Event) -> StreamEntry:
    public = without_texts(event)
    said = None if public is event else EventFrame(event=public).model_dump_json()
    return StreamEntry(event.seq - 1, event.seq, EventFrame(event=event).model_dump_json(), public=said)


def point_entries(after: int, points: list[StoredPoint]) -> list[StreamEntry]:
    """One frame for all of them."""
    if not points:
        return []
    upto = points[-1].point_id
    return [StreamEntry(after, upto, PointsFrame(points=points, next=upto).model_dump_json(), len(points))]


class Tail:
    """The live end of one run's log.

    Attributes:
        changed: Set, and replaced, at the next news. Take it before you look, wait for it after.
        fault: What ended the following, if something did.
    """

    def __init__(self, run_id: str, control: LocalControl, executor: ThreadPoolExecutor) -> None:
        self.run_id = run_id
        self.changed = asyncio.Event()
        self.fault: AgenttuneError | None = None
        self.listeners = 0
        self.stopped = False
        self._control = control
        self._executor = executor
        self._status_at = time.monotonic()
        self._rows_at = 0.0
        self._rows_wait = False

    async def start(self) -> None:
        """Find the log's end and follow it from there."""
        self._log = await self._in_thread(lambda: self._control.tail(self.run_id))
        self.events, self.points = Ring(self._log.last_seq), Ring(self._log.last_point_id)
        self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        """End the following, and with it every wait for it."""
        if self.stopped:
            return
        self.stopped = True
        self._task.cancel()
        self._announce()
        self._executor.submit(self._log.close)

    async def past(self, seq: int, deadline: float) -> bool:
        """Wait for an event after `seq`, until `deadline` on the monotonic clock.

        Raises:
            AgenttuneError: The log can no longer be followed.
        """
        while self.events.top <= seq and not self.stopped:
            if self.fault is not None:
                raise self.fault
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left)
        return not self.stopped

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _follow(self) -> None:
        try:
            while True:
                if time.monotonic() - self._status_at > STATUS_POLL_S:
                    self._status_at = time.monotonic()
                    await self._in_thread(lambda: self._control.info(self.run_id))
                if self._log.may_have_changed() or (self._rows_wait and self._rows_are_due()):
                    await self._take_news()
                await asyncio.sleep(POLL_S)
        except AgenttuneError as error:
            self.fault = error
            self._announce()

    async def _take_news(self) -> None:
        """Read on until nothing is left, page by page."""
        with_rows = self._rows_are_due()
        self._rows_wait = not with_rows
        self._rows_at = time.monotonic() if with_rows else self._rows_at
        more = True
        while more:
            events, points = await self._in_thread(lambda: self._read(with_rows))
            for entry in events:
                self.events.add(entry)
            for entry in points:
                self.points.add(entry)
            if events or points:
                self._announce()
            more = len(events) == PAGE or any(entry.count == PAGE for entry in points)

    def _rows_are_due(self) -> bool:
        return time.monotonic() - self._rows_at >= ROWS_S

    def _read(self, with_rows: bool) -> tuple[list[StreamEntry], list[StreamEntry]]:
        """The next page of events, and of rows if it is their turn. Runs in the hub's thread."""
        events = event_entries(self._log.events(self.events.top, PAGE))
        rows = self._log.points(self.points.top, PAGE) if with_rows else []
        return events, point_entries(self.points.top, rows)

    def _announce(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Hub:
    """All followed runs of a server."""

    def __init__(self, control: LocalControl) -> None:
        self.closing = asyncio.Event()
        self._control = control
        self._tails: dict[str, Tail] = {}
        self._starting = asyncio.Lock()
        # One thread of its own: requests that fill the server's pool cannot hold up the live streams.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="live")

    @contextlib.asynccontextmanager
    async def follow(self, run_id: str) -> AsyncIterator[Tail]:
        """A run's live end, shared with everyone who follows it; nothing is read once nobody does."""
        async with self._starting:
            if self.closing.is_set():
                raise SystemFault("the control server is going down; ask again")
            tail = self._tails.get(run_id)
            if tail is None or tail.fault is not None:
                tail = Tail(run_id, self._control, self._executor)
                await tail.start()
                self._tails[run_id] = tail
            tail.listeners += 1
        try:
            yield tail
        finally:
            tail.listeners -= 1
            if tail.listeners == 0:
                tail.stop()
                if self._tails.get(run_id) is tail:
                    del self._tails[run_id]

    def close(self) -> None:
        """End every wait: the server is going down."""
        self.closing.set()
        for tail in self._tails.values():
            tail.stop()
        self._executor.shutdown(wait=False)
