"""What guardian makes of the example: `python -m benchmarks.rescue`, about seven minutes on two cores.

For each seed, `examples/char_gpt.py` is trained with the plain Trainer and with `agenttune run` and the guardian
policy, at a learning rate that is far too high and at a good one. Writes the section "Rescue" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from benchmarks.page import Machine, describe_machine, write_section

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "char_gpt.py"
FAR_TOO_HIGH, GOOD = 0.1, 0.003
"""Learning rates of the example, AdamW, constant (chosen by a sweep; 0.003 is the best of it)."""


@dataclass(frozen=True)
class Outcome:
    """Final evaluation losses in nats a character, of one seed at one rate."""

    lr: float
    seed: int
    alone: float
    guarded: float
    commands: int


def train_alone(lr: float, seed: int, steps: int, folder: Path) -> float:
    arguments = ["--lr", str(lr), "--seed", str(seed), "--steps", str(steps), "--plain", "--out", str(folder)]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, text=True)
    return float(re.findall(r"final evaluation loss: ([0-9.a-z]+)", done.stdout)[-1])


def train_guarded(lr: float, seed: int, steps: int, folder: Path) -> tuple[float, int]:
    """The final evaluation loss and the number of commands that were applied."""
    arguments = ["--lr", str(lr), "--seed", str(seed), "--steps", str(steps), "--out", str(folder / "out")]
    config = {
        "run": {"script": str(SCRIPT), "args": arguments},
        "policy": "guardian",
        "server": {"port": 0},
        "store": {"runs_dir": str(folder / "runs")},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    agenttune = [sys.executable, "-m", "agenttune"]
    subprocess.run([*agenttune, "run", str(path)], check=True, capture_output=True)
    report = [*agenttune, "report", "--json", "--runs-dir", str(folder / "runs")]
    summary = json.loads(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
    applied = [i for i in summary["interventions"] if i["state"] == "applied"]
    return float(summary["score"]["last"]["value"]), len(applied)


def measure(lr: float, seed: int, steps: int) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = train_alone(lr, seed, steps, folder / "alone")
        guarded, commands = train_guarded(lr, seed, steps, folder)
    return Outcome(lr, seed, alone, guarded, commands)


def section(outcomes: list[Outcome], steps: int, machine: Machine) -> str:
    lines = [
        "## Rescue: what guardian makes of the example",
        "",
        f"`make bench-rescue`, {machine.line()}",
        "",
        f"`examples/char_gpt.py`, {steps} steps, final evaluation loss in nats a character. Alone: the plain Trainer.",
        "",
        "| learning rate | seed | alone | with guardian | commands applied |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {o.lr:g} | {o.seed} | {o.alone:.3f} | {o.guarded:.3f} | {o.commands} |" for o in outcomes]
    for lr in dict.fromkeys(o.lr for o in outcomes):
        mine = [o for o in outcomes if o.lr == lr]
        alone, guarded = statistics.fmean(o.alone for o in mine), statistics.fmean(o.guarded for o in mine)
        lines.append(f"| {lr:g} | mean | {alone:.3f} | {guarded:.3f} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    machine = describe_machine()
    jobs = [(lr, seed) for lr in (FAR_TOO_HIGH, GOOD) for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(2) as pool:  # each trains on one thread
        outcomes = list(pool.map(lambda job: measure(job[0], job[1], arguments.steps), jobs))
    text = section(outcomes, arguments.steps, machine)
    print(text)
    print(json.dumps([asdict(o) for o in outcomes]))
    write_section("rescue", text)


if __name__ == "__main__":
    main()
