"""Writes the history of a run into a log, as a trainer and an agent would."""

from __future__ import annotations

import math
import time
from pathlib import Path

from agenttune.protocol.commands import StopTraining, UpdateOptimizer
from agenttune.protocol.events import (
    CheckpointSaved,
    Decided,
    Evaluated,
    Found,
    KnobsRead,
    PolicyAttached,
    RunStarted,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, Author, Change, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog

AGENT = Author(principal="agent", name="guardian")
AT_S = 1_800_000_000.0
HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]click[/bold red] \u202egnp.exe\r\nnext\tline \x9b31m"


def new_log(folder: Path, **fields: object) -> RunLog:
    info = RunInfo(run_id=folder.name, name="demo", status="running", created_at_s=time.time())
    return RunLog.create(folder, info.model_copy(update=fields))


def rescued_run(folder: Path) -> RunLog:
    """A run of 100 of 200 steps whose rate was cut at step 61, with a NaN before; one command was refused."""
    log = new_log(folder)
    rate = KnobState(name="lr", base=0.5, effective=0.5, command="update_optimizer")
    log.append(RunStarted(framework="a test", pid=1, max_steps=200), KnobsRead(knobs=[rate]), step=0)
    log.append(PolicyAttached(policy="guardian"), step=0)
    log.append_points(point(step, loss_at(step)) for step in range(1, 61))
    evaluate(log, 60, 8.5)
    finding = Finding(kind="non_finite", severity="critical", metric="step_loss", step=60, summary="step_loss is NaN")
    log.append(Found(finding=finding), step=60)
    cut = lowered()
    log.append(
        Decided(policy="guardian", woken_by="finding", command_ids=["c1", "c2"], reason="the loss is NaN"), step=60
    )
    log.submit(cut, Verdict(decision="approved", decided_by="auto"))
    change = Change(name="lr", previous=0.5, requested=0.05, effective=0.05)
    log.acknowledge("c1", Ack(outcome="applied", step=61, changes=[change], confirmed_step=62))
    stop = Proposal(command_id="c2", command=StopTraining(), author=AGENT, rationale="to be safe")
    reason = "stop_training is forbidden by gate.forbid"
    log.submit(stop, Verdict(decision="rejected", decided_by="guardrail:forbidden", reason=reason))
    log.append_points(point(step, loss_at(step), lr=0.05) for step in range(61, 101))
    evaluate(log, 100, 2.25)
    log.append(CheckpointSaved(checkpoint_id="checkpoint-100", path="/tmp/checkpoint-100"), step=100)
    return log


def evaluate(log: RunLog, step: int, loss: float) -> None:
    metrics = {"eval_loss": loss, "eval_runtime": 0.2}
    log.append_points([Point(step=step, at_s=AT_S + step / 50, values=metrics, source="eval")])
    log.append(Evaluated(metrics=metrics), step=step)


def lowered(rationale: str = "the loss left the numbers; ten times less") -> Proposal:
    return Proposal(command_id="c1", command=UpdateOptimizer(lr=0.05), author=AGENT, rationale=rationale)


def loss_at(step: int) -> float:
    return math.nan if 50 <= step <= 60 else 2.0 + 4.0 * math.exp(-step / 30)


def point(step: int, loss: float, lr: float = 0.5) -> Point:
    values = {"step_loss": loss, "lr": lr, "base_lr": 0.5, "step_grad_norm": 1.25}
    return Point(step=step, at_s=AT_S + step / 50, values=values)


def finish(log: RunLog) -> None:
    log.append(StatusChanged(status="finished"), step=200)
