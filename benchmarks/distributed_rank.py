"""One of two ranks of `benchmarks.distributed`: windows of steps with agenttune, without, and with the least that could
do its work, then commands.

Each has a model and an optimizer of its own, of the same size, so that the steps without have no hooks. A step is a
fixed amount of work, measured once, so that processor times can be compared.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import agenttune
from agenttune.control import LocalControl
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.proposals import Author, Proposal
from agenttune.store.run_log import list_runs
from agenttune.trainer import Options
from agenttune.trainer.distributed.pace import CALM_FLAGS, INTERVAL_S
from benchmarks.distributed_least import Least

AUTHOR = Author(principal="operator", name="benchmark")
PLANNED_STEPS = 100_000
"""Of the run, as far as it knows: how often states are kept and weights are looked at is a part of that."""
MOST_LATE = 200
TASKS = Path("/proc/self/task")


@dataclass
class Training:
    """A tiny model under DDP, and steps that take a fixed amount of work.

    Attributes:
        units: Products of matrices a step.
        edges_ns: Processor time of the training thread in a step's forward pass and update, where hooks are.
    """

    units: int = 1
    edges_ns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.ddp = DistributedDataParallel(torch.nn.Linear(64, 64))
        self.optimizer = torch.optim.SGD(self.ddp.parameters(), lr=1e-4)
        self.x, self.load = torch.randn(64, 64), torch.randn(192, 192)

    def step(self) -> torch.Tensor:
        """One step, with a collective as DDP's backward has it."""
        began_ns = time.thread_time_ns()
        loss = self.ddp(self.x).pow(2).mean()
        spent_ns = time.thread_time_ns() - began_ns
        for _ in range(self.units):
            self.load @ self.load
        loss.backward()
        began_ns = time.thread_time_ns()
        self.optimizer.step()
        self.edges_ns.append(spent_ns + time.thread_time_ns() - began_ns)
        self.optimizer.zero_grad()
        detached: torch.Tensor = loss.detach()
        return detached

    def fit(self, step_s: float) -> None:
        """Make a step take about so long, on all ranks alike."""
        began_s = time.thread_time()
        for _ in range(300):
            self.load @ self.load
        units = torch.tensor([max(1, round(step_s * 300 / (time.thread_time() - began_s)))])
        dist.broadcast(units, 0)
        self.units = int(units.item())


@dataclass(frozen=True)
class Window:
    """What a window of steps took, a step: in seconds.

    Attributes:
        wall_s: By the clock.
        processor_s: Of all of this rank's threads.
        calls_s: Of the training thread in the call at the end of a step, which is `session.step` with agenttune.
        edges_s: Of the training thread in forward pass and update: the median.
        own_s: Of the threads that were started for it, gloo's for agenttune's groups among them.
        shared_s: Of all threads that nobody but training has started.
    """

    wall_s: float
    processor_s: float
    calls_s: float
    edges_s: float
    own_s: float
    shared_s: float


def run_rank(folder: Path, step_ms: float, pairs: int, window_s: float, tries: int) -> None:
    """Windows in turn, then commands; leaves `rank<N>.json`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    plain, tuned, other = Training(), Training(), Training()
    plain.fit(step_ms / 1000)
    tuned.units = other.units = plain.units
    steps = max(2, round(1000 * window_s / step_ms))
    for _ in range(3):
        plain.step()
    shared = set(_threads_ns())
    least = Least(other.ddp, other.optimizer, folder, step_ms / 1000)
    before = set(_threads_ns())
    options = Options(runs_dir=folder / "runs", server=False)
    found: dict[str, list[dict[str, float]]] = {"with": [], "without": [], "least": []}
    with agenttune.session(model=tuned.ddp, optimizer=tuned.optimizer, max_steps=PLANNED_STEPS, options=options) as s:
        ours = Contender(tuned, lambda loss: s.step({"loss": loss}), lambda tid: tid not in before)
        theirs = Contender(other, least.end_step, lambda tid: tid == least.thread_id)
        contenders = {"with": ours, "without": Contender(plain), "least": theirs}
        for number in range(pairs + 1):
            for kind, contender in contenders.items():
                window = _window(contender, steps, shared)
                if number > 0:  # the first of each warms up
                    found[kind].append(vars(window))
        late = [_latency(folder, tuned, s, step_ms / 1000) for _ in range(tries)]
    told = {"windows": found, "late": late}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


class Contender(NamedTuple):
    """What a window is of.

    Attributes:
        end_step: Called with each step's loss.
        is_own: Whether a thread was started for it.
    """

    training: Training
    end_step: Callable[[torch.Tensor], object] | None = None
    is_own: Callable[[int], bool] = lambda tid: False


def _window(contender: Contender, steps: int, shared: set[int]) -> Window:
    training, end_step = contender.training, contender.end_step
    gc.collect()
    training.edges_ns.clear()
    dist.barrier()
    before, calls_ns = _threads_ns(), 0
    wall_s, processor_s = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss = training.step()
        if end_step is not None:
            began_ns = time.thread_time_ns()
            end_step(loss)
            calls_ns += time.thread_time_ns() - began_ns
    wall_s, processor_s = time.perf_counter() - wall_s, time.process_time() - processor_s
    spent = {tid: ns - before.get(tid, 0) for tid, ns in _threads_ns().items()}
    main = threading.get_native_id()
    own_ns = sum(ns for tid, ns in spent.items() if contender.is_own(tid))
    shared_ns = sum(ns for tid, ns in spent.items() if tid in shared and tid != main)
    return Window(
        wall_s / steps,
        processor_s / steps,
        calls_ns / steps / 1e9,
        statistics.median(training.edges_ns) / 1e9,
        own_ns / steps / 1e9,
        shared_ns / steps / 1e9,
    )


def _threads_ns() -> dict[int, int]:
    """Processor time of each thread of this process, by Linux' scheduler."""
    found = {}
    for task in TASKS.iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except OSError:  # it has just ended
            continue
    return found


def _latency(folder: Path, training: Training, session: Any, step_s: float) -> tuple[int, float]:
    """From a command's commit, at any moment of a step, to the rate being in force on this rank.

    Returns:
        How many steps end until then, and seconds.
    """
    calm = CALM_FLAGS + 20 if step_s < INTERVAL_S / 2 else 1
    for _ in range(calm):
        session.step({"loss": training.step()})
    rate, begun = training.optimizer.param_groups[0]["lr"] * 0.9, session.global_step
    asked: list[tuple[int, float]] = []

    def ask() -> None:
        time.sleep(random.random() * 3 * step_s)
        control = LocalControl(folder / "runs")
        control.submit(list_runs(folder / "runs")[0].run_id, Proposal(command=UpdateOptimizer(lr=rate), author=AUTHOR))
        asked.append((session.global_step, time.time()))

    if dist.get_rank() == 0:
        threading.Thread(target=ask).start()
    while abs(training.optimizer.param_groups[0]["lr"] - rate) > 1e-12 and session.global_step < begun + MOST_LATE:
        session.step({"loss": training.step()})
    applied = session.global_step, time.time()
    told: list[Any] = [asked]
    dist.broadcast_object_list(told, src=0)
    (step, at_s) = told[0][0]
    return applied[0] - step, applied[1] - at_s


if __name__ == "__main__":
    where, milliseconds, count, seconds, commands = sys.argv[1:]
    run_rank(Path(where), float(milliseconds), int(count), float(seconds), int(commands))
    sys.stdout.flush()
    os._exit(0)
