"""A loop of several processes for tests: a tiny model under DDP or `fully_shard`, with commands put in at given steps.

Scripts that `run_ranks` starts import it; many trainings fit into one pair of processes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, DistributedSampler

import agenttune
from agenttune.protocol.proposals import ApprovalRequest, Author, Proposal, Verdict
from agenttune.protocol.run_info import LIVE, RunInfo
from agenttune.store.run_log import RunLog, list_runs, run_folder
from agenttune.trainer import Options
from agenttune.trainer.datasets import make_interactive_dataset
from tests.trainer.conftest import APPROVED, AUTHOR, Points, TinyModel

Orders = dict[int, list[dict[str, Any]]]
"""Commands that are in the log just before a step is reported, by step; `{"id": ...}` in one names it."""
RANK = int(os.environ.get("RANK", "0"))
ANSWER_S = 15.0
"""So long a command is waited for while training is held."""


def newest(folder: Path) -> RunLog:
    runs_dir = folder / "runs"
    return RunLog.open(run_folder(runs_dir, list_runs(runs_dir)[0].run_id))


def put(folder: Path, command: dict[str, Any], number: str = "") -> None:
    """Put a command into the log, as the control server does; `by` in it is an operator, unless it says `agent`."""
    values = dict(command)
    command_id = values.pop("id", number)
    by: Any = values.pop("by", "operator")
    log = newest(folder)
    author = Author(principal=by, name="test")
    log.submit(Proposal.model_validate({"command": values, "author": author, "command_id": command_id}), APPROVED)
    log.close()


@dataclass
class Loop:
    """One training.

    Attributes:
        folder: Where its runs are.
        orders: What is asked for.
        engine: `ddp`, `fsdp2` or `plain`.
        paused_orders: What an operator asks for while the run is paused, one ack after the other.
        steps: Until the end.
        step_s: How long a step takes at least.
        accumulate: Micro-batches a step.
        attached: With agenttune.
        before_step: Called before each step is reported.
        offers: Registers knobs and the like.
        rules: Of the run: what a config file would say of probation, checkpoints and the like.
        data: The training dataset; with `load`, a function that makes a loader of one.
    """

    folder: Path
    orders: Orders = field(default_factory=dict)
    engine: str = "ddp"
    paused_orders: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 12
    step_s: float = 0.0
    accumulate: int = 1
    attached: bool = True
    find_unused: bool = False
    before_step: Callable[[int, Any], None] = lambda step, optimizer: None
    offers: Callable[[Any], None] = lambda session: None
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    load: Callable[[Any], Any] | None = None
    model: nn.Module = field(init=False)
    optimizer: Any = field(init=False)

    def run(self) -> dict[str, Any]:
        """Train; what this rank saw."""
        torch.manual_seed(0)
        self.model = TinyModel(dropout=0.2)
        wrapped = self._wrapped()
        self.optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2)
        scheduler = LambdaLR(self.optimizer, lambda step: 1 - 0.01 * step)
        dataset: Any = self.data if self.data is not None else Points(96)
        loader: Any = self.load or sharded(dataset)
        torch.manual_seed(10 + RANK)  # dropout is each rank's own
        seen: dict[str, Any] = {"losses": [], "lr": [], "steps": []}
        if not self.attached:
            batches = self._epochs(loader)
            for _ in range(self.steps):
                self._step(wrapped, scheduler, batches, seen)
            return self._told(seen)
        if self.rules and RANK == 0:
            self._begin_log()
        operator = threading.Thread(target=self._operate, daemon=True)
        if RANK == 0 and self.paused_orders:
            operator.start()
        evaluate = None if self.evaluate is None else (lambda: self.evaluate(wrapped))  # type: ignore[misc]
        with agenttune.session(
            model=wrapped,
            optimizer=self.optimizer,
            scheduler=scheduler,
            max_steps=self.steps,
            evaluate=evaluate,
            dataset=dataset,
            options=Options(runs_dir=self.folder / "runs", server=False),
        ) as session:
            os.environ.pop("AGENTTUNE_RUN_ID", None)  # the next training is a run of its own
            self.offers(session)
            batches = session.batches(loader)
            while True:
                try:
                    self._step(wrapped, scheduler, batches, seen)
                except StopIteration:
                    break
                step = session.global_step + 1
                if RANK == 0:
                    for number, order in enumerate(self.orders.pop(step, [])):
                        put(self.folder, order, f"at-{step}-{number}")
                seen["steps"].append(step)
                self.before_step(step, self.optimizer)
                done = session.step({"loss": seen["losses"][-1]})
                if done:
                    break
        return self._told(seen)

    def _begin_log(self) -> None:
        """The log that `agenttune run` would make for a config file with such rules."""
        folder = self.folder / "runs" / "run"
        info = RunInfo(run_id="run", name="run", status="starting", created_at_s=time.time(), rules=self.rules)
        RunLog.create(folder, info).close()
        os.environ["AGENTTUNE_RUN_ID"] = "run"

    def _wrapped(self) -> nn.Module:
        if self.engine == "ddp":
            return DistributedDataParallel(self.model, find_unused_parameters=self.find_unused)
        if self.engine == "fsdp2":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            for layer in (*self.model.children(), self.model):
                if next(layer.parameters(), None) is not None:
                    fully_shard(layer, mesh=mesh)
        return self.model

    def _epochs(self, loader: Any) -> Iterator[Any]:
        epoch = 0
        while True:
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            yield from loader
            epoch += 1

    def _step(self, model: nn.Module, scheduler: Any, batches: Iterator[Any], seen: dict[str, Any]) -> None:
        total = 0.0
        for _ in range(self.accumulate):
            batch = next(batches)
            loss = model(**batch)["loss"] / self.accumulate
            loss.backward()
            total += loss.item()
        seen["lr"].append(self.optimizer.param_groups[0]["lr"])
        time.sleep(self.step_s)
        self.optimizer.step()
        scheduler.step()
        self.optimizer.zero_grad()
        seen["losses"].append(total)

    def _told(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {**seen, "weights": weights_of(self.model), "optimizer": state_of(self.optimizer)}

    def _operate(self) -> None:
        """Wait until the run is paused, then work through the orders one ack at a time."""
        while not (self.folder / "runs").exists() or not list_runs(self.folder / "runs"):
            time.sleep(0.01)
        log = newest(self.folder)
        while log.info().status != "paused":
            if log.info().status not in (*LIVE, "starting"):
                return
            time.sleep(0.01)
        for number, order in enumerate(self.paused_orders):
            if "sleep" in order:
                time.sleep(order["sleep"])
                continue
            put(self.folder, order, f"paused-{number}")
            command_id = order.get("id", f"paused-{number}")
            while log.command(command_id).ack is None and log.info().status in LIVE:
                time.sleep(0.01)


def hold(folder: Path, command: dict[str, Any], wait_s: float, meanwhile: Sequence[dict[str, Any]] = ()) -> None:
    """Ask for a command that waits for approval, training too; approve it after a time, in a thread.

    What is to be done meanwhile is asked for one after the other, each once the one before it is answered.
    """

    def decide() -> None:
        log = newest(folder)
        proposal = Proposal.model_validate({"command": command, "author": AUTHOR, "command_id": "held"})
        now_s = time.time()
        request = ApprovalRequest(
            digest=proposal.digest(),
            step=log.info().step,
            rule="test",
            approvers=["human"],
            requested_at_s=now_s,
            expires_at_s=now_s + 60,
            training="pause",
        )
        log.submit(proposal, request)
        while log.info().status != "paused":
            time.sleep(0.01)
        for number, order in enumerate(meanwhile):
            put(folder, order, f"meanwhile-{number}")
            until_s = time.monotonic() + ANSWER_S
            while log.command(f"meanwhile-{number}").ack is None and time.monotonic() < until_s:
                time.sleep(0.01)
        time.sleep(wait_s)
        log.decide("held", Verdict(decision="approved", decided_by="ann"))

    threading.Thread(target=decide, daemon=True).start()


def weights_of(model: nn.Module) -> str:
    return _hash(tensor for tensor in model.state_dict().values())


def state_of(optimizer: Any) -> str:
    entries = optimizer.state_dict()["state"].values()
    return _hash(value for entry in entries for value in entry.values() if isinstance(value, torch.Tensor))


def _hash(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        part = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        digest.update(part.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def sharded(dataset: Any) -> Any:
    """A loader of this rank's shard."""
    sampler: Any = DistributedSampler(dataset, seed=3) if dist.is_initialized() else None
    return DataLoader(dataset, batch_size=4, sampler=sampler)


def interactive_points() -> Any:
    return make_interactive_dataset(Points)(96)


def begin(limit_s: float = 60.0) -> Path:
    """At the start of a script: the ranks meet; returns the folder that it was given."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=limit_s))
    return Path(sys.argv[1])


def finish(folder: Path, told: dict[str, Any]) -> None:
    """At its end: what this rank saw, for the test."""
    (folder / f"rank{RANK}.json").write_text(json.dumps(told))
    dist.destroy_process_group()
