"""What it costs that a run keeps states to go back to: `python -m benchmarks.kept_states`, about four minutes.

A real Trainer of 1, 10 and 50 million parameters (AdamW, 32-bit) for 200 steps, with the defaults: the state of before
the first step, and a good one each 25th of the run. Taken are the times of each snapshot and of each look whether a
state is good, where they are made, in the training thread, and the time of the whole training in between; an average
over all steps is the sum of the first two over that. `--quick`: seconds, and nothing is written. Writes
`results/kept_states.json` and the section "Kept states" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune
from agenttune.trainer import Options
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section
from benchmarks.restore import BATCH, Layers, Noise, state_tensors

DEPTHS = (1, 10, 48)
STEPS = 200


@dataclass
class Cost:
    """What was measured at one size, in seconds of the clock.

    Attributes:
        parameters: Of the model.
        state_bytes: Weights and Adam's state.
        steps: Of the training.
        snapshots_s: Each state that was kept, the first into memory that was never used before.
        looks_s: Each look whether a state is good.
        trained_s: The whole training.
    """

    parameters: int = 0
    state_bytes: int = 0
    steps: int = 0
    snapshots_s: list[float] = field(default_factory=list)
    looks_s: list[float] = field(default_factory=list)
    trained_s: float = 0.0

    @property
    def share(self) -> float:
        """Of the training's time."""
        return (sum(self.snapshots_s) + sum(self.looks_s)) / self.trained_s

    @property
    def per_step_s(self) -> float:
        return (sum(self.snapshots_s) + sum(self.looks_s)) / self.steps


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times what the session of a trainer does about the states that it keeps."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kept = self.trainer.interactive.session._kept
        kept.take = self._timed(kept.take, self._cost.snapshots_s)
        kept._is_good = self._timed(kept._is_good, self._cost.looks_s)

    def _timed(self, call: Callable[..., Any], taken_s: list[float]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return call(*args)
            finally:
                taken_s.append(time.perf_counter() - began_s)

        return timed


def measure(depth: int, steps: int, folder: Path) -> Cost:
    """One run at one size, on one thread."""
    torch.set_num_threads(1)
    set_seed(0)
    model, cost = Layers(depth), Cost(steps=steps)
    trainer = agenttune.make_interactive(Trainer)(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            logging_steps=100,
            save_strategy="no",
            seed=0,
            data_seed=0,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Noise(),
        agenttune=Options(runs_dir=folder / "runs", server=False),
    )
    stopwatch = Stopwatch(cost)
    stopwatch.trainer = trainer
    trainer.add_callback(stopwatch)
    began_s = time.perf_counter()
    trainer.train()
    cost.trained_s = time.perf_counter() - began_s
    cost.parameters = sum(parameter.numel() for parameter in model.parameters())
    cost.state_bytes = sum(t.numel() * t.element_size() for t in state_tensors(model, trainer.optimizer))
    return cost


def section(costs: list[Cost], machine: Machine) -> str:
    lines = [
        "## Kept states: what it costs to have one to go back to",
        "",
        f"`python -m benchmarks.kept_states`, {machine.line()}",
        "",
        f"{costs[0].steps} steps of a real Trainer on one thread, a good state each 25th of the run (the default), in "
        "memory. A step here is short, as its batch is small: the share of a real training is lower.",
        "",
        "| parameters | state | a snapshot, median | the longest | a look, median | all of it, a step | of the time |",
        "|---|---|---|---|---|---|---|",
        *map(_row, costs),
    ]
    return "\n".join(lines) + "\n"


def _row(cost: Cost) -> str:
    median_s = statistics.median(cost.snapshots_s)
    cells = [
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.state_bytes / 1e6:.0f} MB",
        f"{median_s * 1e3:.1f} ms",
        f"{max(cost.snapshots_s) * 1e3:.1f} ms",
        f"{statistics.median(cost.looks_s) * 1e3:.1f} ms",
        f"{cost.per_step_s * 1e3:.2f} ms of {cost.trained_s / cost.steps * 1e3:.1f} ms",
        f"{cost.share * 100:.1f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    arguments = parser.parse_args()
    machine = describe_machine()
    depths, steps = ((1,), 50) if arguments.quick else (DEPTHS, STEPS)
    costs = []
    for depth in depths:
        with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
            costs.append(measure(depth, steps, Path(name)))
    text = section(costs, machine)
    print(text)
    if not arguments.quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "measured": [asdict(cost) for cost in costs]}
        (BENCHMARKS / "results" / "kept_states.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("kept-states", text)


if __name__ == "__main__":
    main()
