"""How the ranks of a run hear from rank 0: a flag each step, orders only where it is set, and votes.

All of it goes over a gloo group of its own, so that waiting does not occupy an accelerator and no collective of the
loop's own is disturbed. What is sent are the package's own values, between processes of one run.
"""

from __future__ import annotations

import datetime
import logging
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
        limit = datetime.timedelta(seconds=limit_s)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit, pg_options=_beside_the_loops(limit))
        self._flag = torch.zeros(len(Flag._fields), dtype=torch.int64)
        self._numbers = self._flag.numpy()  # the same memory: a tensor's elements cost ten times as much to set
        self._options = dist.BroadcastOptions()
        self._options.rootRank = 0
        self._sums = torch.zeros(2, dtype=torch.int64)
        self._told: Any = None
        self.where = Whereabouts(self.rank, self.gather)

    @property
    def process_group(self) -> Any:
        """For others' collectives that all ranks take part in."""
        return self._group

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
            self._told = self._guarded(lambda: self._group.broadcast([self._flag], self._options))

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
        self._guarded(lambda: dist.broadcast_object_list([order], src=0, group=self._group))

    def receive(self) -> Any:
        """What rank 0 sends."""
        box: list[Any] = [None]
        self._guarded(lambda: dist.broadcast_object_list(box, src=0, group=self._group))
        return box[0]

    def gather(self, mine: T) -> list[T]:
        """What each rank says, by rank, on every rank."""
        answers: list[Any] = [None] * self.size
        self._guarded(lambda: dist.all_gather_object(answers, mine, group=self._group))
        return answers

    def are_alike(self, number: int) -> bool:
        """Whether all ranks give the same number, of 63 bits."""
        self._sums[0], self._sums[1] = number, -number
        self._guarded(lambda: dist.all_reduce(self._sums, dist.ReduceOp.MIN, self._group))
        least, negated_most = self._sums.tolist()
        return bool(least == -negated_most)

    def collect(self, mine: T) -> list[T]:
        """The same, for rank 0 alone: for what is too large for everybody; empty on the others."""
        answers: list[Any] | None = [None] * self.size if self.rank == 0 else None
        self._guarded(lambda: dist.gather_object(mine, answers, dst=0, group=self._group))
        return answers or []

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
        if group is None or not dist.is_initialized():
            return
        try:
            if told is not None:  # what is still under way would keep the group's thread, and the process, from ending
                told.wait(datetime.timedelta(seconds=1))
        except RuntimeError as error:
            logger.debug("the last flag did not arrive: %s", error)
        # A gloo group that is still there when the interpreter exits may abort the process (torch 2.13: about 1 in 10).
        dist.destroy_process_group(group)


def _beside_the_loops(limit: datetime.timedelta) -> Any:
    """Options of a gloo group that shares the thread of the loop's own, where that is gloo too; None where it is not.

    A thread of gloo's wakes a hundred times a second, whether anything is sent or not: 1 ms of a processor a second
    (measured).
    """
    try:  # not a public part of torch
        loops: Any = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices, options._threads, options._timeout = loops.options._devices, 1, limit
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None
    return options
