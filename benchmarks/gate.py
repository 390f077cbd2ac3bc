"""How long the gate takes: `python -m benchmarks.gate`, half a minute.

A command of an agent that a rule approves by itself, submitted to a run whose log holds points and commands already;
the time from the call of `submit` to the record that says it is queued: reading the run, guardrails, rules, and the
commit. Writes `results/gate.json` and the section "Gate" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from agenttune.control import LocalControl
from agenttune.protocol.events import KnobsRead
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Author, Proposal, State
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

AGENT = Author(principal="agent", name="benchmark")
RULES = {
    "gate": {
        "bounds": {"lr": [1e-6, 1.0]},
        "max_change_factor": 10,
        "window": {"steps": 200, "max_change_factor": 100, "max_commands": 10_000},
        "approval": [
            {"commands": ["update_optimizer"], "knobs": ["lr"], "max_factor": 2, "approvers": ["auto"]},
            {"approvers": ["human"]},
        ],
    },
    "budgets": {"max_commands": None},
}


@dataclass(frozen=True)
class Times:
    """Milliseconds of a submission, in a run with `before` commands of agents behind it."""

    before: int
    count: int
    median_ms: float
    p95_ms: float


def measure(before: int, count: int) -> Times:
    with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
        info = RunInfo(run_id="r", name="r", status="running", created_at_s=time.time(), rules=RULES)
        log = RunLog.create(Path(name) / "r", info)
        log.append(KnobsRead(knobs=[KnobState(name="lr", base=0.01, effective=0.01, command="update_optimizer")]))
        log.append_points([Point(step=s, at_s=time.time(), values={"step_loss": 1.0}) for s in range(1, 10_001)])
        # By its clock the others were long ago: `max_per_minute` is not the subject here.
        control = LocalControl(Path(name), clock=lambda: time.time() + 3600)
        taken_ms = []
        for number in range(before + count):
            command = {"kind": "update_optimizer", "lr": 0.01 * (1 + (number % 10) / 20)}
            proposal = Proposal.model_validate({"command": command, "author": AGENT})
            began_s = time.perf_counter()
            record = control.submit("r", proposal)
            if number >= before:
                taken_ms.append((time.perf_counter() - began_s) * 1e3)
            if record.state is not State.QUEUED:
                raise SystemExit(f"not approved, so nothing was measured: {record.verdict}")
            log.acknowledge(record.command_id, Ack(outcome="applied", step=10_000))
        log.close()
    return Times(before, count, statistics.median(taken_ms), statistics.quantiles(taken_ms, n=20)[-1])


def section(measured: list[Times], machine: Machine) -> str:
    rows = [f"| {t.before:,} | {t.count} | {t.median_ms:.2f} ms | {t.p95_ms:.2f} ms |" for t in measured]
    return "\n".join(
        [
            "## Gate: how long it takes",
            "",
            f"`python -m benchmarks.gate`, {machine.line()}",
            "",
            "A learning rate that a rule approves by itself, all guardrails on, from `submit` to the committed record "
            "(goal: under 2 ms, median).",
            "",
            "| commands before | measured | median | p95 |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    quick = parser.parse_args().quick
    machine = describe_machine()
    measured = [measure(before, 50 if quick else 500) for before in ((0,) if quick else (0, 1_000))]
    text = section(measured, machine)
    print(text)
    if not quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "measured": [asdict(times) for times in measured]}
        (BENCHMARKS / "results" / "gate.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("gate", text)


if __name__ == "__main__":
    main()
