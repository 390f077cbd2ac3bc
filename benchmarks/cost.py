"""What agenttune takes of a training process, by thread: `python -m benchmarks.cost`, about six minutes.

A row of the loop's own log at every step, steps of about 5 ms. Processor time of each thread, by the thread's own
clock (`time.thread_time`, `pthread_getcpuclockid`): it counts what the thread did and nothing else, so that it is
steadier than the wall clock of a shared machine; other programs' use of its caches is still in it. The training thread
is measured where it enters and leaves our code: each hook of the callback, and what `make_interactive` adds around a
training step and the drawing of batches. Beside it the same training with the plain Trainer, by the wall clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune
from benchmarks.core.processes import Bench, Process, bench
from benchmarks.core.training import BATCH, Noise, Perceptron
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

WARM_UP_STEPS = 150
STEPS = 4000
"""A run keeps some 26 states to go back to whatever its length: over fewer steps they are most of what is measured."""
DEPTH = 6
CLIENTS = (0, 1, 8)
ROUNDS = 3
TIMEOUT_S = 180.0
OWN = "agenttune"
"""How the names of our threads begin."""


@dataclass(frozen=True)
class Cost:
    """Microseconds of processor time a step, but for the step itself.

    Attributes:
        clients: Live clients at the control server; None for the plain Trainer, where only the step takes time.
        training_us: Of the training thread, in our code.
        others_us: Of all other threads of ours.
        step_ms: What a step took of the training thread altogether, in milliseconds.
        wall_ms: By the clock.
    """

    clients: int | None
    training_us: float
    others_us: float
    step_ms: float
    wall_ms: float


class Meter:
    """Adds up the processor time of the training thread within our code."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.calls = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began_s = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent_s += time.thread_time() - began_s
                self.calls += 1

        return timed

    def leave(self, began_s: float) -> None:
        """What began then and is over now was called from within our code, and is not ours."""
        self.spent_s -= time.thread_time() - began_s


def own_threads_s() -> float:
    """Processor time of our other threads, by their own clocks."""
    ours = [t for t in threading.enumerate() if t.name.startswith(OWN) and t.ident is not None]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in ours if t.ident is not None)


class Window(TrainerCallback):  # type: ignore[misc]
    """Reads the clocks after the warm-up and at the end."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.seen: list[tuple[float, ...]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP_STEPS, WARM_UP_STEPS + STEPS):
            self.seen.append(
                (self._meter.spent_s, own_threads_s(), time.thread_time(), time.perf_counter(), self._meter.calls)
            )


def measured(folder: Path, clients: int | None) -> Cost:
    """Train here, and measure it; with the plain Trainer if there is nobody to count clients of."""
    torch.set_num_threads(1)
    set_seed(0)
    meter = Meter()

    class Inner(Trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            began_s = time.thread_time()
            loss = super().training_step(*args, **kwargs)
            meter.leave(began_s)
            return loss

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            began_s = time.thread_time()
            fetched = super().get_batch_samples(*args, **kwargs)
            meter.leave(began_s)
            return fetched

    window = Window(meter)
    trainer = (Trainer if clients is None else agenttune.make_interactive(Inner))(
        model=Perceptron(DEPTH, []),
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=WARM_UP_STEPS + STEPS + 2,
            per_device_train_batch_size=BATCH,
            logging_steps=1,
            save_strategy="no",
            seed=0,
            data_seed=0,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Noise(),
        callbacks=[window],
    )
    if clients is not None:
        hooks, plain = type(trainer.interactive), TrainerCallback
        for name in [n for n in dir(hooks) if n.startswith("on_") and getattr(hooks, n) is not getattr(plain, n, None)]:
            setattr(trainer.interactive, name, meter.around(getattr(trainer.interactive, name)))
        for name in ("training_step", "get_batch_samples"):
            setattr(trainer, name, meter.around(getattr(trainer, name)))
    trainer.train()
    first, last = window.seen
    own_s, others_s, thread_s, wall_s, calls = (b - a for a, b in zip(first, last, strict=True))
    own_s -= calls * _empty_call_s()
    return Cost(clients, own_s / STEPS * 1e6, others_s / STEPS * 1e6, thread_s / STEPS * 1e3, wall_s / STEPS * 1e3)


def _empty_call_s() -> float:
    """What the clock itself adds to a call."""
    empty = Meter()
    call = empty.around(lambda: None)
    for _ in range(20_000):
        call()
    return empty.spent_s / empty.calls


@contextlib.contextmanager
def followed(server: Bench, run_id: str, clients: int) -> Iterator[None]:
    """Live clients that take in every frame, as dashboards do."""
    arguments = ["-m", "benchmarks.core.live_client", server.url, run_id]
    watching = [Process(arguments, server.folder / f"client-{i}.out") for i in range(clients)]
    try:
        yield
    finally:
        for process in watching:
            process.terminate()


def measure(folder: Path, clients: int | None) -> Cost:
    """One run in a process of its own, with a control server beside it."""
    if clients is None:
        Process(["-m", "benchmarks.cost", "--child", str(folder)], folder / "child.out").wait(TIMEOUT_S)
        return Cost(**json.loads((folder / "cost.json").read_text()))
    with bench(folder) as server:
        server.new_run("r").close()
        env = {"AGENTTUNE_RUN_ID": "r", "AGENTTUNE_RUNS_DIR": str(server.runs_dir), "AGENTTUNE_SERVER_URL": server.url}
        with followed(server, "r", clients):
            time.sleep(1.0 if clients else 0.0)
            child = Process(["-m", "benchmarks.cost", "--child", str(folder), str(clients)], folder / "child.out", env)
            child.wait(TIMEOUT_S)
    return Cost(**json.loads((folder / "cost.json").read_text()))


def section(costs: list[Cost], machine: Machine) -> str:
    plain = [cost for cost in costs if cost.clients is None]
    rows = []
    for clients in dict.fromkeys(cost.clients for cost in costs if cost.clients is not None):
        found = [cost for cost in costs if cost.clients == clients]
        training, others = (_spread([getattr(c, name) for c in found]) for name in ("training_us", "others_us"))
        ratios = [cost.wall_ms / beside.wall_ms for cost, beside in zip(found, plain, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append(f"| {clients} | {training} | {others} | {_step(found)} | {ratio} | {len(found)} |")
    rows.append(f"| plain Trainer | | | {_step(plain)} | 1 | {len(plain)} |")
    return "\n".join(
        [
            "## Cost: processor time of each thread",
            "",
            f"`python -m benchmarks.cost`, {machine.line()}",
            "",
            "A step's processor time in our code, with a row of the loop's own log at every step (goal: at most 40 us "
            "in the training thread and 40 us in our other threads, whatever the number of clients). Medians, with the "
            "lowest and the highest run; the wall clock's ratio is to the plain Trainer's run of the same round. The "
            "step is the training thread's whole processor time, with what measuring takes: a hook of ours that does "
            "nothing but look at one attribute counts 2 to 3 us, as the caches are cold. The writer wakes four times a "
            "second, so its share of a step is the greater, the longer a step takes by "
            "the clock.",
            "",
            "| live clients | training thread | other threads | step, by the clock | of plain, by the clock | runs |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} us ({min(values):.0f} to {max(values):.0f})"


def _step(costs: list[Cost]) -> str:
    own, wall = (statistics.median(getattr(cost, name) for cost in costs) for name in ("step_ms", "wall_ms"))
    return f"{own:.1f} ms, {wall:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--child", nargs="+", metavar=("FOLDER", "CLIENTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder = Path(args.child[0])
        clients = int(args.child[1]) if len(args.child) > 1 else None
        (folder / "cost.json").write_text(json.dumps(asdict(measured(folder, clients))))
        return
    machine, costs = describe_machine(), []
    for number in range(1 if args.quick else args.rounds):
        for clients in (None, *(CLIENTS[:1] if args.quick else CLIENTS)):
            with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
                costs.append(measure(Path(name), clients))
            print(f"round {number + 1}: {costs[-1]}", flush=True)
    text = section(costs, machine)
    print(text)
    if not args.quick:
        raw = {"machine": asdict(machine), "costs": [asdict(cost) for cost in costs]}
        (BENCHMARKS / "results" / "cost.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("cost", text)


if __name__ == "__main__":
    main()
