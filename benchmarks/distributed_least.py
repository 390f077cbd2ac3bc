"""The least that could do what agenttune does for two ranks between commands, by torch and SQLite alone.

At a step, as often as agenttune does it: a flag from rank 0, begun at the forward pass and awaited at the end; the
losses added up over the ranks; hooks that do nothing. Beside training: one row a step in a table of rank 0, and a sign
of life a second. No metrics, no gate, nothing that could act: no design with the same parts can take less.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agenttune.trainer.distributed import averaging, heartbeats, pace
from agenttune.trainer.recording import background_writer


class Least:
    """Follows one model and optimizer under data parallelism.

    Args:
        folder: Where rank 0 has its table.
        step_s: What a step takes.

    Attributes:
        thread_id: Of the thread beside training, as the system counts them.
    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path, step_s: float) -> None:
        self._flag_steps = _fitting(pace.INTERVAL_S, step_s, pace.MOST_STEPS)
        self._loss_steps = _fitting(averaging.WINDOW_S, step_s, averaging.MOST_STEPS)
        self._group: Any = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        self._store = dist.distributed_c10d._get_default_store()
        self._from_leader = dist.BroadcastOptions()
        self._from_leader.rootRank = 0
        self._flag = torch.zeros(3, dtype=torch.int64)
        self._told: Any = None
        self._sums: Any = None
        self._losses: list[float] = []
        self._rows: list[tuple[int, float, str]] = []
        self._step = 0
        model.register_forward_pre_hook(self._before_forward)
        model.register_forward_hook(lambda *_: None)
        optimizer.register_step_pre_hook(lambda *_: None)
        optimizer.register_step_post_hook(lambda *_: None)
        self._thread = threading.Thread(target=self._beside, args=(folder / "least.db",), daemon=True)
        self._thread.start()
        self.thread_id = self._thread.native_id

    def _before_forward(self, model: torch.nn.Module, inputs: Any) -> None:
        if self._step % self._flag_steps == 0:
            self._told = self._group.broadcast([self._flag], self._from_leader)

    def end_step(self, loss: torch.Tensor) -> None:
        """A step is complete; `loss`: [], of this rank."""
        if self._told is not None:
            self._told.wait()
            self._told = None
        self._step += 1
        value = float(loss)
        self._losses.append(value)
        self._rows.append((self._step, time.time(), json.dumps({"loss": value})))
        if self._step % self._loss_steps == 0:
            sums = torch.tensor(self._losses)
            self._sums = sums, self._group.allreduce([sums], dist.AllreduceOptions())
            self._losses = []

    def _beside(self, path: Path) -> None:
        rank, count = dist.get_rank(), 0
        rounds = max(1, round(heartbeats.INTERVAL_S / background_writer.INTERVAL_S))
        table = sqlite3.connect(path, isolation_level=None) if rank == 0 else None
        if table is not None:
            table.execute("pragma journal_mode=wal")
            table.execute("pragma synchronous=normal")
            table.execute("create table rows (step integer, at_s real, numbers text)")
        while True:
            time.sleep(background_writer.INTERVAL_S if table is not None else heartbeats.INTERVAL_S)
            count += 1
            if table is None or count % rounds == 0:
                self._store.set(f"least/{rank}", str(self._step))
            rows, self._rows = self._rows, []
            if table is not None and rows:
                table.execute("begin")
                table.executemany("insert into rows values (?, ?, ?)", rows)
                table.execute("commit")


def _fitting(together_s: float, step_s: float, most: int) -> int:
    return max(1, min(most, int(together_s / step_s)))
