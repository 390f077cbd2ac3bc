"""What open pages cost the training that they look at: four states of one machine, in turns.

- alone: the plain Trainer.
- beside: the same process, while the same pages look at another run, which a script feeds as fast: what a loaded
  machine does to any training, whoever loads it.
- unseen: a training with agenttune and its control server; no page is awake.
- seen: the same process, with its pages.

Whoever is not part of a state is stopped (SIGSTOP) meanwhile. Of each turn: processor time a step of the thread that
trains and of the process's others, time by the clock, and processor time of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from agenttune.protocol.events import RunStarted
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import RunInfo
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import RunLog
from benchmarks.core.processes import Bench, Process, bench, read_trace, start_interactive, start_plain
from benchmarks.core.training import Trace

STATES = ("alone", "beside", "unseen", "seen")
TURN_S, SETTLE_S = 1.5, 1.0
"""The first part of a turn is left out: caches, and what pages ask first when they are woken (guess)."""
UNTIL_STOPPED = 10_000_000
FED, SEEN = "fed", "seen"
FEED_S = 0.02


@dataclass(frozen=True)
class Look:
    """One turn of one state; microseconds a step, the server's in milliseconds a second."""

    state: str
    thread_us: float
    others_us: float
    wall_us: float
    server_ms: float


@dataclass(frozen=True)
class Turn:
    state: str
    begin_s: float
    end_s: float
    server_s: float


class Stage:
    """The processes of each state; only one state runs at a time."""

    def __init__(self, sides: Mapping[str, Iterable[int]], server: int) -> None:
        self._sides = {state: {pid: psutil.Process(pid) for pid in pids} for state, pids in sides.items()}
        self._server = psutil.Process(server)

    def turns(self, rounds: int) -> list[Turn]:
        """Each state twice a round, there and back; all go on when this returns."""
        found = []
        try:
            for _ in range(rounds):
                for state in (*STATES, *reversed(STATES)):
                    self._only(state)
                    time.sleep(SETTLE_S)
                    begin_s, before_s = time.time(), self._server_s()
                    time.sleep(TURN_S)
                    found.append(Turn(state, begin_s, time.time(), self._server_s() - before_s))
        finally:
            for side in self._sides.values():
                _signal(side.values(), signal.SIGCONT)
        return found

    def _only(self, state: str) -> None:
        here = self._sides[state]
        others = {pid: one for side in self._sides.values() for pid, one in side.items() if pid not in here}
        _signal(others.values(), signal.SIGSTOP)
        _signal(here.values(), signal.SIGCONT)

    def _server_s(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def measure_open_pages(folder: Path, viewers: str, pages: int, depth: int, rounds: int, rows_per_s: float) -> str:
    """The lines of the report, for `clients` or `browsers` as those who look."""
    place = folder / f"pages-{viewers}"
    place.mkdir()
    with bench(place) as server, contextlib.ExitStack() as ends:
        server.new_run(SEEN).close()
        seen, plain = start_interactive(server, SEEN, depth, UNTIL_STOPPED), start_plain(place, depth, UNTIL_STOPPED)
        feeder = Process(
            ["-m", "benchmarks.open_pages", "--feed", str(server.runs_dir), str(rows_per_s)], place / "feed.out"
        )
        ends.callback(feeder.terminate)
        for name, process in ((SEEN, seen), ("plain", plain)):
            _wait(place / f"{name}.started", process)
        _wait(server.runs_dir / FED / "log.db", feeder)
        groups = {run: _viewers(ends, server, viewers, pages, run) for run in (SEEN, FED)}
        sides = {
            "alone": [plain.pid],
            "beside": [plain.pid, feeder.pid, server.server_pid, *groups[FED]],
            "unseen": [seen.pid, server.server_pid],
            "seen": [seen.pid, server.server_pid, *groups[SEEN]],
        }
        turns = Stage(sides, server.server_pid).turns(rounds)
        feeder.check()
        for training in (seen, plain):
            training.ask_to_end()
            training.wait(120)
    traces = {state: read_trace(place, "plain" if state in ("alone", "beside") else SEEN) for state in STATES}
    looks = [look for turn in turns if (look := _look(turn, traces[turn.state])) is not None]
    return told(looks, viewers, pages, rounds)


def _wait(path: Path, process: Process) -> None:
    while not path.exists():
        process.check()
        time.sleep(0.05)


def _viewers(ends: contextlib.ExitStack, server: Bench, viewers: str, pages: int, run_id: str) -> list[int]:
    opened = server.folder / f"{run_id}.opened"
    modules = {
        "clients": ["-m", "benchmarks.page_clients", str(pages), server.url, run_id, str(opened)],
        "browsers": [
            "-m",
            "benchmarks.dashboard",
            "--keep-open",
            str(pages),
            str(server.folder),
            server.url,
            run_id,
            str(opened),
        ],
    }
    looking = Process(modules[viewers], server.folder / f"{run_id}.windows.out")
    ends.callback(looking.terminate)
    _wait(opened, looking)
    return [looking.pid, *(child.pid for child in psutil.Process(looking.pid).children(recursive=True))]


def _look(turn: Turn, trace: Trace) -> Look | None:
    first, last = bisect_left(trace.ends_at_s, turn.begin_s), bisect_left(trace.ends_at_s, turn.end_s) - 1
    if last - first < 3:
        return None
    wall, cpu, thread = (
        (t[last] - t[first]) / (last - first) * 1e6 for t in (trace.ends_at_s, trace.cpu_s, trace.thread_cpu_s)
    )
    server_ms = turn.server_s / (turn.end_s - turn.begin_s) * 1e3
    return Look(turn.state, thread, cpu - thread, wall, server_ms)


def told(looks: Iterable[Look], viewers: str, pages: int, rounds: int) -> str:
    by_state: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        by_state[look.state].append(look)
    if set(by_state) != set(STATES):
        return f"{pages} {viewers}: too slow a machine for a state to make three steps in {TURN_S:g} s"

    def median(state: str, name: str) -> float:
        return float(statistics.median(getattr(look, name) for look in by_state[state]))

    def ratio(state: str, of: str, name: str) -> float:
        return median(of, name) / median(state, name)

    seen, machine = ratio("seen", "unseen", "thread_us"), ratio("beside", "alone", "thread_us")
    others = " and ".join(f"{median(state, 'others_us'):.0f} us {state}" for state in ("unseen", "seen"))
    clock = " and ".join(f"{median(state, 'wall_us') / 1e3:.2f} ms {state}" for state in STATES)
    paid = (median("seen", "server_ms") - median("unseen", "server_ms")) / pages
    return (
        f"training with {pages} pages open ({viewers}), steps of {median('alone', 'wall_us') / 1e3:.1f} ms, {rounds} "
        f"rounds: the training thread's throughput by processor time is {seen:.3f} of that with none; of the plain "
        f"Trainer, beside which the same pages look at another run, {machine:.3f}: what the pages of its own run take "
        f"is {seen / machine:.3f} (goal 0.99). Of the plain Trainer's: "
        f"unseen {ratio('unseen', 'alone', 'thread_us'):.3f}, "
        f"seen {ratio('seen', 'beside', 'thread_us'):.3f} of the one beside. "
        f"Other threads of the training process: {others} a step. By the clock, a step: {clock}. "
        f"The server: {median('seen', 'server_ms'):.0f} ms of processor time a second with them, "
        f"{median('unseen', 'server_ms'):.0f} ms without, {paid:.1f} ms a page"
    )


def feed(runs_dir: Path, rows_per_s: float) -> None:
    """A run that no training writes: as many rows, with the metrics of a step."""
    pid = os.getpid()
    info = RunInfo(
        run_id=FED,
        name=FED,
        status="running",
        created_at_s=time.time(),
        max_steps=UNTIL_STOPPED,
        goal_metric="loss",
        pid=pid,
        pid_started_s=started_s(pid),
    )
    with contextlib.closing(RunLog.create(runs_dir / FED, info)) as log:
        log.append(RunStarted(framework="bench", pid=pid, max_steps=UNTIL_STOPPED, capabilities=[]), step=0)
        step = 0
        while True:
            rows = max(1, round(rows_per_s * FEED_S))
            log.append_points(_rows(step, rows))
            step += rows
            time.sleep(FEED_S)


def _rows(step: int, rows: int) -> Iterator[Point]:
    names = ("grad_norm", "step_time_s", "samples_per_s", "lr")
    for at in range(step + 1, step + rows + 1):
        yield Point(step=at, at_s=time.time(), values={"loss": 2 + 1 / at, **dict.fromkeys(names, 1 / at)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--feed", nargs=2, metavar=("RUNS_DIR", "ROWS_PER_S"), required=True)
    runs_dir, rows_per_s = parser.parse_args().feed
    feed(Path(runs_dir), float(rows_per_s))


if __name__ == "__main__":
    main()
