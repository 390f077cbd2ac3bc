"""What many ranks cost: `python -m benchmarks.scale`, four minutes; `--page` only writes docs/scale.md anew.

Two to sixteen gloo processes on this machine take steps that sleep and then exchange a small gradient. Told is the
processor time of each rank a step, of the training thread and of the whole process, beyond that of the same steps
without the feature; wall times of more ranks than cores would tell of the machine only. What rank 0 does for all
others, reading signs of life and writing them down, is measured with a thousand ranks' signs in a real store.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agenttune.trainer.distributed.averaging import MOST_STEPS, RANKS_A_WINDOW, WINDOW_S, LossAveraging
from agenttune.trainer.distributed.channel import RankChannel
from agenttune.trainer.distributed.heartbeats import Heartbeats, _key
from agenttune.trainer.distributed.pace import INTERVAL_S, Flag
from agenttune.trainer.distributed.pace import MOST_STEPS as MOST_UNFLAGGED
from agenttune.trainer.distributed.pulse import Beat, Pulse
from agenttune.trainer.recording.background_writer import StepMetrics

RANKS = (2, 4, 8, 16)
FEATURES = ("nothing", "flag", "averaging")
STEPS, ROUNDS = 100, 5
STEP_S = 0.02
LARGE = (64, 256, 1024)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
RESULT = Path(__file__).parent / "results" / "scale.json"


def main() -> None:
    if "--page" not in sys.argv:
        ranks = {str(n): _measured(n) for n in RANKS}
        leader = {str(n): _leader(n) for n in LARGE}
        found = {
            "step_s": STEP_S,
            "ranks": ranks,
            "leader": leader,
            "load": os.getloadavg()[0],
            "cores": os.cpu_count(),
            "window_s": WINDOW_S,
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """The figures, with what they would be for many more ranks, as a page of the documentation."""
    ranks, leader, step_s = found["ranks"], found["leader"], found["step_s"]
    hop_us = _hop_us(ranks, step_s, found.get("window_s", 0.1))
    thread = {f: statistics.mean(row[f]["thread_us"] for row in ranks.values()) for f in FEATURES[1:]}
    measured = [
        f"| {n} | {row['flag']['thread_us']:.0f} | {row['averaging']['thread_us']:.0f} | "
        f"{row['flag']['process_us'] - row['flag']['thread_us']:.0f} | "
        f"{row['averaging']['process_us'] - row['averaging']['thread_us']:.0f} |"
        for n, row in ranks.items()
    ]
    told = [
        f"| {n} | {r['interval_s']:g} s | {r['listen_ms']:.2g} ms | {r['every_s']:g} s "
        f"| {r['event_bytes'] / 1000:.0f} kB | {r['cpu_percent']:.2g} % | {r['log_kb_an_hour'] / 1000:.2g} MB |"
        for n, r in leader.items()
    ]
    rows = [_extrapolated(n, s, thread, hop_us) for n in (16, 256, 1024) for s in (0.005, 0.05, 0.5, 5.0)]
    return TEXT.format(
        ranks_a_window=RANKS_A_WINDOW,
        step_ms=1e3 * step_s,
        cores=found["cores"],
        load=found["load"],
        ranks="\n".join(measured),
        leader="\n".join(told),
        rows="\n".join(rows),
        flag_us=thread["flag"],
        averaging_us=thread["averaging"],
        hop_us=hop_us,
    )


def _window_steps(world_size: int, step_s: float, window_s: float = WINDOW_S) -> int:
    window_s *= max(1.0, world_size / RANKS_A_WINDOW)
    return max(1, min(MOST_STEPS, round(window_s / step_s)))


def _hop_us(ranks: dict[str, Any], step_s: float, window_s: float) -> float:
    """Processor time beside training of one all-reduce for each other rank: of the most ranks measured."""
    n = max(map(int, ranks))
    row = ranks[str(n)]["averaging"]
    beside_us = (row["process_us"] - row["thread_us"]) * _window_steps(n, step_s, window_s)
    return float(beside_us) / (n - 1)


def _extrapolated(n: int, step_s: float, thread: dict[str, float], hop_us: float) -> str:
    flags = max(1, min(MOST_UNFLAGGED, int(INTERVAL_S / step_s)))
    at_training = 1e-4 * (thread["flag"] / flags + thread["averaging"]) / step_s
    beside = 1e-4 * hop_us * (n - 1) / (_window_steps(n, step_s) * step_s)
    return f"| {n} | {1e3 * step_s:g} ms | {at_training:.2g} % | {_window_steps(n, step_s)} | {beside:.2g} % |"


TEXT = """\
# Scale

Written by `python -m benchmarks.scale`, from `benchmarks/results/scale.json`. What agenttune adds to a run of many
ranks ([distributed.md](distributed.md)): a flag and the averaging of the loss on every rank, signs of life beside
training, and what rank 0 writes. Processor time is told, not wall time: {cores} cores ran up to 16 ranks. **The
machine was busy (load {load:.0f})**, so times are several times too high; what counts is how they change with the
ranks.

## Measured: 2 to 16 gloo ranks

Microseconds of a processor a step, beyond the same steps without; steps of {step_ms:g} ms, five of them averaged at
once.

| ranks | flag, training thread | averaging, training thread | flag, beside | averaging, beside |
|---|---|---|---|---|
{ranks}

In the training thread neither grows with the ranks: a rank starts sending and goes on. Beside it, in gloo's own
threads, the flag is passed down a tree, so that a rank handles as many messages as the number of ranks has binary
digits; the sums are passed around a ring, which takes each rank two messages for every other one. That is why
windows grow with the ranks from {ranks_a_window} on. On an accelerator the losses go by NCCL, beside the gradients.

## Measured: rank 0, signs of up to 1,024 ranks

Real signs of life in a real store on this machine, read and written down as rank 0 does.

| ranks | read every | takes | in the log every | size | of a core | log an hour |
|---|---|---|---|---|---|---|
{leader}

## Extrapolated

Model: training thread = {flag_us:.0f} us (each flag; one for several steps of 100 ms and less) + {averaging_us:.0f} us
(averaging) a step, whatever the ranks.
Beside it, per all-reduce, {hop_us:.0f} us for each other rank, as measured with the most ranks.

| ranks | step | of the training thread | steps averaged at once | of a core beside, each rank |
|---|---|---|---|---|
{rows}

## Not tested

NCCL (its averaging has never run), DeepSpeed, several real nodes and their network, more than 16 ranks that train,
a store that a thousand ranks reach over a network. The wall time of a step with and without agenttune needs as many
cores as ranks; two cores have been enough for two ranks only.
"""


# -- every rank ------------------------------------------------------------------------------------------------------


def _measured(world_size: int) -> dict[str, dict[str, float]]:
    """Median over ranks and rounds of what a feature adds to a step, in microseconds of a processor."""
    forking = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [forking.Process(target=_rank, args=(rank, world_size, folder)) for rank in range(world_size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        told = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world_size)]
    found: dict[str, dict[str, float]] = {}
    for feature in FEATURES[1:]:
        rows = [_beyond(rank[feature], rank["nothing"]) for rank in told]
        thread_us, process_us = (1e6 * float(statistics.median([row[i] for row in rows])) for i in (0, 1))
        found[feature] = {"thread_us": round(thread_us, 1), "process_us": round(process_us, 1)}
    return found


def _beyond(rounds: list[list[float]], plain: list[list[float]]) -> list[float]:
    """The cheapest round of each: what else the machine does only ever adds."""
    return [min(r[i] for r in rounds) - min(r[i] for r in plain) for i in (0, 1)]


def _rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    channel = RankChannel(1800.0)
    averaging = LossAveraging(world_size, channel.group)
    loss = torch.ones(())

    def flag_begin() -> None:
        channel.tell(Flag(False))

    def flag_end() -> None:
        channel.hear()

    def average() -> None:
        averaging.add(StepMetrics(1, "main", 0.0, STEP_S, 0.1, 0.1, 1, 1, [loss], None, {}), at_once=False)

    def nothing() -> None:
        pass

    hooks = {"nothing": (nothing, nothing), "flag": (flag_begin, flag_end), "averaging": (nothing, average)}
    found: dict[str, list[list[float]]] = {feature: [] for feature in FEATURES}
    for _ in range(ROUNDS):
        for feature in FEATURES:
            found[feature].append(_steps(*hooks[feature]))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


def _steps(begin: Callable[[], None], end: Callable[[], None]) -> list[float]:
    """Processor seconds a step: of the hooks in the training thread, and of the whole process."""
    gradient, spent_s = torch.zeros(1000), 0.0
    dist.barrier()
    process_s = time.process_time()
    for _ in range(STEPS):
        spent_s -= time.thread_time()
        begin()
        spent_s += time.thread_time()
        time.sleep(STEP_S)
        dist.all_reduce(gradient)
        spent_s -= time.thread_time()
        end()
        spent_s += time.thread_time()
    return [spent_s / STEPS, (time.process_time() - process_s) / STEPS]


# -- rank 0 ------------------------------------------------------------------------------------------------------------


def _leader(world_size: int) -> dict[str, float]:
    """What rank 0 does for all others: reading their signs of life, and a reading's size in the log."""
    beats = Heartbeats(0, world_size, Pulse())
    store: Any = beats._store
    took_s = []
    for number in range(1, ROUNDS + 1):
        for rank in range(world_size):
            store.set(_key(rank), Beat(number, number, "backward", 0.51234, 0.0123, 0.1234, 40_000_000_000).pack())
        begun_s = time.thread_time()
        beats.listen(time.monotonic())
        took_s.append(time.thread_time() - begun_s)
    begun_s = time.thread_time()
    body = beats.read(time.monotonic()).model_dump_json()
    read_ms = 1e3 * (time.thread_time() - begun_s)
    listen_ms = 1e3 * statistics.median(took_s[1:])
    per_s = listen_ms / beats.interval_s + read_ms / beats._tell_s
    told = {"interval_s": beats.interval_s, "every_s": beats._tell_s, "listen_ms": listen_ms, "read_ms": read_ms}
    told |= {
        "event_bytes": float(len(body)),
        "cpu_percent": per_s / 10,
        "log_kb_an_hour": 3.6 * len(body) / beats._tell_s,
    }
    return {name: round(value, 3) for name, value in told.items()}


if __name__ == "__main__":
    main()
