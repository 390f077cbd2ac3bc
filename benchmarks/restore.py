"""How long going back takes: `python -m benchmarks.restore`, about five minutes; `--quick`, seconds.

A real Trainer of 10 and of 50 million parameters (AdamW, 32-bit) gets real commands through the gate: it saves its
state, in memory or on disk, and goes back to it. The time of a command is that from the end of the step at which it is
applied to the beginning of the next step, less that of steps without a command. Beside it, in the same run: copying
the same bytes (weights and Adam's state) tensor by tensor, into memory that is there already. Writes
`results/jump.json` and the section "Jump" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune
from agenttune.control import LocalControl
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.store.run_log import list_runs
from agenttune.trainer import Options
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

WIDTH = 1024
BATCH = 4
QUIET_STEPS = 4
"""Steps without a command between two commands (guess: enough for the caches to be training's own again)."""
AUTHOR = Author(principal="operator", name="benchmark")


@dataclass(frozen=True)
class Act:
    """One thing that is done and timed: a command, or the copy that it is compared with (`kind` is `copy`)."""

    kind: str
    keep_in: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.keep_in}".strip()


COPY = Act("copy")
ACTS = [Act(kind, place) for place in ("memory", "disk") for kind in ("save_checkpoint", "load_checkpoint")]


@dataclass
class Times:
    """What was measured at one size.

    Attributes:
        parameters: Of the model.
        state_bytes: Weights and Adam's state.
        step_s: Median time of a step.
        quiet_s: Median time between two steps without a command.
        acts_s: Seconds of each act, by its name, in order; of commands less `quiet_s`.
    """

    parameters: int = 0
    state_bytes: int = 0
    step_s: float = 0.0
    quiet_s: float = 0.0
    acts_s: dict[str, list[float]] = field(default_factory=dict)

    def median_s(self, name: str) -> float:
        return statistics.median(self.acts_s[name])

    def ratio(self, name: str) -> float:
        """How many times as long as copying the bytes."""
        return self.median_s(name) / self.median_s(COPY.name)


class Noise(Dataset[dict[str, torch.Tensor]]):
    """Random inputs: what is learnt does not matter here."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.full((WIDTH,), index / len(self)), "labels": torch.zeros(WIDTH)}


class Layers(nn.Module):
    """`depth` layers of 1024, 1.05 million parameters each."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(depth)))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(self.layers(inputs), labels)}


class Conductor(TrainerCallback):  # type: ignore[misc]
    """Gives a command every few steps and takes the time; called before agenttune's own callback."""

    def __init__(self, runs_dir: Path, rounds: int, times: Times) -> None:
        self._control = LocalControl(runs_dir)
        self._runs_dir = runs_dir
        self._times = times
        self._plan: Iterator[Act] = iter([act for _ in range(rounds) for act in (COPY, *ACTS)])
        self._left = 2 * QUIET_STEPS  # the first steps make Adam's state
        self._act: Act | None = None
        self._buffers: list[torch.Tensor] = []
        self._ended_s: float | None = None
        self._began_s: float | None = None
        self._quiet_s: list[float] = []
        self._steps_s: list[float] = []
        self.asked: list[str] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now_s = time.perf_counter()
        if self._ended_s is not None:
            taken_s = now_s - self._ended_s
            if self._act is None:
                self._quiet_s.append(taken_s)
            else:
                self._times.acts_s.setdefault(self._act.name, []).append(taken_s)
            self._act = None
        self._began_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._began_s is not None:
            self._steps_s.append(time.perf_counter() - self._began_s)
        self._left -= 1
        if self._left <= 0:
            self._left = QUIET_STEPS
            self._do_next(control, kwargs)
        self._ended_s = time.perf_counter()

    def _do_next(self, control: Any, kwargs: dict[str, Any]) -> None:
        act = next(self._plan, None)
        if act is None:
            control.should_training_stop = True
        elif act is COPY:
            copied_s = self._copy(state_tensors(kwargs["model"], kwargs["optimizer"]))
            self._times.acts_s.setdefault(act.name, []).append(copied_s)
        else:
            self._submit(act)
            self._act = act

    def _copy(self, tensors: list[torch.Tensor]) -> float:
        if not self._buffers:
            self._buffers = [tensor.clone() for tensor in tensors]
        begin_s = time.perf_counter()
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor)
        return time.perf_counter() - begin_s

    def _submit(self, act: Act) -> None:
        fields = {"tag": act.keep_in, "keep_in": act.keep_in} if act.kind == "save_checkpoint" else {}
        command = {"kind": act.kind, **(fields or {"checkpoint_id": act.keep_in})}
        proposal = Proposal.model_validate({"command": command, "author": AUTHOR})
        self._control.submit(list_runs(self._runs_dir)[0].run_id, proposal)
        self.asked.append(proposal.command_id)

    def finish(self) -> None:
        """Work the figures out, once training has ended; every command must have been applied."""
        run_id = list_runs(self._runs_dir)[0].run_id
        for command_id in self.asked:
            record = self._control.command(run_id, command_id)
            if record.state not in (State.APPLIED, State.KEPT):
                raise SystemExit(f"not applied, so nothing was measured: {record}")
        times = self._times
        times.step_s, times.quiet_s = statistics.median(self._steps_s), statistics.median(self._quiet_s)
        for act in ACTS:
            times.acts_s[act.name] = [taken_s - times.quiet_s for taken_s in times.acts_s[act.name]]


def state_tensors(model: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    """The model's tensors and those of Adam's state."""
    entries = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    return [*model.state_dict().values(), *(value for value in entries if isinstance(value, torch.Tensor))]


def measure(depth: int, rounds: int, folder: Path) -> Times:
    """One run at one size, on one thread."""
    torch.set_num_threads(1)
    set_seed(0)
    model, times = Layers(depth), Times()
    conductor = Conductor(folder / "runs", rounds, times)
    trainer = agenttune.make_interactive(Trainer)(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=10_000,
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
        callbacks=[conductor],
        agenttune=Options(runs_dir=folder / "runs", server=False),
    )
    trainer.train()
    conductor.finish()
    times.parameters = sum(parameter.numel() for parameter in model.parameters())
    tensors = state_tensors(model, trainer.optimizer)
    times.state_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return times


def section(measured: list[Times], rounds: int, machine: Machine) -> str:
    lines = [
        "## Jump: what going back costs",
        "",
        f"`python -m benchmarks.restore`, {machine.line()}",
        "",
        f"Medians of {rounds}, and the ratio to copying the same bytes in memory, tensor by tensor, in the same run on "
        "one thread. A command's time is that from the end of its step to the beginning of the next, less a step's "
        "without a command: reading it from the log, the work itself, and the next batch. Disk: the folder for "
        "temporary files, through the page cache.",
        "",
        "| parameters | state | a step | copying | " + " | ".join(_title(act) for act in ACTS) + " |",
        "|---|---|---|---|" + "---|" * len(ACTS),
        *map(_row, measured),
    ]
    return "\n".join(lines) + "\n"


def _title(act: Act) -> str:
    if act.kind == "load_checkpoint":
        return f"back from {act.keep_in}"
    return "save in memory" if act.keep_in == "memory" else "save on disk"


def _row(t: Times) -> str:
    cells = [f"{t.median_s(act.name) * 1e3:.0f} ms ({t.ratio(act.name):.1f}x)" for act in ACTS]
    head = [f"{t.parameters / 1e6:.1f} M", f"{t.state_bytes / 1e6:.0f} MB", f"{t.step_s * 1e3:.0f} ms"]
    return "| " + " | ".join([*head, f"{t.median_s(COPY.name) * 1e3:.0f} ms", *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    machine = describe_machine()
    depths, rounds = ((1,), 2) if arguments.quick else ((10, 48), arguments.rounds)
    measured = []
    for depth in depths:
        with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
            measured.append(measure(depth, rounds, Path(name)))
    text = section(measured, rounds, machine)
    print(text)
    if not arguments.quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "rounds": rounds, "measured": [asdict(times) for times in measured]}
        (BENCHMARKS / "results" / "jump.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("jump", text)


if __name__ == "__main__":
    main()
