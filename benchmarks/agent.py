"""What a language model costs a run: `python -m benchmarks.agent`, about six minutes; `--quick`, one.

Three things, with a scripted endpoint behind real HTTP in place of a provider:
- the time from a new step in the log until the model is asked about it: looking, observation, prompt, HTTP;
- tokens of a decision in runs of 1,000 and of 100,000 steps, as estimated from the characters sent;
- throughput of a real Trainer in async mode while the endpoint takes 30 s for each answer, against the plain Trainer.

Writes `results/agent.json` and the section "Agent" of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from agenttune.agent import AgentLoop
from agenttune.config import BudgetSettings, LlmSettings, WakeSettings
from agenttune.control import LocalControl
from agenttune.control.reader import ControlReader
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import open_policy
from agenttune.protocol.events import KnobsRead
from agenttune.protocol.metrics import Point
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog
from agenttune.testing import ChatRequest, ScriptedEndpoint, says
from benchmarks.core.sizing import depth_for
from benchmarks.core.slices import TURN_S
from benchmarks.core.throughput import Throughput, measure_throughput
from benchmarks.page import BENCHMARKS, Machine, describe_machine, write_section

LENGTHS = (1_000, 100_000)
SLOW_S = 30.0
STEP_MS = 50.0
CHARACTERS_PER_TOKEN = 4
"""For estimates (rule of thumb for English; a provider counts its own)."""


@dataclass(frozen=True)
class Decisions:
    """Decisions of the shipped `llm` policy on a recorded run.

    Attributes:
        steps: Length of the run.
        count: Decisions made.
        ours_ms: Median time from a new step in the log until the endpoint has the request.
        sent_characters: Median over decisions of what was sent in one call, tools included.
        message_characters: The same for the last message, which is all that differs between decisions.
    """

    steps: int
    count: int
    ours_ms: float
    sent_characters: float
    message_characters: float


def record_run(folder: Path, steps: int) -> None:
    """A run that goes well, written straight into a log."""
    info = RunInfo(run_id="r", name="r", status="running", created_at_s=time.time(), max_steps=2 * steps)
    log = RunLog.create(folder / "r", info)
    rate = KnobState(name="lr", base=1e-3, effective=1e-3, command="update_optimizer")
    log.append(KnobsRead(knobs=[rate]))
    log.update_info(capabilities=["update_optimizer", "update_training", "save_checkpoint", "do_evaluate"])
    draw, batch = random.Random(0), 5_000
    for first in range(1, steps + 1, batch):
        points = []
        for step in range(first, min(first + batch, steps + 1)):
            loss = (1 + 3 * math.exp(-4 * step / steps)) * math.exp(draw.gauss(0, 0.03))
            values = {"step_loss": loss, "step_grad_norm": draw.uniform(0.5, 1.5), "lr": 1e-3, "base_lr": 1e-3}
            points.append(Point(step=step, at_s=time.time(), values=values))
        log.append_points(points)
    log.close()


def measure_decisions(folder: Path, steps: int, count: int) -> Decisions:
    """Let the policy decide `count` times, one new step before each, through the real loop and HTTP."""
    record_run(folder, steps)
    control, log = LocalControl(folder), RunLog.open(folder / "r")
    with ScriptedEndpoint(lambda request: says("hold: it goes well")) as endpoint:
        llm = LlmSettings(model="scripted", base_url=endpoint.base_url)
        context = PolicyContext(llm=llm, budgets=BudgetSettings(), reader=ControlReader(control, "r"))
        loaded = open_policy("llm", context)
        wake = WakeSettings(every_steps=1, poll_s=0.01)
        loop = AgentLoop(control, "r", loaded.policy, wake)
        taken_ms = []
        for number in range(1, count + 1):
            values = {"step_loss": 1.0, "lr": 1e-3, "eval_loss": 1.0}
            log.append_points([Point(step=steps + 1000 * number, at_s=time.time(), values=values)])
            asked = len(endpoint.requests)
            began_s = time.perf_counter()
            while len(endpoint.requests) == asked:
                loop.tick()
                time.sleep(0.0005)
                if time.perf_counter() - began_s > 10:
                    raise SystemExit("the policy did not ask its model; nothing was measured")
            taken_ms.append((time.perf_counter() - began_s) * 1e3)
        sizes = [_sizes(request) for request in endpoint.requests]
    log.close()
    return Decisions(
        steps,
        count,
        statistics.median(taken_ms),
        statistics.median(whole for whole, _ in sizes),
        statistics.median(last for _, last in sizes),
    )


def _sizes(request: ChatRequest) -> tuple[int, int]:
    texts = [str(message.get("content") or "") for message in request.messages]
    tools = json.dumps(request.body.get("tools", []))
    return sum(map(len, texts)) + len(tools), len(texts[-1])


def measure_slow(folder: Path, pairs: int, rounds: int) -> Throughput:
    """The default policy, guardian and model, beside a real Trainer; the model takes 30 s to answer."""
    sizing = folder / "sizing"
    sizing.mkdir()
    depth = depth_for(sizing, STEP_MS)
    with ScriptedEndpoint(lambda request: says("hold").after(SLOW_S)) as endpoint:
        config = folder / "config.yaml"
        llm = {"model": "scripted", "base_url": endpoint.base_url, "timeout_s": 2 * SLOW_S}
        config.write_text(yaml.safe_dump({"run": {"module": "json"}, "llm": llm}), encoding="utf-8")
        agent = ("--policy", "default", "--config", str(config))
        measured = measure_throughput(folder, STEP_MS, depth, pairs, rounds, agent)
        asked = len(endpoint.requests)
    if not asked:
        raise SystemExit("the model was never asked; nothing was measured")
    return measured


def section(decisions: list[Decisions], slow: Throughput, machine: Machine) -> str:
    lines = [
        "## Agent: what a language model costs a run",
        "",
        f"`python -m benchmarks.agent`, {machine.line()}",
        "",
        f"A decision of `policies/llm.yaml` behind a scripted endpoint that answers at once (real HTTP); tokens are "
        f"characters over {CHARACTERS_PER_TOKEN}, an estimate.",
        "",
        "| run length | decisions | from a step to the request | sent, with tools | thereof new each time |",
        "|---|---|---|---|---|",
        *map(_row, decisions),
        "",
        f"Throughput with `policies/default.yaml` in async mode, an endpoint that takes {SLOW_S:g} s, server and a "
        f"live client, over the plain Trainer at steps of {statistics.median(slow.plain_ms):.0f} ms: "
        f"**{slow.ratio:.3f}** (goal 0.99; median of {len(slow.plain_ms)} rounds in turns of {TURN_S:g} s; by pair of "
        f"processes {', '.join(f'{ratio:.3f}' for ratio in slow.pair_ratios)}).",
    ]
    return "\n".join(lines) + "\n"


def _row(d: Decisions) -> str:
    whole, new = (round(c / CHARACTERS_PER_TOKEN) for c in (d.sent_characters, d.message_characters))
    return f"| {d.steps:,} steps | {d.count} | {d.ours_ms:.0f} ms | {whole:,} tokens | {new:,} tokens |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of the benchmark itself; nothing is written")
    quick = parser.parse_args().quick
    machine = describe_machine()
    decisions = []
    for steps in LENGTHS:
        with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
            decisions.append(measure_decisions(Path(name), steps, 5 if quick else 30))
    with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as name:
        slow = measure_slow(Path(name), pairs=1 if quick else 3, rounds=1 if quick else 3)
    text = section(decisions, slow, machine)
    print(text)
    if not quick:
        (BENCHMARKS / "results").mkdir(exist_ok=True)
        raw = {"machine": asdict(machine), "decisions": [asdict(d) for d in decisions], "slow": asdict(slow)}
        (BENCHMARKS / "results" / "agent.json").write_text(json.dumps(raw, indent=1) + "\n")
        write_section("agent", text)


if __name__ == "__main__":
    main()
