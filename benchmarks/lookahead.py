"""What looking ahead is worth, and what it costs: `python -m benchmarks.lookahead`, about eight minutes on two cores.

For each seed, `examples/char_gpt.py` is trained with the plain Trainer, with `agenttune run` and the lookahead policy,
and with the plain Trainer for as many steps more as the probes took, at a learning rate that is far too low and at a
good one. Writes `results/lookahead.json` and the section "Lookahead" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.char_gpt import FAR_TOO_LOW, GOOD, train_alone, train_under
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

LOCKSTEP = {"mode": "lockstep"}
"""The same steps whatever else the machine does."""


@dataclass(frozen=True)
class Outcome:
    """Final evaluation losses in nats a character, of one seed at one rate.

    Attributes:
        alone: The plain Trainer.
        ahead: With the lookahead policy.
        longer: The plain Trainer, for as many steps as the policy's run with its trials.
        probes: How many there were.
        adopted: After how many something was changed.
        extra_steps: Steps of all trials.
        extra_s: Their time, in seconds.
    """

    lr: float
    seed: int
    alone: float
    ahead: float
    longer: float
    probes: int
    adopted: int
    extra_steps: int
    extra_s: float


def measure(lr: float, seed: int, steps: int) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = train_alone(lr, seed, steps, folder / "alone")
        ahead, summary = train_under("lookahead", lr, seed, steps, folder, wake=LOCKSTEP)
        cost = summary["probing"]
        extra = int(cost["extra_steps"])
        longer = train_alone(lr, seed, steps + extra, folder / "longer") if extra else alone
    probes, adopted = int(cost["probes"]), int(cost["adopted"])
    return Outcome(lr, seed, alone, ahead, longer, probes, adopted, extra, cost["extra_s"])


def section(outcomes: list[Outcome], steps: int, machine: Machine) -> str:
    lines = [
        "## Lookahead: what it is worth, and what it costs",
        "",
        f"`python -m benchmarks.lookahead`, {machine.line()}",
        "",
        f"`examples/char_gpt.py`, {steps} steps, final evaluation loss in nats a character. Alone: the plain Trainer; "
        "longer: the plain Trainer with as many steps more as the probes took. Policy as shipped, in lockstep.",
        "",
        "| learning rate | seed | alone | longer | with lookahead | probes, adopted | extra steps | their time (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.lr:g} | {o.seed} | {o.alone:.3f} | {o.longer:.3f} | {o.ahead:.3f} | {o.probes}, {o.adopted} "
        f"| {o.extra_steps} ({o.extra_steps / steps:.0%}) | {o.extra_s:.1f} |"
        for o in outcomes
    ]
    for lr in dict.fromkeys(o.lr for o in outcomes):
        mine = [o for o in outcomes if o.lr == lr]
        alone, longer, ahead = (statistics.fmean(getattr(o, arm) for o in mine) for arm in ("alone", "longer", "ahead"))
        lines.append(f"| {lr:g} | mean | {alone:.3f} | {longer:.3f} | {ahead:.3f} | | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    arguments = parser.parse_args()
    steps, seeds = (300, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    machine = describe_machine()
    jobs = [(lr, seed) for lr in (FAR_TOO_LOW, GOOD) for seed in range(seeds)]
    with ThreadPoolExecutor(2) as pool:  # each trains on one thread
        outcomes = list(pool.map(lambda job: measure(job[0], job[1], steps), jobs))
    text = section(outcomes, steps, machine)
    print(text)
    if not arguments.quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "steps": steps, "outcomes": [asdict(o) for o in outcomes]}
        (BENCHMARKS / "results" / "lookahead.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("lookahead", text)


if __name__ == "__main__":
    main()
