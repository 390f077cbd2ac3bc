"""Throughput with server, agent and one live client attached, over the plain Trainer."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core.processes import (
    LOOK_S,
    Bench,
    Process,
    attended,
    bench,
    read_trace,
    start_interactive,
    start_plain,
)
from benchmarks.core.sizing import TRAINING_TIMEOUT_S
from benchmarks.core.slices import StepTime, by_round, take_turns

UNTIL_STOPPED = 10_000_000
"""Steps of a run that is ended from outside."""
NOOP = ("--policy", "noop")


@dataclass(frozen=True)
class Throughput:
    """Ratios are plain over attended: 1 is no cost, 0.99 is a step that takes 1 % longer.

    Attributes:
        target_ms: The step time aimed at.
        depth: Layers of the model that gave it.
        pairs: Pairs of processes; two processes of the same program differ too, by where their memory lies.
        plain_ms: Mean step time of the plain training, round by round, all pairs.
        attended_ms: The same with everything attached.
        pair_ratios: Median ratio of the rounds of each pair.
        ratio: Median over all rounds.
        own_us: What a step of the attended training costs its process more than a plain one, in microseconds of
            processor time, all threads; median over all rounds. Time in which others had the core is not in it.
    """

    target_ms: float
    depth: int
    pairs: int
    plain_ms: list[float]
    attended_ms: list[float]
    pair_ratios: list[float]
    ratio: float
    own_us: float


def measure_throughput(
    folder: Path, target_ms: float, depth: int, pairs: int, rounds: int, agent: tuple[str, ...] = NOOP
) -> Throughput:
    """Measure `pairs` pairs of processes in `rounds` rounds of turns each.

    Args:
        folder: For logs.
        target_ms: The step time aimed at.
        depth: Layers of the model.
        pairs: Pairs of processes.
        rounds: Rounds of four turns.
        agent: Further arguments of `agenttune attach`.
    """
    measured: list[list[tuple[StepTime, StepTime]]] = []
    for pair in range(pairs):
        place = folder / f"pair-{pair}"
        place.mkdir()
        with bench(place) as server:
            measured.append(_pair(server, f"at-{target_ms:g}-{pair}", depth, rounds, agent))
    flat = [row for rows in measured for row in rows]
    return Throughput(
        target_ms=target_ms,
        depth=depth,
        pairs=pairs,
        plain_ms=[plain.wall_ms for plain, _ in flat],
        attended_ms=[watched.wall_ms for _, watched in flat],
        pair_ratios=[statistics.median(p.wall_ms / a.wall_ms for p, a in rows) for rows in measured],
        ratio=statistics.median(p.wall_ms / a.wall_ms for p, a in flat),
        own_us=statistics.median(a.cpu_ms - p.cpu_ms for p, a in flat) * 1e3,
    )


def _pair(
    server: Bench, run_id: str, depth: int, rounds: int, agent: tuple[str, ...]
) -> list[tuple[StepTime, StepTime]]:
    server.new_run(run_id).close()
    with attended(server, run_id, agent) as beside:
        watched = start_interactive(server, run_id, depth, UNTIL_STOPPED)
        plain = start_plain(server.folder, depth, UNTIL_STOPPED)
        for training, name in ((watched, run_id), (plain, "plain")):
            _wait_for_steps(training, server.folder / f"{name}.started")
        others = [process.pid for process in beside]
        turns = take_turns([plain.pid], [watched.pid, server.server_pid, *others], rounds)
        for training in (watched, plain):
            training.ask_to_end()
            training.wait(TRAINING_TIMEOUT_S)
    return by_round(turns, read_trace(server.folder, "plain"), read_trace(server.folder, run_id))


def _wait_for_steps(training: Process, mark: Path) -> None:
    while not mark.exists():
        training.check()
        time.sleep(LOOK_S)
