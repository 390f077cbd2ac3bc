"""Throughput with server, agent and one live client attached, over the plain Trainer."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core.processes import Bench, attended, bench, read_trace, start_interactive
from benchmarks.core.sizing import TRAINING_TIMEOUT_S, run_plain, step_times_ms


@dataclass(frozen=True)
class Throughput:
    """Ratios are plain over attended, pair by pair: 1 is no cost, 0.99 is a step that takes 1 % longer.

    Attributes:
        target_ms: The step time aimed at.
        depth: Layers of the model that gave it.
        steps: Steps of each run.
        plain_ms: Median step time of each plain run, in order of running.
        attended_ms: The same with everything attached.
        ratios: `plain_ms / attended_ms`, pair by pair.
        median_ratio: Their median.
        mean_ratio: Median over pairs of the ratio of mean step times, which sees rare long steps as well.
        plain_noise: Median step times of the plain runs, the largest over the smallest.
    """

    target_ms: float
    depth: int
    steps: int
    plain_ms: list[float]
    attended_ms: list[float]
    ratios: list[float]
    median_ratio: float
    mean_ratio: float
    plain_noise: float


def measure_throughput(folder: Path, target_ms: float, depth: int, pairs: int, run_s: float) -> Throughput:
    """Alternate plain and attended runs of about `run_s` seconds, each in a process of its own."""
    steps = max(50, round(run_s * 1e3 / target_ms))
    plain: list[list[float]] = []
    watched: list[list[float]] = []
    with bench(folder) as server:
        for pair in range(pairs):
            # Which one goes first alternates too: a machine that slows down by and by favours neither.
            for is_plain in (pair % 2 == 0, pair % 2 == 1):
                if is_plain:
                    plain.append(step_times_ms(run_plain(folder, depth, steps)))
                else:
                    watched.append(_attended_run(server, f"at-{target_ms:g}-{pair}", depth, steps))
    plain_ms, attended_ms = [statistics.median(run) for run in plain], [statistics.median(run) for run in watched]
    ratios = [p / a for p, a in zip(plain_ms, attended_ms, strict=True)]
    means = [statistics.fmean(p) / statistics.fmean(a) for p, a in zip(plain, watched, strict=True)]
    return Throughput(
        target_ms=target_ms,
        depth=depth,
        steps=steps,
        plain_ms=plain_ms,
        attended_ms=attended_ms,
        ratios=ratios,
        median_ratio=statistics.median(ratios),
        mean_ratio=statistics.median(means),
        plain_noise=max(plain_ms) / min(plain_ms),
    )


def _attended_run(server: Bench, run_id: str, depth: int, steps: int) -> list[float]:
    server.new_run(run_id).close()
    with attended(server, run_id):
        start_interactive(server, run_id, depth, steps).wait(TRAINING_TIMEOUT_S)
    return step_times_ms(read_trace(server.folder, run_id))
