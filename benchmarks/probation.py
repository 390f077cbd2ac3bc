"""Whether probation protects a run from a bad policy: `python -m benchmarks.probation`, about fifteen minutes.

A real Trainer learns MNIST digits' first cousins, scikit-learn's `load_digits`, for 10,000 steps: alone, under a policy
that turns the learning rate at random within wide guardrails, and under the same policy with probation, with each of
its answers to doubt. The policy asks through the gate, in the training process, so that it is the same in every run of
a seed. Five seeds. Writes `results/probation.json` and the section "Probation" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

import agenttune
from agenttune.control import LocalControl
from agenttune.protocol.proposals import Author, Proposal, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from agenttune.trainer import Options
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

STEPS, EVERY = 10_000, 200
"""Steps of a run, and between two attempts of the random policy."""
LOWEST, HIGHEST = 1e-6, 10.0
"""Guardrails: rates that the policy may ask for. SGD on this task blows up above about 1."""
LARGEST_FACTOR = 100.0
PROBATION = {"steps": 60, "depth": "state", "cooldown_steps": 0}
AGENT = Author(principal="agent", name="random")
WATCHED = {f"in doubt: {what}": {**PROBATION, "in_doubt": what} for what in ("put_back", "keep", "revert")}
ALONE, RANDOM = "alone", "random"
ARMS = (ALONE, RANDOM, *WATCHED)
GOAL_FRAC = 0.05
"""How much worse than the untouched run one under probation may end."""


@dataclass(frozen=True)
class Outcome:
    """One run. Losses are those of the held-out digits, in nats, at the end."""

    seed: int
    arm: str
    loss: float
    asked: int
    reverted: int
    cpu_s: float


class Digits(Dataset[dict[str, torch.Tensor]]):
    """1,797 digits of 8 by 8; every fifth is held out."""

    def __init__(self, held_out: bool) -> None:
        raw = load_digits()
        keep = [i for i in range(len(raw.target)) if (i % 5 == 0) == held_out]
        self.inputs = torch.tensor(raw.data[keep], dtype=torch.float32) / 16
        self.classes = torch.tensor(raw.target[keep])

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": self.classes[index]}


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class RandomAgent(TrainerCallback):  # type: ignore[misc]
    """Asks for a rate at random, log-uniform around the present one, every `EVERY` steps."""

    def __init__(self, runs_dir: Path, seed: int) -> None:
        self._control, self._draw, self._next = LocalControl(runs_dir), random.Random(seed), EVERY

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self._next:
            return
        self._next = state.global_step + EVERY
        now = float(kwargs["optimizer"].param_groups[0]["lr"])
        factor = math.exp(self._draw.uniform(-1, 1) * math.log(LARGEST_FACTOR))
        lr = min(max(now * factor, LOWEST), HIGHEST)
        command = {"kind": "update_optimizer", "lr": lr}
        self._control.submit("r", Proposal.model_validate({"command": command, "author": AGENT}))


def measure(seed: int, arm: str, steps: int) -> Outcome:
    torch.set_num_threads(1)
    set_seed(seed)
    model = Perceptron()
    with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
        runs_dir = Path(name) / "runs"
        gate = {"bounds": {"lr": [LOWEST, HIGHEST]}, "max_per_minute": 100_000}
        rules = {"gate": gate, "budgets": {"max_commands": None}}
        rules |= {"probation": WATCHED[arm]} if arm in WATCHED else {}
        info = RunInfo(run_id="r", name="r", status="starting", created_at_s=time.time(), rules=rules)
        RunLog.create(runs_dir / "r", info).close()
        os.environ["AGENTTUNE_RUN_ID"] = "r"  # the run that waits for its trainer, as `agenttune run` makes one
        args = TrainingArguments(
            output_dir=str(Path(name) / "out"),
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0.05,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=500,
            save_strategy="no",
            seed=seed,
            data_seed=seed,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = agenttune.make_interactive(Trainer)(
            model=model,
            args=args,
            train_dataset=Digits(held_out=False),
            eval_dataset=Digits(held_out=True),
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.05), None),
            callbacks=[RandomAgent(runs_dir, seed)] if arm != ALONE else [],
            agenttune=Options(runs_dir=runs_dir, server=False),
        )
        began_s = time.process_time()
        trainer.train()
        cpu_s = time.process_time() - began_s
        loss = float(trainer.evaluate()["eval_loss"])
        log = RunLog.open(runs_dir / "r")
        asked = log.count_commands(principal="agent")
        reverted = log.count_commands(State.REVERTED, principal="agent")
        log.close()
    return Outcome(seed, arm, loss, asked, reverted, cpu_s)


def section(outcomes: list[Outcome], steps: int, machine: Machine) -> str:
    lines = [
        "## Probation: a random policy, with and without it",
        "",
        f"`python -m benchmarks.probation`, {machine.line()}",
        "",
        f"Digits of scikit-learn, SGD at 0.05, {steps:,} steps, held-out loss in nats at the end. The random policy "
        f"asks every {EVERY} steps for a rate up to {LARGEST_FACTOR:g} times higher or lower, within [{LOWEST:g}, "
        f"{HIGHEST:g}]; probation: {PROBATION['steps']} steps, depth {PROBATION['depth']}. What noise does not let one "
        "judge has its old values put back (the default), is kept, or is reverted by the whole state. In brackets: "
        "against the untouched run; changes taken back.",
        "",
        f"| seed | {' | '.join(ARMS)} |",
        "|" + "---|" * (len(ARMS) + 1),
    ]
    for seed in dict.fromkeys(o.seed for o in outcomes):
        alone, wild, *watched = (next(o for o in outcomes if o.seed == seed and o.arm == arm) for arm in ARMS)
        cells = [f"{o.loss:.4f} ({o.loss / alone.loss - 1:+.1%}; {o.reverted} of {o.asked})" for o in watched]
        lines.append(f"| {seed} | {alone.loss:.4f} | {wild.loss:.4f} | {' | '.join(cells)} |")
    means = {arm: statistics.fmean(o.loss for o in outcomes if o.arm == arm) for arm in ARMS}
    cells = [f"{means[arm]:.4f} ({means[arm] / means[ALONE] - 1:+.1%})" for arm in WATCHED]
    lines.append(f"| mean | {means[ALONE]:.4f} | {means[RANDOM]:.4f} | {' | '.join(cells)} |")
    costs = {arm: sum(o.cpu_s for o in outcomes if o.arm == arm) for arm in ARMS}
    lines.append(
        f"| CPU time, times that of alone | 1 | {' | '.join(f'{costs[a] / costs[ALONE]:.2f}' for a in ARMS[1:])} |"
    )
    worst = [f"{arm} {_worst(outcomes, arm):+.1%}" for arm in WATCHED]
    lines += ["", f"Goal: no worse than {GOAL_FRAC:.0%} above the untouched run; the worst seed: {', '.join(worst)}."]
    return "\n".join(lines) + "\n"


def _worst(outcomes: list[Outcome], arm: str) -> float:
    """The largest part by which a run of this arm ended above the untouched one of its seed."""
    alone = {o.seed: o.loss for o in outcomes if o.arm == ALONE}
    return max(o.loss / alone[o.seed] - 1 for o in outcomes if o.arm == arm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    quick = parser.parse_args().quick
    steps, seeds = (1_500, (0,)) if quick else (STEPS, (0, 1, 2, 3, 4))
    machine = describe_machine()
    outcomes = [measure(seed, arm, steps) for seed in seeds for arm in ARMS]
    text = section(outcomes, steps, machine)
    print(text)
    if not quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "steps": steps, "outcomes": [asdict(o) for o in outcomes]}
        (BENCHMARKS / "results" / "probation.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("probation", text)


if __name__ == "__main__":
    main()
