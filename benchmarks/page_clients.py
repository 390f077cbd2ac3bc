"""So many open pages without a browser: `python -m benchmarks.page_clients PAGES URL RUN OPENED`.

Each follows the run over a WebSocket and asks what the dashboard's overview or metrics page asks, as often as that
does (`agenttune/dashboard/web/src`: `api/live.ts`, `api/queries.ts`, `charts/useCurves.ts`, `pages/overview`). What a
browser does with the answers, to draw them, is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ROWS_TURN_S, SETTLE_S = 3.0, 0.15
"""`api/live.ts`: curves are asked for again once the rows' time has come so far."""
AGAIN_S = 0.3
INFO_S, AGENT_S, ROW_S = 5.0, 5.0, 4.0
ON_OVERVIEW, ON_METRICS = 3, 9
"""Charts that are on screen."""


class PageClient:
    """One page."""

    def __init__(self, http: httpx.AsyncClient, url: str, run_id: str, charts: int) -> None:
        self._http, self._charts = http, charts
        self._run = f"{url}/api/v1/runs/{quote(run_id)}"
        self._row = f"{url}/api/v1/overview?search={quote(run_id)}&limit=20"
        self._socket = f"{self._run.replace('http', 'ws', 1)}/events/live?points=true&from_now=true"
        self._rows = asyncio.Event()
        self._turn = 0

    async def look(self, opened: asyncio.Event) -> None:
        """Read all of it once, then follow for ever."""
        metrics = await self._first()
        opened.set()
        names = "&".join(f"name={quote(metric)}" for metric in metrics)
        await asyncio.gather(
            self._follow(),
            self._after_rows(f"{self._run}/curves?{names}&branch=main&axis=step&max_points=800"),
            self._every(INFO_S, self._run),
            self._every(AGENT_S, f"{self._run}/agent"),
            self._every(ROW_S, self._row),
        )

    async def _first(self) -> Sequence[str]:
        series = (await self._get(f"{self._run}/metrics?branch=main"))["series"]
        for part in ("history?limit=1000", "findings?limit=1000", "branches", "commands"):
            await self._get(f"{self._run}/{part}")
        return [one["name"] for one in series[: self._charts]]

    async def _get(self, address: str) -> Mapping[str, Any]:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._http.get(address)
                answer.raise_for_status()
                found: Mapping[str, Any] = answer.json()
                return found
            await asyncio.sleep(AGAIN_S)  # either side was stopped for too long

    async def _every(self, pause_s: float, address: str) -> None:
        while True:
            await self._get(address)
            await asyncio.sleep(pause_s)

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(ConnectionClosed, OSError):
                async with connect(self._socket, max_size=None, proxy=None, ping_interval=None) as socket:
                    async for frame in socket:
                        told = json.loads(frame)
                        if told["type"] == "points" and self._is_new_turn(told["points"][-1]["at_s"]):
                            self._rows.set()
            await asyncio.sleep(AGAIN_S)

    def _is_new_turn(self, at_s: float) -> bool:
        before, self._turn = self._turn, int(at_s // ROWS_TURN_S)
        return self._turn != before

    async def _after_rows(self, curves: str) -> None:
        while True:
            await self._rows.wait()
            await asyncio.sleep(SETTLE_S)
            self._rows.clear()
            await asyncio.gather(self._get(f"{self._run}/metrics?branch=main"), self._get(curves))


async def look(pages: int, url: str, run_id: str, opened: Path) -> None:
    """Half of them look at the overview, half at all metrics."""
    limits = httpx.Limits(max_connections=6 * pages)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as http:
        ready = [asyncio.Event() for _ in range(pages)]
        clients = [PageClient(http, url, run_id, ON_METRICS if i % 2 else ON_OVERVIEW) for i in range(pages)]

        async def tell() -> None:
            for event in ready:
                await event.wait()
            opened.touch()

        await asyncio.gather(tell(), *(client.look(event) for client, event in zip(clients, ready, strict=True)))


def main() -> None:
    pages, url, run_id, opened = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(look(int(pages), url, run_id, Path(opened)))


if __name__ == "__main__":
    main()
