"""What guardian makes of the example: `python -m benchmarks.rescue`, about seven minutes on two cores.

For each seed, `examples/char_gpt.py` is trained with the plain Trainer and with `agenttune run` and the guardian
policy, at a learning rate that is far too high and at a good one. Writes the section "Rescue" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.char_gpt import FAR_TOO_HIGH, GOOD, train_alone, train_under
from benchmarks.page import Machine, describe_machine, write_section


@dataclass(frozen=True)
class Outcome:
    """Final evaluation losses in nats a character, of one seed at one rate."""

    lr: float
    seed: int
    alone: float
    guarded: float
    commands: int


def measure(lr: float, seed: int, steps: int) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = train_alone(lr, seed, steps, folder / "alone")
        guarded, summary = train_under("guardian", lr, seed, steps, folder)
    applied = [i for i in summary["interventions"] if i["state"] == "applied"]
    return Outcome(lr, seed, alone, guarded, len(applied))


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
