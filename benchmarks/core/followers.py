"""Do a hundred WebSocket clients each receive every event in order, and how soon?"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import connect

from agenttune.protocol.events import NoteAdded
from agenttune.store.run_log import RunLog
from benchmarks.core.processes import bench

PAUSE_S = 0.01
"""Between two events written while the clients listen."""
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Followers:
    """Clients in one process of their own core, so that the lag has the clients' own work in it.

    Attributes:
        clients: How many listen at once.
        events: Events that each should receive: half wait in the log, half are written while they listen.
        complete_clients: Clients that received every event once, in order.
        median_lag_ms: From an event's time in the log to its arrival, over all clients; live events only.
        p95_lag_ms: 95th percentile.
    """

    clients: int
    events: int
    complete_clients: int
    median_lag_ms: float
    p95_lag_ms: float


@dataclass
class _Follower:
    seqs: list[int] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, address: str, backlog: int, total: int) -> None:
        async with connect(address, max_size=None, proxy=None) as socket:
            async for frame in socket:
                event = json.loads(frame)["event"]
                self.seqs.append(event["seq"])
                if event["seq"] > backlog:
                    self.lags_ms.append((time.time() - event["at_s"]) * 1e3)
                if event["seq"] >= backlog:
                    self.caught_up.set()
                if event["seq"] >= total:
                    return


def measure_followers(folder: Path, clients: int = 100, events: int = 1000) -> Followers:
    with bench(folder) as server:
        log = server.new_run("followed")
        backlog = events // 2
        log.append(*(_note(number) for number in range(backlog)))
        address = f"{server.url.replace('http', 'ws', 1)}/api/v1/runs/followed/events/live?since=0"
        try:
            followers = asyncio.run(_follow_all(address, log, clients, backlog, events))
        finally:
            log.close()
    lags_ms = [lag for follower in followers for lag in follower.lags_ms]
    expected = list(range(1, events + 1))
    return Followers(
        clients=clients,
        events=events,
        complete_clients=sum(follower.seqs == expected for follower in followers),
        median_lag_ms=statistics.median(lags_ms),
        p95_lag_ms=statistics.quantiles(lags_ms, n=20, method="inclusive")[-1],
    )


async def _follow_all(address: str, log: RunLog, clients: int, backlog: int, total: int) -> list[_Follower]:
    followers = [_Follower() for _ in range(clients)]

    async def write() -> None:
        await asyncio.gather(*(follower.caught_up.wait() for follower in followers))
        for number in range(backlog, total):
            log.append(_note(number))
            await asyncio.sleep(PAUSE_S)

    listening = [follower.follow(address, backlog, total) for follower in followers]
    await asyncio.wait_for(asyncio.gather(write(), *listening), TIMEOUT_S)
    return followers


def _note(number: int) -> NoteAdded:
    return NoteAdded(text=f"event {number} of the benchmark, with a text as long as a short reason", author="benchmark")
