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
from benchmarks.core.slices import ratios, take_turns

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
    """

    target_ms: float
    depth: int
    pairs: int
    plain_ms: list[float]
    attended_ms: list[float]
    pair_ratios: list[float]
    ratio: float


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
    measured: list[list[tuple[float, float]]] = []
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
        plain_ms=[plain for plain, _ in flat],
        attended_ms=[watched for _, watched in flat],
        pair_ratios=[statistics.median(p / a for p, a in rows) for rows in measured],
        ratio=statistics.median(p / a for p, a in flat),
    )


def _pair(server: Bench, run_id: str, depth: int, rounds: int, agent: tuple[str, ...]) -> list[tuple[float, float]]:
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
    return ratios(turns, read_trace(server.folder, "plain").ends_at_s, read_trace(server.folder, run_id).ends_at_s)


def _wait_for_steps(training: Process, mark: Path) -> None:
    while not mark.exists():
        training.check()
        time.sleep(LOOK_S)
