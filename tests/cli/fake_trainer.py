"""A trainer without a model, for tests of everything around it: it only keeps the log as a real one would.

It opens the run's log named by AGENTTUNE_RUN_ID and AGENTTUNE_RUNS_DIR, reports its start, logs a falling loss, obeys
`stop_training`, and ends as its arguments say. Where a test must meet it in the middle, it trains until stopped.

    python fake_trainer.py [--steps N] [--ending finish|raise|exit3|vanish|sigkill|after] [--deaf] [--idle]
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path

from agenttune.protocol.commands import StopTraining
from agenttune.protocol.events import CheckpointSaved, Evaluated, KnobsRead, RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, State
from agenttune.protocol.run_info import KnobState
from agenttune.store.run_log import RunLog

STEP_S = 0.01
FOREVER = 1_000_000
CAPABILITIES = ["stop_training", "update_optimizer"]


def main() -> int:
    args = arguments()
    if args.idle:
        time.sleep(FOREVER)  # a script that takes its time before it trains
    log = RunLog.open(Path(os.environ["AGENTTUNE_RUNS_DIR"]) / os.environ["AGENTTUNE_RUN_ID"])
    rate = KnobState(name="lr", base=0.1, effective=0.1, command="update_optimizer")
    started = RunStarted(framework="fake", pid=os.getpid(), max_steps=args.steps, capabilities=CAPABILITIES)
    log.append(started, StatusChanged(status="running"), KnobsRead(knobs=[rate]), step=0)
    for step in range(1, args.steps + 1):
        train_step(log, step)
        if not args.deaf and stop_was_asked(log, step):
            return 0
    return end(log, args.ending, args.steps)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=FOREVER)
    parser.add_argument("--ending", default="finish")
    parser.add_argument("--deaf", action="store_true", help="ignore commands and SIGTERM")
    parser.add_argument("--idle", action="store_true", help="never begin to train")
    args = parser.parse_args()
    if args.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return args


def train_step(log: RunLog, step: int) -> None:
    time.sleep(STEP_S)
    loss = 1.0 + math.exp(-step / 20)
    values = {"step_loss": loss, "lr": 0.1, "base_lr": 0.1}
    log.append_points([Point(step=step, at_s=time.time(), values=values)])
    if step % 20 == 0:
        metrics = {"eval_loss": loss}
        log.append_points([Point(step=step, at_s=time.time(), values=metrics, source="eval")])
        log.append(Evaluated(metrics=metrics), step=step)


def stop_was_asked(log: RunLog, step: int) -> bool:
    for record in log.commands(State.QUEUED):
        command = record.proposal.command
        if not isinstance(command, StopTraining):
            continue
        result = {}
        if command.save:
            saved = CheckpointSaved(checkpoint_id=f"checkpoint-{step}", path="/nowhere", command_id=record.command_id)
            log.append(saved, step=step)
            result = {"checkpoint_id": saved.checkpoint_id}
        log.acknowledge(record.command_id, Ack(outcome="applied", step=step, result=result))
        author = record.proposal.author
        log.append(StatusChanged(status="stopped", reason=f"stop_training by {author.name}"), step=step)
        return True
    return False


def end(log: RunLog, ending: str, step: int) -> int:
    """End as asked; returns the exit code."""
    if ending == "raise":
        raise RuntimeError("the data \x1b[31mran out")
    if ending == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "exit3":
        return 3
    if ending == "vanish":
        return 0
    log.append(StatusChanged(status="finished"), step=step)
    if ending == "after":
        raise RuntimeError("the upload failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
