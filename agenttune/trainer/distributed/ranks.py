"""What a run of several ranks has beside its training: everybody's losses, and signs of life."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from agenttune.protocol.rank_reads import RanksRead
from agenttune.trainer.distributed.averaging import LossAveraging
from agenttune.trainer.distributed.heartbeats import Heartbeats, collective_limit_s, store_host
from agenttune.trainer.distributed.pulse import Pulse
from agenttune.trainer.recording.background_writer import Metrics, StepMetrics

logger = logging.getLogger("agenttune")


class Ranks:
    """One rank's share; made on all ranks at the same moment.

    Args:
        tell: Gives every rank the leader's text.
        record: On rank 0: takes readings of all ranks for the log.
        group: The channel's process group.
        joins_unevenly: Whether ranks may come to their ends one by one now.
    """

    def __init__(
        self,
        tell: Callable[[str], str],
        record: Callable[[RanksRead], None],
        group: Any,
        joins_unevenly: Callable[[], bool],
    ) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        self.pulse = Pulse()
        self._averaging = LossAveraging(world_size, group, joins_unevenly)
        self._held: deque[Metrics] = deque()
        self._heartbeats = _heartbeats(rank, world_size, self.pulse, tell, record)
        if self._heartbeats is not None:
            self._heartbeats.start()

    def follow(self, model: torch.nn.Module) -> None:
        """See the passes of this rank's model."""
        self.pulse.follow(model)

    def share(self, point: StepMetrics, at_once: bool) -> StepMetrics:
        """A step's metrics with the losses of all ranks; `at_once` where they are read right away."""
        self.pulse.end_step(point.step, point.took_s)
        shared, self._is_due = self._averaging.add(point, at_once)
        return shared

    def give(self, point: StepMetrics, at_once: bool) -> None:
        """The same on a rank that only follows: its losses count, and nobody reads its rows."""
        self.pulse.end_step(point.step, point.took_s)
        self._averaging.give(point, at_once)

    def ready(self, point: Metrics) -> list[Metrics]:
        """The rows that can be written by now, in order, after one more."""
        self._held.append(point)
        if isinstance(point, StepMetrics) and not self._is_due:
            return []
        if not self._is_due and any(isinstance(held, StepMetrics) for held in self._held):
            return []
        return self._let_go()

    def average_now(self) -> list[Metrics]:
        """All ranks meet at the end of a step; returns the rows that waited for their losses."""
        self._averaging.average_now()
        return self._let_go()

    def average_no_more(self) -> None:
        """Another rank has come to its end: from here on losses are this rank's own."""
        self._averaging.stop()

    def _let_go(self) -> list[Metrics]:
        found = list(self._held)
        self._held.clear()
        return found

    def close(self, is_whole: bool) -> list[Metrics]:
        """The run has ended, on all ranks where `is_whole`; returns the rows that are left."""
        self.pulse.leave()
        if self._heartbeats is not None:
            self._heartbeats.stop()
        self._averaging.close(is_whole)
        return self._let_go()

    _is_due = True


def _heartbeats(
    rank: int, world_size: int, pulse: Pulse, tell: Callable[[str], str], record: Callable[[RanksRead], None]
) -> Heartbeats | None:
    """None where the store cannot be made or reached, which costs the signs of life alone."""
    made: Heartbeats | None = None
    address = ""
    if rank == 0:
        try:
            made = Heartbeats(rank, world_size, pulse, tell=record, limit_s=collective_limit_s())
            address = f"{store_host()}:{made.port}"
        except (RuntimeError, OSError) as error:
            logger.warning("ranks leave no signs of life: no store can be made (%s)", error)
    address = tell(address)
    if rank == 0 or not address:
        return made
    try:
        return Heartbeats(rank, world_size, pulse, address)
    except (RuntimeError, OSError) as error:
        logger.warning("rank %d leaves no signs of life: the store at %s cannot be reached (%s)", rank, address, error)
        return None
