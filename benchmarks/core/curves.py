"""A downsampled curve of one metric from a run of a million points, over HTTP."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from agenttune.protocol.metrics import Point
from benchmarks.core.processes import bench

REQUESTS = 20
BATCH = 5000
"""Points of one transaction while the run is made."""


@dataclass(frozen=True)
class CurveRequest:
    """Requests for the whole of one metric, at the server's default of at most 1000 entries.

    Attributes:
        points: Rows of the run, each with loss, gradient norm and learning rate.
        entries: Entries of the answer.
        median_ms: Median time of a request, connection kept open, JSON decoded by nobody.
        worst_ms: The longest of the requests, the first one (cold) included.
        answer_bytes: Size of the answer's body.
        append_us: Time per row to write the run, in microseconds.
        log_bytes: Size of the run's log.
    """

    points: int
    entries: int
    median_ms: float
    worst_ms: float
    answer_bytes: int
    append_us: float
    log_bytes: int


def measure_curve(folder: Path, points: int = 1_000_000) -> CurveRequest:
    with bench(folder) as server:
        log = server.new_run("million")
        began = time.perf_counter()
        for batch in _batches(points):
            log.append_points(batch)
        append_us = (time.perf_counter() - began) / points * 1e6
        log.close()
        times_ms = []
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            for _ in range(REQUESTS):
                began = time.perf_counter()
                answer = client.get("/api/v1/runs/million/metrics/loss").raise_for_status()
                times_ms.append((time.perf_counter() - began) * 1e3)
        return CurveRequest(
            points=points,
            entries=len(answer.json()["steps"]),
            median_ms=statistics.median(times_ms),
            worst_ms=max(times_ms),
            answer_bytes=len(answer.content),
            append_us=append_us,
            log_bytes=sum(file.stat().st_size for file in (server.runs_dir / "million").iterdir()),
        )


def _batches(points: int) -> Iterator[list[Point]]:
    """A loss that falls with noise, as digits as long as a real one's."""
    noise = random.Random(0)
    for first in range(1, points + 1, BATCH):
        steps = range(first, min(first + BATCH, points + 1))
        yield [
            Point(
                step=step,
                at_s=1.7e9 + step / 20,
                values={
                    "loss": 1.5 + 3 * math.exp(-step / points * 5) + noise.gauss(0, 0.1),
                    "grad_norm": abs(noise.gauss(1, 0.3)),
                    "lr": 1e-3 * (1 - step / (points + 1)),
                },
            )
            for step in steps
        ]
