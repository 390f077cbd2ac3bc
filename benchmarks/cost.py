"""What agenttune takes of a training process, by thread: `python -m benchmarks.cost`, about six minutes.

A row of the loop's own log at every step, steps of about 5 ms. Processor time of each thread, by the thread's own
clock (`time.thread_time`, `pthread_getcpuclockid`): it counts what the thread did and nothing else, so that it is
steadier than the wall clock of a shared machine; other programs' use of its caches is still in it. The training thread
is measured where it enters and leaves our code: each hook of the callback, and what `make_interactive` adds around a
training step and the drawing of batches. Beside it the same training with hooks at the same places that do nothing,
which is the least that such hooks can take, and with the plain Trainer, by the wall clock.
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
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune
from agenttune.trainer.integrations.hf_trainer import InteractiveCallback
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
Contender = Literal["plain", "empty", "agenttune"]
"""The Trainer as it is; with hooks that do nothing, at the places of ours; and with ours."""
HOOKS = [
    name
    for name in dir(InteractiveCallback)
    if name.startswith("on_") and getattr(InteractiveCallback, name) is not getattr(TrainerCallback, name, None)
]
METHODS = ("training_step", "get_batch_samples")


@dataclass(frozen=True)
class Cost:
    """Microseconds of processor time a step, but for the step itself.

    Attributes:
        contender: What is measured.
        clients: Live clients at the control server; None where there is no server.
        training_us: Of the training thread, in the hooks.
        usual_us: The same of the median step, in which no state is kept and no weight is looked at.
        others_us: Of all other threads of ours.
        step_ms: What a step took of the training thread altogether, in milliseconds.
        wall_ms: By the clock.
    """

    contender: Contender
    clients: int | None
    training_us: float
    usual_us: float
    others_us: float
    step_ms: float
    wall_ms: float


class Meter:
    """Adds up the processor time of the training thread within the hooks."""

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
    """Reads the clocks after the warm-up and at the end, and what was spent by each step's begin."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.seen: list[tuple[float, ...]] = []
        self.spent_s: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if WARM_UP_STEPS <= state.global_step <= WARM_UP_STEPS + STEPS:
            self.spent_s.append(self._meter.spent_s)
        if state.global_step in (WARM_UP_STEPS, WARM_UP_STEPS + STEPS):
            self.seen.append(
                (self._meter.spent_s, own_threads_s(), time.thread_time(), time.perf_counter(), self._meter.calls)
            )


def _nothing(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    pass


def with_empty_hooks(trainer_class: type[Any]) -> type[Any]:
    """A Trainer whose methods that we extend are extended by nothing."""

    class Empty(trainer_class):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return super().training_step(model, inputs, num_items_in_batch)

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    return Empty


def measured(folder: Path, contender: Contender, clients: int | None) -> Cost:
    """Train here, and measure it."""
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
    make: dict[Contender, Callable[[], type[Any]]] = {
        "plain": lambda: Trainer,
        "empty": lambda: with_empty_hooks(Inner),
        "agenttune": lambda: agenttune.make_interactive(Inner),
    }
    trainer = make[contender]()(
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
    if contender == "empty":
        hooked = type("EmptyCallback", (TrainerCallback,), dict.fromkeys(HOOKS, _nothing))()
        trainer.add_callback(hooked)
    elif contender == "agenttune":
        hooked = trainer.interactive
    if contender != "plain":
        for holder, names in ((hooked, HOOKS), (trainer, METHODS)):
            for name in names:
                setattr(holder, name, meter.around(getattr(holder, name)))
    trainer.train()
    first, last = window.seen
    own_s, others_s, thread_s, wall_s, calls = (b - a for a, b in zip(first, last, strict=True))
    clock_us = calls * _empty_call_s() / STEPS * 1e6
    usual_s = statistics.median(after - before for before, after in pairwise(window.spent_s))
    return Cost(
        contender=contender,
        clients=clients,
        training_us=own_s / STEPS * 1e6 - clock_us,
        usual_us=max(0.0, usual_s * 1e6 - clock_us),
        others_us=others_s / STEPS * 1e6,
        step_ms=thread_s / STEPS * 1e3,
        wall_ms=wall_s / STEPS * 1e3,
    )


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


def measure(folder: Path, contender: Contender, clients: int | None) -> Cost:
    """One run in a process of its own; ours with a control server beside it."""
    words = ["-m", "benchmarks.cost", "--child", str(folder), contender]
    if clients is None:
        Process(words, folder / "child.out").wait(TIMEOUT_S)
        return Cost(**json.loads((folder / "cost.json").read_text()))
    with bench(folder) as server:
        server.new_run("r").close()
        env = {"AGENTTUNE_RUN_ID": "r", "AGENTTUNE_RUNS_DIR": str(server.runs_dir), "AGENTTUNE_SERVER_URL": server.url}
        with followed(server, "r", clients):
            time.sleep(1.0 if clients else 0.0)
            Process([*words, str(clients)], folder / "child.out", env).wait(TIMEOUT_S)
    return Cost(**json.loads((folder / "cost.json").read_text()))


def section(costs: list[Cost], machine: Machine) -> str:
    plain, empty = ([cost for cost in costs if cost.contender == kind] for kind in ("plain", "empty"))
    rows = []
    for clients in dict.fromkeys(cost.clients for cost in costs if cost.clients is not None):
        rows.append(_row(str(clients), [cost for cost in costs if cost.clients == clients], plain))
    rows += [_row("empty hooks", empty, plain), f"| plain Trainer | | | | {_step(plain)} | 1 | {len(plain)} |"]
    return "\n".join(
        [
            "## Cost: processor time of each thread",
            "",
            f"`python -m benchmarks.cost`, {machine.line()}",
            "",
            "A step's processor time in our code, with a row of the loop's own log at every step (goal: at most 40 us "
            "in the training thread and 40 us in our other threads, whatever the number of clients). Medians, with the "
            "lowest and the highest run; the wall clock's ratio is to the plain Trainer's run of the same round. The "
            "step is the training thread's whole processor time, with what measuring takes. In the usual step no state "
            "is kept and no weight is looked at; a run does that some 25 and 100 times whatever its length, here "
            f"{STEPS:,} steps. Empty hooks are as many as ours, at the same places, and do nothing: between two steps "
            "the caches hold the model. The writer wakes four times a second, so its share of a step is the greater, "
            "the longer a step takes by the clock.",
            "",
            "| live clients | training thread | of that the usual step | other threads | step, by the clock "
            "| of plain, by the clock | runs |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row(name: str, found: list[Cost], plain: list[Cost]) -> str:
    kinds = ("training_us", "usual_us", "others_us")
    spent = " | ".join(_spread([getattr(cost, kind) for cost in found]) for kind in kinds)
    ratios = [cost.wall_ms / beside.wall_ms for cost, beside in zip(found, plain, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {spent} | {_step(found)} | {ratio} | {len(found)} |"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} us ({min(values):.0f} to {max(values):.0f})"


def _step(costs: list[Cost]) -> str:
    own, wall = (statistics.median(getattr(cost, name) for cost in costs) for name in ("step_ms", "wall_ms"))
    return f"{own:.1f} ms, {wall:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--child", nargs="+", metavar="WORD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, contender, *clients = args.child
        cost = measured(Path(folder), contender, int(clients[0]) if clients else None)
        (Path(folder) / "cost.json").write_text(json.dumps(asdict(cost)))
        return
    machine, costs = describe_machine(), []
    for number in range(1 if args.quick else args.rounds):
        runs: list[tuple[Contender, int | None]] = [("plain", None), ("empty", None)]
        runs += [("agenttune", count) for count in (CLIENTS[:1] if args.quick else CLIENTS)]
        for contender, clients in runs:
            with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
                costs.append(measure(Path(name), contender, clients))
            print(f"round {number + 1}: {costs[-1]}", flush=True)
    text = section(costs, machine)
    print(text)
    if not args.quick:
        raw = {"machine": asdict(machine), "costs": [asdict(cost) for cost in costs]}
        (BENCHMARKS / "results" / "cost.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("cost", text)


if __name__ == "__main__":
    main()
