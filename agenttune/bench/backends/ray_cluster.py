"""Cells on a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one of this machine's cores.

The workers' machines need the same agenttune, and the suite's folder at the same path.
"""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttune.bench.backends.backend import Backend, FinishedCell
from agenttune.bench.backends.local import THREADS
from agenttune.bench.cell import CellResult
from agenttune.bench.play import Work, failed, play_in_worker
from agenttune.errors import NotSupported


class RayCluster(Backend):
    """Workers of a Ray cluster.

    Args:
        workers: How many cells at once; default: the cluster's processors.
        address: Of a cluster, as for `ray.init`; None: a running one, or else one of our own.

    Raises:
        NotSupported: Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise NotSupported(
                "a cluster needs ray: pip install 'agenttune-toolkit[ray]'; without it, --backend local uses the cores "
                "of this machine",
                field="backend",
            ) from None
        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _join(ray, workers, address)
        self.slots = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # The runner tries again by itself, as it does where a worker of this machine dies.
        self._play: Any = ray.remote(num_cpus=1, max_retries=0)(_play_there)
        self._begun: Any = ray.remote(num_cpus=0)(_Begun).remote()
        self._work: dict[Any, Work] = {}
        self._tickets: dict[str, Any] = {}
        self._began_s: dict[Any, float] = {}

    def submit(self, work: Work) -> None:
        ticket = uuid.uuid4().hex
        reference = self._play.remote(work, self._begun, ticket)
        self._work[reference] = work
        self._tickets[ticket] = reference

    def wait(self, timeout_s: float) -> list[FinishedCell]:
        self._note_begun()
        for reference, work in self._work.items():
            if self._is_over_time(reference, work):
                self._ray.cancel(reference, force=True)
        ended, _ = self._ray.wait(list(self._work), num_returns=len(self._work), timeout=timeout_s)
        return [self._ended(reference) for reference in ended]

    def close(self) -> None:
        for reference in self._work:
            self._ray.cancel(reference, force=True)
        if self._is_ours:
            self._ray.shutdown()

    def _note_begun(self) -> None:
        """A cell's time begins when a worker takes it: on a busy cluster it may wait for hours before."""
        for ticket in self._ray.get(self._begun.newest.remote()):
            if (reference := self._tickets.pop(ticket, None)) is not None:
                self._began_s[reference] = time.monotonic()

    def _is_over_time(self, reference: Any, work: Work) -> bool:
        return time.monotonic() - self._began_s.get(reference, math.inf) > work.limit_s

    def _ended(self, reference: Any) -> FinishedCell:
        work = self._work.pop(reference)
        is_over_time = self._is_over_time(reference, work)
        self._began_s.pop(reference, None)
        try:
            return FinishedCell(work, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            if is_over_time:
                reason = f"not done after {work.limit_s:g} s of wall time; its worker was killed"
                return FinishedCell(work, failed(work.cell, reason))
            return FinishedCell(work, None, f"its worker process died ({type(error).__name__})")


def _join(ray: Any, workers: int | None, address: str | None) -> None:
    settings = {"runtime_env": {"env_vars": THREADS}, "log_to_driver": False, "include_dashboard": False}
    try:
        ray.init(address=address or "auto", runtime_env=settings["runtime_env"], log_to_driver=False)
    except ConnectionError:
        if address is not None:
            raise NotSupported(f"no Ray cluster answers at {address}; start one with: ray start --head") from None
        ray.init(address="local", num_cpus=workers, **settings)


class _Begun:
    """An actor beside the workers: which cells a worker has begun with."""

    def __init__(self) -> None:
        self._tickets: list[str] = []

    def add(self, ticket: str) -> None:
        self._tickets.append(ticket)

    def newest(self) -> list[str]:
        """Those since the last call."""
        tickets, self._tickets = self._tickets, []
        return tickets


def _play_there(work: Work, begun: Any, ticket: str) -> CellResult:
    """On a worker, whose machine may not be the runner's: what is not kept goes into a folder of its own."""
    begun.add.remote(ticket)
    if work.keeps_run:
        return play_in_worker(work)
    with tempfile.TemporaryDirectory(prefix="agenttune-bench-") as folder:
        return play_in_worker(replace(work, folder=Path(folder) / "run"))
