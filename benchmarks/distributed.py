"""What agenttune costs two processes that train one model: `python -m benchmarks.distributed`, eleven minutes on a
quiet machine with two cores; `--quick`, a few.

Two gloo processes under DDP take steps of 5, 50 and 500 ms, a fixed amount of work (`benchmarks/distributed_rank.py`).
In one pair of processes, windows of steps with agenttune alternate with windows without it, so that both see the same
machine. Told are:

- its processor time, added up: of the training thread in its calls and hooks, and of its own threads, the gloo threads
  of its groups among them, as a part of that of a step without it, over both ranks. This can tell 0.05 %;
- the same of the least that could do its work (`benchmarks/distributed_least.py`), in windows beside those;
- the ratio of whole steps with and without, by wall clock and by processor time, with the middle half of the pairs. It
  can tell what the machine is quiet enough for;
- how many steps end from a command's commit in the log, at any moment of a step, until it is applied on the last rank.

Writes `results/distributed.json` and its section of `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.page import BENCHMARKS, describe_machine, write_section


class Plan(NamedTuple):
    """One length of steps.

    Attributes:
        goal_frac: Most that agenttune should cost.
        pairs: Of windows.
        window_s: Of steps with, and then without, agenttune.
        tries: Commands.
    """

    step_ms: float
    goal_frac: float
    pairs: int
    window_s: float
    tries: int


PLANS = (Plan(5, 0.005, 20, 1.5, 20), Plan(50, 0.001, 20, 2.0, 20), Plan(500, 0.0005, 10, 4.0, 6))
Windows = list[dict[str, float]]


def measure(plan: Plan) -> dict[str, Any]:
    """Both ranks of one step length."""
    with tempfile.TemporaryDirectory() as name:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        shared["OMP_NUM_THREADS"] = "1"
        figures = map(str, (plan.step_ms, plan.pairs, plan.window_s, plan.tries))
        words = [sys.executable, "-m", "benchmarks.distributed_rank", name, *figures]
        started = [subprocess.Popen(words, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in (0, 1)]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"a rank ended with {codes}")
        told = [json.loads((Path(name) / f"rank{r}.json").read_text()) for r in (0, 1)]
    return {"step_ms": plan.step_ms, "goal_frac": plan.goal_frac, **judged(told)}


def judged(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of both ranks, each a mean of them; times in microseconds a step."""
    tuned, plain = ([t["windows"][kind] for t in told] for kind in ("with", "without"))
    step_s = _over_ranks(told, lambda windows: _middle(windows["without"], "processor_s"))
    late = [max(tries, key=lambda found: found[0]) for tries in zip(*(t["late"] for t in told), strict=True)]
    return {
        "parts_us": _parts_us(told, "with"),
        "least_us": _parts_us(told, "least"),
        "step_us": 1e6 * step_s,
        "wall": _ratio(tuned[:1], plain[:1], "wall_s"),
        "processor": _ratio(tuned, plain, "processor_s"),
        "plain_wall_ms": 1e3 * _middle(plain[0], "wall_s"),
        "late_steps": [steps for steps, _ in late],
        "late_ms": [round(1e3 * seconds, 1) for _, seconds in late],
    }


def _parts_us(told: Sequence[dict[str, Any]], kind: str) -> dict[str, float]:
    """What windows of a kind take beyond those without, a step."""

    def more(name: str) -> float:
        return _over_ranks(told, lambda windows: _middle(windows[kind], name) - _middle(windows["without"], name))

    own_s = _over_ranks(told, lambda windows: statistics.fmean(w["own_s"] for w in windows[kind]))
    parts_s = {"calls": more("calls_s"), "hooks": more("edges_s"), "own_threads": own_s, "others": more("shared_s")}
    return {name: round(1e6 * seconds, 1) for name, seconds in parts_s.items()}


def _over_ranks(told: Sequence[dict[str, Any]], column: Callable[[dict[str, Windows]], float]) -> float:
    return statistics.fmean(column(rank["windows"]) for rank in told)


def _middle(windows: Windows, name: str) -> float:
    return statistics.median(w[name] for w in windows)


def _ratio(tuned: Sequence[Windows], plain: Sequence[Windows], name: str) -> dict[str, float]:
    """Of each pair of windows, over ranks: the median, and the middle half."""
    pairs = range(len(tuned[0]))
    ratios = [sum(t[i][name] for t in tuned) / sum(p[i][name] for p in plain) - 1 for i in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"low": low, "median": middle, "high": high}


def section(found: Sequence[dict[str, Any]]) -> str:
    """What `RESULTS.md` says of it."""
    return TEXT.format(
        machine=describe_machine().line(),
        costs="\n".join(map(_cost_rows, found)),
        late="\n".join(map(_late_row, found)),
    )


def _cost_rows(found: dict[str, Any]) -> str:
    """With agenttune, and the least."""
    goal = found["goal_frac"]
    rows = []
    for who, parts_us in (("agenttune", found["parts_us"]), ("the least", found["least_us"])):
        parts = " | ".join(f"{us:.0f}" for us in parts_us.values())
        frac = sum(parts_us.values()) / found["step_us"]
        is_met = "yes" if frac <= goal else "**no**"
        ratios = " | ".join(_percent(found[name]) for name in ("wall", "processor")) if who == "agenttune" else "- | -"
        rows.append(f"| {found['step_ms']:g} ms | {who} | {parts} | {frac:.3%} | {goal:.2%} | {is_met} | {ratios} |")
    return "\n".join(rows)


def _percent(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:+.2%} ({ratio['low']:+.2%} to {ratio['high']:+.2%})"


def _late_row(found: dict[str, Any]) -> str:
    steps, took_ms = found["late_steps"], found["late_ms"]
    median, worst = statistics.median(steps), max(steps)
    return (
        f"| {found['step_ms']:g} ms | {len(steps)} | {median:g} | {worst} | {statistics.median(took_ms):.0f} ms "
        f"| {max(took_ms):.0f} ms |"
    )


TEXT = """\
## Two ranks: what a step with no command costs, and how soon a command is applied

`make bench-distributed`, {machine}

Two gloo processes under DDP. Microseconds of a processor a step that agenttune adds, mean of both ranks: the training
thread in its calls and in its hooks, its own threads, and what the process' other threads do more. Beside it the ratios
of whole steps, median over pairs of windows (middle half). The least: a flag and a sum of losses as often as agenttune
has them, four hooks that do nothing, and in threads a row a step in SQLite and a sign of life a second
(`benchmarks/distributed_least.py`).

| step | what | calls | hooks | own threads | others | of a step | goal | met | wall | processor |
|---|---|---|---|---|---|---|---|---|---|---|
{costs}

From a command's commit in the log, at any moment of a step, to the new rate on the last rank: steps that end meanwhile.

| step | commands | median | worst | median | worst |
|---|---|---|---|---|---|
{late}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few windows; nothing is written")
    options = parser.parse_args()
    plans = [p._replace(pairs=3, window_s=p.window_s / 2, tries=3) for p in PLANS] if options.quick else PLANS
    found = [measure(plan) for plan in plans]
    text = section(found)
    print(text)
    if not options.quick:
        (BENCHMARKS / "results" / "distributed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_section("distributed", text)


if __name__ == "__main__":
    main()
