"""Choosing a model whose steps take about so many milliseconds on this machine."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

from benchmarks.core.processes import read_trace, start_plain
from benchmarks.core.training import Trace

WARM_UP_FRAC = 0.2
"""First part of a run that is left out: caches, allocator and processor clock settle (a guess)."""
PROBE_STEPS = 80
TRAINING_TIMEOUT_S = 600.0


def step_times_ms(trace: Trace) -> list[float]:
    """Milliseconds from one step's end to the next one's, after the warm-up."""
    times = [(b - a) * 1e3 for a, b in pairwise(trace.ends_s)]
    return times[int(len(times) * WARM_UP_FRAC) :]


def run_plain(folder: Path, depth: int, steps: int) -> Trace:
    start_plain(folder, depth, steps).wait(TRAINING_TIMEOUT_S)
    return read_trace(folder, "plain")


def depth_for(folder: Path, target_ms: float) -> int:
    """Depth of the model whose steps come nearest to `target_ms`: a line through two probes, then one correction."""
    low, high = (1, 4) if target_ms < 20 else (8, 32)
    low_ms, high_ms = _probe(folder, low), _probe(folder, high)
    per_layer_ms = max((high_ms - low_ms) / (high - low), 1e-3)
    guess = max(1, round(low + (target_ms - low_ms) / per_layer_ms))
    return max(1, guess + round((target_ms - _probe(folder, guess)) / per_layer_ms))


def _probe(folder: Path, depth: int) -> float:
    return statistics.median(step_times_ms(run_plain(folder, depth, PROBE_STEPS)))
