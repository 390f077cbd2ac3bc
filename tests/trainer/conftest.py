"""A tiny model under the real Trainer, with commands put into the real log at given steps."""

from __future__ import annotations

import functools
import logging
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate.utils.imports
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from agenttune.agent.loop import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.load import load_policy
from agenttune.protocol.events import CheckpointDeleted, CheckpointSaved, Event
from agenttune.protocol.proposals import Ack, Author, CommandRecord, Proposal, Verdict
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.store.run_log import RunLog, list_runs, run_folder
from agenttune.trainer import InteractiveCallback, Options, make_interactive
from tests.warm import start

ON_CPU = os.environ.get("AGENTTUNE_TEST_DEVICE", "cpu") == "cpu"
"""`make test-gpu` runs these tests where there is an accelerator."""
AUTHOR = Author(principal="operator", name="ann")

# Together a quarter of what a short training takes: a look through all installed packages after every step for those
# that accelerate could work with, and the text of the whole call stack for each seed that is set, once for each kind of
# accelerator that is not there.
accelerate.utils.imports._is_package_available = functools.cache(accelerate.utils.imports._is_package_available)
for kind in (torch.cuda, torch.xpu, torch.mtia):
    if not kind.is_available():
        kind.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
# An iterator of a loader that the garbage collector ends waits so long for each worker, and then kills it: the queue
# that would tell the worker is closed before.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5
AGENT_PATIENCE_S = 120.0
APPROVED = Verdict(decision="approved", decided_by="test")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    logging.getLogger("agenttune").setLevel(logging.WARNING)


class TinyModel(nn.Module):
    """Two layers, a norm and dropout; answers as transformers' models do."""

    def __init__(self, dropout: float = 0.1, poison_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(8, 1)
        self.poison_at = poison_at
        self.forwards = 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = self.second(self.drop(self.norm(torch.relu(self.first(x))))).squeeze(-1)
        if labels is None:
            return {"logits": y}
        loss = ((y - labels) ** 2).mean()
        if self.training:
            self.forwards += 1
            if self.forwards == self.poison_at:
                loss = loss * float("nan")
        return {"loss": loss, "logits": y}


class Points(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(count, 4, generator=generator)
        self.y = self.x.sum(dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


@dataclass
class At:
    """A command that is in the log when step `step` ends (0: before training begins)."""

    step: int
    command: dict[str, Any]
    command_id: str = ""
    valid_until_step: int | None = None


class Submitter(TrainerCallback):  # type: ignore[misc]
    """Puts commands into the log from a connection of its own, as the control server does."""

    def __init__(self, runs_dir: Path, orders: Sequence[At]) -> None:
        self.runs_dir, self.orders = runs_dir, orders

    def submit(self, step: int) -> None:
        due = [order for order in self.orders if order.step == step]
        if not due:
            return
        log = RunLog.open(run_folder(self.runs_dir, list_runs(self.runs_dir)[0].run_id))
        for order in due:
            submit(log, order.command, order.command_id, order.valid_until_step)
        log.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.submit(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.submit(state.global_step)


def submit(log: RunLog, command: dict[str, Any], command_id: str = "", valid_until: int | None = None) -> None:
    identity = {"command_id": command_id} if command_id else {}
    proposal = Proposal.model_validate(
        {"command": command, "author": AUTHOR, "valid_until_step": valid_until, **identity}
    )
    log.submit(proposal, APPROVED)


class Witness(TrainerCallback):  # type: ignore[misc]
    """Notes the rates that each update really used, and what stands after the schedule's step."""

    def __init__(self) -> None:
        self.used: list[list[float]] = []
        self.after: list[list[float]] = []
        self.other: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self.used.append([float(g["lr"]) if g["lr"] is not None else float("nan") for g in groups])
        self.other.append({k: [g.get(k) for g in groups] for k in groups[0] if k not in ("params", "lr")})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self.after.append([float(g["lr"]) if g["lr"] is not None else float("nan") for g in groups])


@dataclass
class Result:
    """What a run left behind."""

    trainer: Any
    witness: Witness
    runs_dir: Path
    losses: list[float] = field(default_factory=list)

    def log(self) -> RunLog:
        return RunLog.open(run_folder(self.runs_dir, list_runs(self.runs_dir)[0].run_id))

    def records(self) -> list[CommandRecord]:
        return self.log().commands()

    def acks(self) -> list[Ack]:
        """In order of submission; every command must have been answered."""
        acks = [record.ack for record in self.records()]
        return [ack for ack in acks if ack is not None]

    @property
    def ack(self) -> Ack:
        (ack,) = self.acks()
        return ack

    def events(self, *kinds: str) -> list[Event]:
        """Without the states that a run keeps by itself, which most tests are not about."""
        log = self.log()
        found, saved = log.events(kinds=kinds or None), log.events(kinds=["checkpoint_saved"])
        kept = {e.body.checkpoint_id for e in saved if isinstance(e.body, CheckpointSaved) and e.body.kept_as}
        told = (CheckpointSaved, CheckpointDeleted)
        return [e for e in found if not (isinstance(e.body, told) and e.body.checkpoint_id in kept)]

    def bodies(self, kind: str) -> list[Any]:
        return [event.body for event in self.events(kind)]

    def knob(self, name: str) -> KnobState:
        knobs: list[KnobState] = self.bodies("knobs_read")[-1].knobs
        return next(knob for knob in knobs if knob.name == name)

    def series(self, name: str, source: str = "step") -> list[float]:
        points = self.log().points(limit=100_000, sources=[source])
        return [point.values[name] for point in points if name in point.values]


class Back(TrainerCallback):  # type: ignore[misc]
    """Goes back to what was saved at a step of a branch, as soon as another step is reached.

    Args:
        courses: At which step, to which branch and step of it.

    Attributes:
        result: Whose log tells what was saved; whoever makes the trainer puts it here.
    """

    def __init__(self, *courses: tuple[int, str, int]) -> None:
        self.result: Result | None = None
        self.left = list(courses)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.left and state.global_step == self.left[0][0]:
            _, branch, step = self.left.pop(0)
            assert self.result is not None
            log = self.result.log()
            submit(log, {"kind": "load_checkpoint", "checkpoint_id": self._saved_at(branch, step)})
            log.close()

    def _saved_at(self, branch: str, step: int, longest_s: float = 60.0) -> str:
        """The log is written in the background: what has just been saved is told a moment later."""
        assert self.result is not None
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            saved = [e.body for e in self.result.events("checkpoint_saved") if (e.branch, e.step) == (branch, step)]
            if saved and isinstance(saved[-1], CheckpointSaved):
                return saved[-1].checkpoint_id
            time.sleep(0.01)
        raise AssertionError(f"nothing was saved at step {step} of {branch}")


Optimizers = tuple[Any, Any]
Build = Callable[[nn.Module], Optimizers]


@dataclass
class Bench:
    """Builds trainers and runs them."""

    path: Path

    @property
    def runs_dir(self) -> Path:
        return self.path / "runs"

    def options(self) -> Options:
        return Options(runs_dir=self.runs_dir, server=False)

    def arguments(self, **changes: Any) -> TrainingArguments:
        values: dict[str, Any] = {
            "output_dir": str(self.path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": 12,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": ON_CPU,
            "seed": 7,
            "dataloader_pin_memory": False,
            "logging_nan_inf_filter": False,
        }
        return TrainingArguments(**(values | changes))

    def trainer(
        self,
        orders: Sequence[At] = (),
        build: Build | None = None,
        form: str = "make_interactive",
        model: nn.Module | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        rows: int = 64,
        evaluates: bool = True,
        base: type[Any] = Trainer,
        **changes: Any,
    ) -> Result:
        witness = Witness()
        model = model or TinyModel()
        given: dict[str, Any] = {
            "model": model,
            "args": self.arguments(**changes),
            "train_dataset": Points(rows),
            "eval_dataset": Points(8) if evaluates else None,
            "callbacks": [Submitter(self.runs_dir, orders), *callbacks],
        }
        if build is not None:
            given["optimizers"] = build(model)
        if form == "make_interactive":
            trainer = make_interactive(base)(**given, agenttune=self.options())
        else:
            trainer = base(**given)
        if form == "callback":
            trainer.add_callback(InteractiveCallback(self.options()))
        trainer.add_callback(witness)
        return Result(trainer, witness, self.runs_dir)

    def run(self, orders: Sequence[At] = (), **how: Any) -> Result:
        """Train to the end; the losses are those of the Trainer's own log, one a step."""
        result = self.trainer(orders, **how)
        result.trainer.train()
        result.losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
        return result


def under_guardian(bench: Bench, monkeypatch: pytest.MonkeyPatch, data: Dataset[Any], **how: Any) -> Result:
    """Train to the end on `data` with `guardian` beside it, which is waited for: in lockstep."""
    wake = WakeSettings(mode="lockstep", lockstep_limit_s=AGENT_PATIENCE_S)
    rules = {"wake": wake.model_dump(mode="json")}
    info = RunInfo(run_id="r1", name="r1", status="starting", created_at_s=time.time(), rules=rules)
    RunLog.create(bench.runs_dir / "r1", info).close()
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    loop = AgentLoop(LocalControl(bench.runs_dir), "r1", load_policy("guardian"), WakeSettings(poll_s=0.02))
    agent = threading.Thread(target=loop.run, daemon=True)
    agent.start()
    result = bench.trainer([], **how)
    result.trainer.train_dataset = data
    result.trainer.train()
    agent.join(AGENT_PATIENCE_S)
    assert not agent.is_alive()
    return result


def run_to_its_death(script: str, folder: Path) -> RunLog:
    """Run a script that kills itself in the middle of a training in `folder`; the log that it left."""
    path = folder / "killed.py"
    path.write_text(textwrap.dedent(script), encoding="utf-8")
    ended = start(path, str(folder), folder=folder).end()
    assert ended.code == -signal.SIGKILL, ended.err[-2000:]
    return RunLog.open(run_folder(folder / "runs", list_runs(folder / "runs")[0].run_id))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
