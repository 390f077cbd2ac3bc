"""Measure everything and write it down: `python -m benchmarks.core`, about ten minutes; `--quick`, about one."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.core import report
from benchmarks.core.curves import measure_curve
from benchmarks.core.followers import measure_followers
from benchmarks.core.identity import measure_identity
from benchmarks.core.latency import measure_latency
from benchmarks.core.sizing import depth_for
from benchmarks.core.throughput import measure_throughput
from benchmarks.page import describe_machine

STEP_TARGETS_MS = (5.0, 50.0)


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    step_targets_ms: tuple[float, ...] = STEP_TARGETS_MS
    pairs: int = 3
    rounds: int = 3
    commands: int = 100
    points: int = 1_000_000
    events: int = 1000


QUICK = Extent(STEP_TARGETS_MS[:1], pairs=1, rounds=1, commands=10, points=50_000, events=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
        result = measure(_Folders(Path(name)), QUICK if quick else Extent(), quick)
    print(report.section(result))
    if not quick:
        report.write(result)


def measure(folders: _Folders, extent: Extent, quick: bool) -> report.Report:
    machine = describe_machine()
    identity = measure_identity(folders.next("bit-identity"))
    curve = measure_curve(folders.next("curve"), extent.points)
    followers = measure_followers(folders.next("followers"), events=extent.events)
    latency, throughput = [], []
    for target_ms in extent.step_targets_ms:
        depth = depth_for(folders.next(f"step time, {target_ms:g} ms"), target_ms)
        folder = folders.next(f"latency, {target_ms:g} ms")
        latency.append(measure_latency(folder, target_ms, depth, extent.commands))
        folder = folders.next(f"throughput, {target_ms:g} ms")
        throughput.append(measure_throughput(folder, target_ms, depth, extent.pairs, extent.rounds))
    return report.Report(machine, quick, throughput, latency, identity, curve, followers)


class _Folders:
    """A fresh scratch folder for each measure, whose name is told to whoever waits."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def next(self, what: str) -> Path:
        print(f"measuring {what} ...", flush=True)
        folder = self._root / what.replace(", ", "-").replace(" ", "-")
        folder.mkdir()
        return folder


if __name__ == "__main__":
    main()
