"""transformers' Trainer under torchrun: a rank is killed, all start again, and the run goes on as it was steered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import transformers

from agenttune.protocol.events import AttemptEnded, AttemptStarted
from agenttune.protocol.proposals import State
from agenttune.store.run_log import RunLog, list_runs
from tests.warm import ROOT

pytestmark = [
    pytest.mark.trainer,
    pytest.mark.slow,  # a loop of one's own: test_restarts.py
    pytest.mark.skipif(
        transformers.__version__.startswith("4."),
        reason="transformers 4 loads an optimizer's state to `cpu:0` on several CPU ranks, which torch cannot",
    ),
]

SCRIPT = """
    import json, os, signal, sys, time
    from pathlib import Path
    import torch
    from agenttune.control import LocalControl
    from tests.trainer.conftest import At, Bench, TinyModel, submit

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    orders = [
        At(5, {"kind": "update_optimizer", "lr": 2e-3}, "rate"),
        At(5, {"kind": "update_training", "max_grad_norm": 0.25}, "clip"),
        At(6, {"kind": "update_schedule", "shape": "linear", "end_step": 20}, "plan"),
    ]
    is_leader = rank == 0 and attempt == 0
    model = TinyModel()
    result = Bench(folder).trainer(
        orders if is_leader else (), model=model, max_steps=14, ddp_backend="gloo", data_seed=5, save_strategy="steps",
        save_steps=4, ddp_find_unused_parameters=False, lr_scheduler_type="cosine",
    )
    trainer = result.trainer

    def commands():
        (info,) = LocalControl(folder / "runs").runs()
        return LocalControl(folder / "runs").commands(info.run_id)

    def die(module, inputs):
        if not module.training or attempt or trainer.state.global_step != 7:
            return
        if rank == 0:  # a command that no step's end will come to
            submit(result.log(), {"kind": "update_optimizer", "weight_decay": 0.3}, "open")
            return
        while len(commands()) < 4 or sum(record.ack is not None for record in commands()) < 3:
            time.sleep(0.01)  # the log is written in the background
        os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(die)
    trainer.train(resume_from_checkpoint=bool(attempt))
    told = {
        "used": [rates[0] for rates in result.witness.used],
        "clip": trainer.args.max_grad_norm,
        "weights": [p.detach().sum().item() for p in model.parameters()],
    }
    (folder / f"told-{attempt}-{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words = [*torchrun, "--max-restarts=1", "--monitor-interval=0.1", str(script), str(folder)]
    # Without it, torch 2.13's restarts fail now and then: a rank reads where another one of the attempt before was.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    ended = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder


@pytest.fixture
def log(restarted: Path) -> RunLog:
    (info,) = list_runs(restarted / "runs")
    return RunLog.open(Path(info.path))


def told(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"told-1-{rank}.json").read_text())
    return found


def test_it_is_the_same_run_in_its_next_attempt_from_the_trainers_checkpoint(restarted: Path, log: RunLog) -> None:
    info = log.info()
    assert (info.status, info.attempt, info.step) == ("finished", 2, 14), info.status_reason
    started = [e.body for e in log.events(kinds=["attempt_started"]) if isinstance(e.body, AttemptStarted)]
    assert [(body.attempt, body.by) for body in started] == [(2, "torchrun")]
    ended = [e.body for e in log.events(kinds=["attempt_ended"]) if isinstance(e.body, AttemptEnded)]
    assert [reason for reason in (*(b.reason for b in started), *(b.reason for b in ended)) if reason], (
        "how the attempt before has ended, as far as is known"
    )
    steps = [row.step for row in log.points(0, 1000) if row.source == "step" and row.branch == info.branch]
    assert steps == list(range(5, 15))
    first, second = told(restarted, 0), told(restarted, 1)
    assert first == second, "both ranks alike"


def test_steered_values_are_in_force_again_from_the_first_step_on(restarted: Path) -> None:
    now = told(restarted, 0)
    assert now["clip"] == 0.25
    assert now["used"] == pytest.approx([2e-3 * (20 - step) / (20 - 4) for step in range(4, 14)], rel=0.05)


def test_every_command_of_the_attempt_before_is_settled(log: RunLog) -> None:
    states = {record.command_id: record.state for record in log.commands()}
    assert {name: states[name] for name in ("rate", "clip", "plan")} == dict.fromkeys(
        ("rate", "clip", "plan"), State.APPLIED
    )
    assert states["open"] is State.EXPIRED
    assert all(state in (State.APPLIED, State.EXPIRED) for state in states.values())
