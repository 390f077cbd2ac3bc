from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.base import Policy
from tests.policy.conftest import SteeredRun, Valley

EVERY_STEP = WakeSettings(every_steps=1)


def steer(runs_dir: Path, policy: Policy, lr: float = 0.5, steps: int = 120) -> SteeredRun:
    """A run to its end, with a policy that looks after each step."""
    run = SteeredRun(runs_dir, Valley(lr=lr, max_steps=steps))
    loop = AgentLoop(LocalControl(runs_dir), "r1", policy, EVERY_STEP, clock_s=lambda: 0.0)
    for _ in range(steps):
        run.step()
        loop.tick()
    run.apply_queued()
    run.finish()
    return run


def changes_of(run: SteeredRun) -> list[tuple[int, float]]:
    """Step and rate of each change that was applied."""
    acks = [record.ack for record in run.log.commands() if record.ack is not None]
    return [(ack.step, float(change.effective)) for ack in acks for change in ack.changes]


def history(losses: Sequence[float], lr: float = 1e-3, evaluate_every: int = 50) -> list[dict[str, Any]]:
    """A `log_history` as a Trainer writes it, with a row each step."""
    rows: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, 1):
        rows.append({"step": step, "epoch": step / 100, "loss": loss, "grad_norm": 1.0, "learning_rate": lr})
        if step % evaluate_every == 0:
            rows.append({"step": step, "epoch": step / 100, "eval_loss": loss, "eval_runtime": 0.1})
    return [*rows, {"step": len(losses), "epoch": 1.0, "train_runtime": 1.0, "train_loss": 1.0, "total_flos": 0.0}]


def diverging(steps: int = 200, from_step: int = 80) -> list[float]:
    """Falls, then blows up."""
    return [3 - 0.01 * i if i < from_step else 2.2 * math.exp((i - from_step) / 15) for i in range(steps)]


def write_state(path: Path, log_history: object, **more: object) -> Path:
    state = {"global_step": 0, "max_steps": 400, "log_history": log_history, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(state), encoding="utf-8")
    return path


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"
