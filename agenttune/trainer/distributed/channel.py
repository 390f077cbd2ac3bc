"""How the ranks of a run hear from rank 0: a flag each step, orders only where it is set, and votes.

All of it goes over a gloo group of its own, so that waiting does not occupy an accelerator and no collective of the
loop's own is disturbed. What is sent are the package's own values, between processes of one run.
"""

from __future__ import annotations

import datetime
import itertools
import logging
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from agenttune.errors import RankEnded, RanksApart
from agenttune.trainer.distributed.pace import Flag
from agenttune.trainer.distributed.whereabouts import Whereabouts

logger = logging.getLogger("agenttune")
T = TypeVar("T")


BEAT_S = 2.0
"""How often rank 0 says that it is still there while all wait; far below any limit."""
_channels = itertools.count()
"""Names their groups: all ranks of a job make as many, in the same order."""


class RankChannel:
    """Speaks with the other ranks; each call has to be made on all of them, in the same order.

    Args:
        limit_s: After so long without an answer a rank counts as lost, as in the loop's own collectives; a pause does
            not count.

    Attributes:
        where: What each rank was last seen doing.
    """

    def __init__(self, limit_s: float) -> None:
        self.rank, self.size, self.limit_s = dist.get_rank(), dist.get_world_size(), limit_s
        self._limit = datetime.timedelta(seconds=limit_s)
        self._group: Any = _own_group(self.rank, self.size, self._limit)
        self._files_group: Any = None
        self._from_leader = dist.BroadcastOptions()
        self._from_leader.rootRank = 0
        self._flag = torch.zeros(len(Flag._fields), dtype=torch.int64)
        self._numbers = self._flag.numpy()  # the same memory: a tensor's elements cost ten times as much to set
        self._told: Any = None
        self.where = Whereabouts(self.rank, self.gather)

    @property
    def group(self) -> Any:
        """The group itself, for sums that all ranks take part in."""
        return self._group

    def files_group(self) -> Any:
        """A process group that torch knows of, for those of its functions that write files together."""
        if self._files_group is None:
            self._files_group = self._guarded(lambda: dist.new_group(backend="gloo", timeout=self._limit))
        return self._files_group

    # -- the flag ---------------------------------------------------------------------------------------------

    @property
    def is_told(self) -> bool:
        """Whether a flag is under way."""
        return self._told is not None

    def tell(self, flag: Flag) -> None:
        """At a step's start: begin to send the flag of its end; what followers give does not count."""
        if self._told is None and self._group is not None:
            self._numbers[:] = flag
            # Not `dist.broadcast`, whose checks cost more than sending does.
            self._told = self._guarded(lambda: self._group.broadcast([self._flag], self._from_leader))

    def hear(self) -> Flag | None:
        """At the step's end: rank 0's flag; None if none was sent."""
        told, self._told = self._told, None
        if told is None:
            return None
        self._guarded(told.wait)
        calls, compares, steps = self._numbers.tolist()
        return Flag(bool(calls), bool(compares), steps)

    # -- orders and votes ---------------------------------------------------------------------------------------

    def send(self, order: object) -> None:
        """From rank 0 to all others."""
        self._guarded(lambda: self._broadcast(pickle.dumps(order)))

    def receive(self) -> Any:
        """What rank 0 sends."""
        return pickle.loads(self._guarded(lambda: self._broadcast(b"")))

    def _broadcast(self, data: bytes) -> bytes:
        size = torch.tensor([len(data)])
        self._group.broadcast([size], self._from_leader).wait()
        body = _as_tensor(data, int(size))
        self._group.broadcast([body], self._from_leader).wait()
        return body.numpy().tobytes()

    def gather(self, mine: T) -> list[T]:
        """What each rank says, by rank, on every rank."""

        def gather(parts: list[torch.Tensor], part: torch.Tensor) -> Any:
            return self._group.allgather([parts], [part])

        return self._guarded(lambda: self._gathered(mine, gather))

    def collect(self, mine: T) -> list[T]:
        """The same, for rank 0 alone: for what is too large for everybody; empty on the others."""
        at_leader = dist.GatherOptions()
        at_leader.rootRank = 0

        def gather(parts: list[torch.Tensor], part: torch.Tensor) -> Any:
            return self._group.gather([parts] if self.rank == 0 else [], [part], at_leader)

        return self._guarded(lambda: self._gathered(mine, gather, self.rank == 0))

    def _gathered(
        self, mine: T, gather: Callable[[list[torch.Tensor], torch.Tensor], Any], has_all: bool = True
    ) -> list[T]:
        data = pickle.dumps(mine)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._group.allgather([sizes], [torch.tensor([len(data)])]).wait()
        longest = max(map(int, sizes))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size if has_all else 0)]
        gather(parts, _as_tensor(data, longest)).wait()
        return [pickle.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=has_all)]

    def are_alike(self, number: int) -> bool:
        """Whether all ranks give the same number, of 63 bits."""
        sums, options = torch.tensor([number, -number]), dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp(dist.ReduceOp.MIN)
        self._guarded(lambda: self._group.allreduce([sums], options).wait())
        least, negated_most = sums.tolist()
        return bool(least == -negated_most)

    def _guarded(self, call: Callable[[], T]) -> T:
        if self._group is None:
            raise RanksApart("this rank no longer hears from the others: one of them has gone or ended before")
        try:
            return call()
        except RuntimeError as error:  # torch's own, for all that goes wrong between processes
            reason = self.where.reason(error, self.limit_s)
            raise (RankEnded if self.where.has_left else RanksApart)(reason) from error

    def close(self, why: str = "") -> None:
        """The run has ended here; `why`: the error that ended it."""
        self.where.leave(why)
        self.hang_up()

    def hang_up(self) -> None:
        """Hear and say no more; whoever waits for this rank finds that out."""
        group, self._group, told, self._told = self._group, None, self._told, None
        files_group, self._files_group = self._files_group, None
        if group is None or not dist.is_initialized():
            return
        try:
            if told is not None:  # what is still under way would keep the group's thread, and the process, from ending
                told.wait(datetime.timedelta(seconds=1))
        except RuntimeError as error:
            logger.debug("the last flag did not arrive: %s", error)
        if hasattr(group, "shutdown"):  # torch 2.4 closes with the group's end alone
            group.shutdown()
        # A gloo group that is still there when the interpreter exits may abort the process (torch 2.13: about 1 in 10).
        if files_group is not None:
            dist.destroy_process_group(files_group)


def _as_tensor(data: bytes, size: int) -> torch.Tensor:
    """Bytes, with room for as many as the longest has."""
    return torch.frombuffer(bytearray(data.ljust(max(1, size))), dtype=torch.uint8)


def _own_group(rank: int, size: int, limit: datetime.timedelta) -> Any:
    """A gloo group that shares the thread of the loop's own, where that is gloo too.

    That thread wakes a hundred times a second, whether anything is sent or not: 1 ms of a processor a second
    (measured). `dist.new_group` would make one more, whatever options it is given (torch 2.13).
    """
    of_all = dist.distributed_c10d._get_default_store()
    store = dist.PrefixStore(f"agenttune/channel/{next(_channels)}", of_all)  # type: ignore[attr-defined]
    made: Any = dist.ProcessGroupGloo
    try:  # not a public part of torch
        loops: Any = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        options: Any = made._Options()
        options._devices, options._threads, options._timeout = loops.options._devices, 1, limit
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return made(store, rank, size, limit)
    return made(store, rank, size, options)
