"""The training process that is measured: `python -m benchmarks.core.training`, once plain and once with agenttune.

It writes what it saw to a JSON file: when each step began and ended, the loss of each step, each change of the
optimizer's learning rate, and a hash of the final weights. A file ending in `.started` appears beside it after the
first steps; SIGUSR1 ends the training after the step.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune

WIDTH = 256
CLASSES = 10
BATCH = 64
FIRST_STEPS = 20


class RateChange(BaseModel):
    """The optimizer's learning rate was `lr` for the first time at `at_s` (Unix time)."""

    at_s: float
    lr: float


class Trace(BaseModel):
    """What a training process saw of itself.

    Attributes:
        ends_s: End of each step, in seconds of the process's own clock.
        ends_at_s: The same in Unix time, to compare with other processes.
        cpu_s: Processor time of the process, all threads, at the end of each step.
        thread_cpu_s: The same of the thread that trains.
        losses: Loss of each step, as hexadecimal floats: exact.
        rates: Changes of the learning rate.
        weights: SHA-256 of the final weights.
    """

    ends_s: list[float] = []
    ends_at_s: list[float] = []
    cpu_s: list[float] = []
    thread_cpu_s: list[float] = []
    losses: list[str] = []
    rates: list[RateChange] = []
    weights: str = ""


class Noise(Dataset[dict[str, torch.Tensor]]):
    """Random inputs with random classes: what is learnt does not matter here."""

    def __init__(self, size: int = 2048) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(size, WIDTH, generator=generator)
        self.classes = torch.randint(CLASSES, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": self.classes[index]}


class Perceptron(nn.Module):
    """`depth` layers of 256, with dropout; the depth sets how long a step takes."""

    def __init__(self, depth: int, losses: list[torch.Tensor]) -> None:
        super().__init__()
        blocks = [m for _ in range(depth) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1))]
        self.layers = nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))
        self._losses = losses

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = nn.functional.cross_entropy(self.layers(inputs), labels)
        self._losses.append(loss.detach())
        return {"loss": loss}


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Notes the time of each step and of each change of the learning rate, in both kinds of run alike."""

    def __init__(self, trace: Trace, started: Path) -> None:
        self._trace = trace
        self._started = started
        self._lr: float | None = None
        self._is_over = False
        signal.signal(signal.SIGUSR1, self._end)

    def _end(self, number: int, frame: object) -> None:
        self._is_over = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(kwargs["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trace.ends_s.append(time.perf_counter())
        self._trace.ends_at_s.append(time.time())
        self._trace.cpu_s.append(time.process_time())
        self._trace.thread_cpu_s.append(time.thread_time())
        self._look(kwargs["optimizer"])
        if len(self._trace.ends_s) == FIRST_STEPS:
            self._started.touch()
        control.should_training_stop = control.should_training_stop or self._is_over

    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        lr = float(optimizer.param_groups[0]["lr"])
        if lr != self._lr:
            self._lr = lr
            self._trace.rates.append(RateChange(at_s=time.time(), lr=lr))


def train(depth: int, steps: int, plain: bool, folder: Path, started: Path) -> Trace:
    """One run of at most `steps` steps on one thread."""
    torch.set_num_threads(1)
    set_seed(0)
    trace, losses = Trace(), list[torch.Tensor]()
    trainer_class = Trainer if plain else agenttune.make_interactive(Trainer)
    trainer = trainer_class(
        model=Perceptron(depth, losses),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=10,
            save_strategy="no",
            seed=0,
            data_seed=0,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Noise(),
        callbacks=[Watcher(trace, started)],
    )
    trainer.train()
    trace.losses = [float(loss).hex() for loss in losses]
    trace.weights = _digest(trainer.model)
    return trace


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="the trace's JSON file")
    args = parser.parse_args()
    trace = train(args.depth, args.steps, args.plain, args.out.parent / "checkpoints", args.out.with_suffix(".started"))
    args.out.write_text(trace.model_dump_json())


if __name__ == "__main__":
    main()
