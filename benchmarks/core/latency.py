"""From the POST of a command to its effect in the optimizer."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx

from agenttune.control.tokens import create_token
from agenttune.store.run_log import RunLog
from benchmarks.core.processes import (
    LOOK_S,
    Bench,
    MeasurementFailed,
    Process,
    attended,
    bench,
    read_trace,
    start_interactive,
)
from benchmarks.core.sizing import TRAINING_TIMEOUT_S
from benchmarks.core.training import Trace

PAUSE_STEPS = (4.0, 8.0)
"""Between two commands: a random time, so that they fall anywhere within a step."""
FIRST_LR = 1e-3
LR_FACTOR = 1.001
"""Each command asks for a rate of its own, so that its effect can be told from the others'."""


@dataclass(frozen=True)
class Latency:
    """Times from just before the POST to the first moment at which the optimizer held the new rate.

    Attributes:
        step_ms: Median step time of the run.
        commands: How many were sent.
        median_ms: Median of their times.
        p95_ms: 95th percentile.
        median_boundaries: Median of the step ends between POST and effect; 1 is the earliest possible.
        p95_boundaries: 95th percentile.
    """

    step_ms: float
    commands: int
    median_ms: float
    p95_ms: float
    median_boundaries: float
    p95_boundaries: float

    @property
    def median_over_step_ms(self) -> float:
        """What the median takes beyond one step; the goal is at most 5 ms."""
        return self.median_ms - self.step_ms


def measure_latency(folder: Path, target_ms: float, depth: int, commands: int) -> Latency:
    """Send commands at random moments of a run, with an agent and a live client attached as well."""
    run_id = f"latency-{target_ms:g}"
    steps = round(commands * sum(PAUSE_STEPS) / 2 * 1.5) + 100
    with bench(folder) as server:
        server.new_run(run_id).close()
        with attended(server, run_id):
            training = start_interactive(server, run_id, depth, steps)
            posted = _post_all(server, run_id, training, commands, target_ms)
            training.wait(TRAINING_TIMEOUT_S)
    return _summary(read_trace(folder, run_id), posted)


def _post_all(server: Bench, run_id: str, training: Process, commands: int, step_ms: float) -> dict[float, float]:
    """Unix time of each POST, by the learning rate it asks for."""
    posted: dict[float, float] = {}
    pauses = random.Random(0)
    with contextlib.closing(RunLog.open(server.runs_dir / run_id)) as log:
        while log.last_point_id() == 0:
            training.check()
            time.sleep(LOOK_S)
    token, _ = create_token(server.runs_dir, "operator", "benchmark", lasts_s=3600)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, trust_env=False, headers=headers) as client:
        for index in range(commands):
            time.sleep(pauses.uniform(*PAUSE_STEPS) * step_ms / 1e3)
            lr = FIRST_LR * LR_FACTOR ** (index + 1)
            body = {"command": {"kind": "update_optimizer", "lr": lr}}
            posted[lr] = time.time()
            client.post(f"/api/v1/runs/{run_id}/commands", json=body).raise_for_status()
    return posted


def _summary(trace: Trace, posted: dict[float, float]) -> Latency:
    seen = {change.lr: change.at_s for change in trace.rates}
    missing = [lr for lr in posted if lr not in seen]
    if missing:
        raise MeasurementFailed(f"{len(missing)} of {len(posted)} commands had no effect, the first: lr {missing[0]}")
    times_ms = [(seen[lr] - at_s) * 1e3 for lr, at_s in posted.items()]
    ends = trace.ends_at_s
    boundaries = [bisect_right(ends, seen[lr]) - bisect_right(ends, at_s) for lr, at_s in posted.items()]
    return Latency(
        step_ms=statistics.median((b - a) * 1e3 for a, b in pairwise(ends)),
        commands=len(posted),
        median_ms=statistics.median(times_ms),
        p95_ms=_p95(times_ms),
        median_boundaries=statistics.median(boundaries),
        p95_boundaries=_p95([float(n) for n in boundaries]),
    )


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]
