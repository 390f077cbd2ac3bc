"""The figures on paper: a JSON file, and a section of `benchmarks/RESULTS.md`."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.core.curves import CurveRequest
from benchmarks.core.followers import Followers
from benchmarks.core.identity import Identity
from benchmarks.core.latency import Latency
from benchmarks.core.slices import TURN_S
from benchmarks.core.throughput import Throughput
from benchmarks.page import BENCHMARKS, Machine, write_section


@dataclass(frozen=True)
class Report:
    machine: Machine
    quick: bool
    throughput: list[Throughput]
    latency: list[Latency]
    identity: Identity
    curve: CurveRequest
    followers: Followers


@dataclass(frozen=True)
class Row:
    """A goal and what came of it."""

    what: str
    goal: str
    measured: str
    met: bool


def write(report: Report, folder: Path = BENCHMARKS) -> None:
    """Write `results/core.json` and replace this benchmark's section of `RESULTS.md`."""
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "core.json").write_text(json.dumps(_short(asdict(report)), indent=1) + "\n")
    write_section("core", section(report), folder)


def _short(value: Any) -> Any:
    """Floats to five digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


def section(report: Report) -> str:
    """The section in Markdown."""
    lines = [
        "## Core: what it costs and how fast it answers",
        "",
        f"`make bench-core`, {report.machine.line()}",
        *(["", "**A quick trial: too few and too short runs to rely on.**"] if report.quick else []),
        "",
        "| what | goal | measured | met |",
        "|---|---|---|---|",
        *(f"| {r.what} | {r.goal} | {r.measured} | {'yes' if r.met else '**no**'} |" for r in rows(report)),
        "",
        "Throughput is the plain Trainer's mean step time over the attended one's; attended: control server, agent "
        "(policy `noop`) and one live client. Both trainings are there all the time and get the machine in turns of "
        f"{TURN_S:g} s (plain, attended, attended, plain: a round), stopped in between. The training process's own "
        "processor time is that of all its threads, so that what server, agent and client take of the cores is not in "
        "it; that the shared processor itself is faster in one turn than in the other still is. Raw figures: "
        "`results/core.json`.",
    ]
    return "\n".join(lines) + "\n"


def rows(report: Report) -> list[Row]:
    return [
        *map(_throughput_row, report.throughput),
        *(row for latency in report.latency for row in _latency_rows(latency)),
        _identity_row(report.identity),
        *_curve_rows(report.curve),
        _followers_row(report.followers),
    ]


def _throughput_row(t: Throughput) -> Row:
    pairs = ", ".join(f"{ratio:.3f}" for ratio in t.pair_ratios)
    measured = (
        f"{t.ratio:.3f} (median of {len(t.plain_ms)} rounds; by pair of processes {pairs}); the training process's own "
        f"processor time per step: {t.own_us:+.0f} us"
    )
    return Row(
        f"throughput at steps of {statistics.median(t.plain_ms):.1f} ms", "at least 0.99", measured, t.ratio >= 0.99
    )


def _latency_rows(x: Latency) -> list[Row]:
    name = f"POST to effect at steps of {x.step_ms:.1f} ms"
    median = f"{x.median_ms:.1f} ms = {x.median_ms / x.step_ms:.2f} steps ({x.commands} commands)"
    p95 = f"{x.p95_ms:.1f} ms = {x.p95_ms / x.step_ms:.2f} steps"
    return [
        Row(f"{name}, median", "one step + 5 ms", median, x.median_over_step_ms <= 5),
        Row(f"{name}, p95", "two steps", p95, x.p95_ms <= 2 * x.step_ms),
    ]


def _identity_row(x: Identity) -> Row:
    weights = "equal" if x.equal_weights else "different"
    measured = f"{x.equal_losses} of {x.steps} equal to the last bit, final weights {weights}"
    met = x.equal_losses == x.steps and x.equal_weights
    return Row("losses with no command, dropout and shuffling on", "bit-identical to plain", measured, met)


def _curve_rows(x: CurveRequest) -> list[Row]:
    name = f"curve of one metric, {x.points:,} points logged"
    time_ms = f"{x.median_ms:.1f} ms (median of 20; worst {x.worst_ms:.1f}), {x.entries} entries"
    size = f"{x.answer_bytes / 1000:.1f} kB"
    return [
        Row(name, "under 50 ms", time_ms, x.median_ms < 50),
        Row(name, "under 100 kB", size, x.answer_bytes < 100_000),
    ]


def _followers_row(x: Followers) -> Row:
    measured = (
        f"{x.complete_clients} of {x.clients} clients, {x.events} events each; lag {x.median_lag_ms:.0f} ms, "
        f"p95 {x.p95_lag_ms:.0f} ms"
    )
    return Row("WebSocket clients that get every event in order", "all", measured, x.complete_clients == x.clients)
