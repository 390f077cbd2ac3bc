"""What the tests of all loops share: a witness of what training really did, and what a run left behind."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from agenttune.protocol.events import CheckpointDeleted, CheckpointSaved, Event
from agenttune.protocol.proposals import Ack, CommandRecord, State
from agenttune.protocol.run_info import LIVE
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.trainer.conftest import At, submit


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    logging.getLogger("agenttune").setLevel(logging.WARNING)


def open_newest(runs_dir: Path) -> RunLog:
    return RunLog.open(run_folder(runs_dir, list_runs(runs_dir)[0].run_id))


def weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


class Witness:
    """Notes the weights each training pass begins with, its data, its loss, and the values each update really uses."""

    def __init__(self) -> None:
        self.weights: list[str] = []
        self.data: list[float] = []
        self.losses: list[float] = []
        self.used: list[list[float]] = []
        self.groups: list[list[dict[str, Any]]] = []

    def watch_model(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(lambda module, _, inputs: self._before(module, inputs), with_kwargs=True)
        model.register_forward_hook(lambda module, inputs, output: self._after(module, output))

    def watch_optimizer(self, optimizer: Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda *_: self._update(optimizer))

    def _before(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self.weights.append(weights_hash(model))
            data = inputs.get("input_ids", inputs.get("labels"))
            self.data.append(float(data.float().mean()) if data is not None else float("nan"))

    def _after(self, model: nn.Module, output: Any) -> None:
        if model.training and torch.is_grad_enabled():
            self.losses.append(float(output["loss"].detach()))

    def _update(self, optimizer: Optimizer) -> None:
        self.used.append([float(group["lr"]) for group in optimizer.param_groups])
        self.groups.append([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])


@dataclass
class Desk:
    """Puts commands into the log from a connection of its own, as the control server does."""

    runs_dir: Path
    orders: Sequence[At] = ()

    def submit(self, step: int) -> None:
        """What is ordered for the end of this step."""
        due = [order for order in self.orders if order.step == step]
        if not due:
            return
        log = open_newest(self.runs_dir)
        for order in due:
            if order.command_id not in [record.command_id for record in log.commands()]:
                submit(log, self._filled(log, order.command), order.command_id, order.valid_until_step)
        log.close()

    def _filled(self, log: RunLog, command: dict[str, Any]) -> dict[str, Any]:
        """`@save` stands for the checkpoint that the command of that id saved."""
        values = dict(command)
        for name, value in command.items():
            if isinstance(value, str) and value.startswith("@"):
                values[name] = self._acked(log, value[1:]).result["checkpoint_id"]
        return values

    def _acked(self, log: RunLog, command_id: str) -> Ack:
        tick = threading.Event()
        for _ in range(6000):
            ack = log.command(command_id).ack
            if ack is not None:
                return ack
            tick.wait(0.01)
        raise AssertionError(f"{command_id} was never answered")


class Operator(threading.Thread):
    """Waits until the run is paused, then works through its orders one ack at a time."""

    def __init__(self, runs_dir: Path, orders: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.runs_dir, self.orders = runs_dir, orders
        self.states: list[str] = []

    def run(self) -> None:
        tick = threading.Event()
        while not self.runs_dir.exists() or not list_runs(self.runs_dir):
            tick.wait(0.01)
        log = open_newest(self.runs_dir)
        while log.info().status != "paused":
            if log.info().status not in LIVE:
                return
            tick.wait(0.01)
        for number, order in enumerate(self.orders):
            command_id = f"while-paused-{number}"
            submit(log, order, command_id)
            while log.command(command_id).state is State.QUEUED:
                tick.wait(0.01)
            self.states.append(log.command(command_id).state.value)
        log.close()


@dataclass
class Trained:
    """What a training left behind."""

    model: nn.Module
    witness: Witness
    runs_dir: Path
    steps: int = 0
    held: dict[str, Any] = field(default_factory=dict)

    def log(self) -> RunLog:
        return open_newest(self.runs_dir)

    def records(self) -> list[CommandRecord]:
        return self.log().commands()

    def ack(self, command_id: str) -> Ack:
        ack = self.log().command(command_id).ack
        assert ack is not None, f"{command_id} was never answered"
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

    def step_rows(self) -> list[Any]:
        return list(self.log().points(limit=100_000, sources=["step"]))
