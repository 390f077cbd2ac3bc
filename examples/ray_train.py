"""Ray Train with an agent's hand on it: two workers under DDP, and a run that goes on when Ray starts them again.

    pip install -c constraints.txt '.[ray]'
    python examples/ray_train.py --steps 200
    python examples/ray_train.py --steps 200 --kill-at 120     # a worker dies in the middle, once

What agenttune needs: `agenttune.session` in the worker's function, and two variables that tell it which job this is and
how often Ray will start it again. Rank 0 records the run; `agenttune attach` or the server that it starts see it.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

import agenttune
from agenttune.trainer import Options

SAVE_EVERY = 20


def train(config: dict[str, Any]) -> None:
    """What each worker does."""
    context = ray.train.get_context()
    os.environ["AGENTTUNE_JOB"] = context.get_experiment_name()
    os.environ["AGENTTUNE_JOB_RESTARTS"] = str(config["max_failures"])
    rank = context.get_world_rank()
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    begun = resume(model, optimizer)
    ddp = prepare_model(model)
    data = torch.Generator().manual_seed(rank)
    options = Options(run_name="ray-train", runs_dir=config["runs_dir"], server=config["server"])
    with agenttune.session(
        model=model, optimizer=optimizer, max_steps=config["steps"], start_step=begun, options=options
    ) as s:
        while True:
            x = torch.randn(32, 8, generator=data)
            loss = (ddp(x) - x.sum(1, keepdim=True).sin()).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep(config["pause_s"])
            is_over = s.step({"loss": loss.detach()})
            if s.global_step % SAVE_EVERY == 0 or is_over:
                report(model, optimizer, s.global_step, loss.item(), rank)
            if s.global_step == config["kill_at"] and rank == 1 and not Path(config["killed"]).exists():
                Path(config["killed"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if is_over:
                return


def resume(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go on from Ray's newest checkpoint; returns its step."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def report(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, loss: float, rank: int) -> None:
    """Tell Ray of the step, with rank 0's state."""
    if rank:
        ray.train.report({"step": step, "loss": loss})
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, Path(folder) / "state.pt")
        ray.train.report({"step": step, "loss": loss}, checkpoint=Checkpoint.from_directory(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause-s", type=float, default=0.02, help="of each step, so that there is time to look")
    parser.add_argument("--kill-at", type=int, default=0, help="step at which worker 1 dies, once")
    parser.add_argument("--out", type=Path, default=Path("out-ray"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--no-server", action="store_true")
    args = parser.parse_args()
    name = f"ray-train-{time.strftime('%Y%m%d-%H%M%S')}"
    out = args.out.absolute()
    config = {
        "steps": args.steps,
        "lr": args.lr,
        "pause_s": args.pause_s,
        "kill_at": args.kill_at,
        "killed": str(out / f"{name}.killed"),
        "runs_dir": str(args.runs_dir.absolute()),
        "server": not args.no_server,
        "max_failures": 1,
    }
    out.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=args.workers),
        run_config=RunConfig(name=name, storage_path=str(out), failure_config=FailureConfig(max_failures=1)),
    )
    print("result:", trainer.fit().metrics)


if __name__ == "__main__":
    main()
