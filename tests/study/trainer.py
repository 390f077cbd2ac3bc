"""A trainer without a model, whose loss depends on --lr alone: best at 0.01, and NaN from 10 up.

python trainer.py [--lr X] [--steps N] [--forever]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

from agenttune.protocol.commands import StopTraining
from agenttune.protocol.events import Evaluated, KnobsRead, RunStarted, StatusChanged
from agenttune.protocol.metrics import Point
from agenttune.protocol.proposals import Ack, State
from agenttune.protocol.run_info import KnobState
from agenttune.store.run_log import RunLog

STEP_S = 0.005


def loss_of(lr: float) -> float:
    return math.nan if lr >= 10 else 1.0 + abs(math.log10(lr / 0.01))


def train(log: RunLog, lr: float, steps: int) -> None:
    """Fill a log as a run with this rate would."""
    rate = KnobState(name="lr", base=lr, effective=lr, command="update_optimizer")
    started = RunStarted(framework="a test", pid=os.getpid(), max_steps=steps, capabilities=["stop_training"])
    log.append(started, StatusChanged(status="running"), KnobsRead(knobs=[rate]), step=0)
    for step in range(1, steps + 1):
        log.append_points([Point(step=step, at_s=time.time(), values={"step_loss": loss_of(lr) + 1 / step})])
        if stop_was_asked(log, step):
            return
        if steps > 10:
            time.sleep(STEP_S)
    metrics = {"eval_loss": loss_of(lr)}
    log.append_points([Point(step=steps, at_s=time.time(), values=metrics, source="eval")])
    log.append(Evaluated(metrics=metrics), step=steps)
    log.append(StatusChanged(status="finished"), step=steps)


def stop_was_asked(log: RunLog, step: int) -> bool:
    asked = [r for r in log.commands(State.QUEUED) if isinstance(r.proposal.command, StopTraining)]
    for record in asked:
        log.acknowledge(record.command_id, Ack(outcome="applied", step=step))
        reason = f"stop_training by {record.proposal.author.name}"
        log.append(StatusChanged(status="stopped", reason=reason), step=step)
    return bool(asked)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    log = RunLog.open(Path(os.environ["AGENTTUNE_RUNS_DIR"]) / os.environ["AGENTTUNE_RUN_ID"])
    slow = Path("slow")  # a file beside the config makes every run endless, for tests that must meet one midway
    train(log, args.lr, 1_000_000 if slow.exists() else args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
