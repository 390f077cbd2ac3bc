"""What a run of several ranks has beside its training: everybody's losses, and signs of life."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import torch

from agenttune.protocol.rank_reads import RanksRead
from agenttune.trainer.distributed.averaging import LossAveraging, Send
from agenttune.trainer.distributed.channel import RankChannel
from agenttune.trainer.distributed.heartbeats import Heartbeats, collective_limit_s, store_host
from agenttune.trainer.distributed.pulse import Pulse
from agenttune.trainer.recording.step_meter import Metrics, StepMetrics

logger = logging.getLogger("agenttune")


class Ranks:
    """One rank's share; made on all ranks at the same moment.

    Args:
        channel: To the other ranks.
        tell: Gives every rank the leader's text.
        record: On rank 0: takes readings of all ranks for the log.
        write: On rank 0: takes rows that can be written.
        joins_unevenly: Whether ranks may come to their ends one by one now.
    """

    def __init__(
        self,
        channel: RankChannel,
        tell: Callable[[str], str],
        record: Callable[[RanksRead], None],
        write: Callable[[Sequence[Metrics]], None],
        joins_unevenly: Callable[[], bool],
    ) -> None:
        self.pulse = Pulse()
        self._write = write
        self._averaging = LossAveraging(channel, joins_unevenly)
        self._held: deque[Metrics] = deque()
        self._heartbeats = _heartbeats(channel.rank, channel.size, self.pulse, tell, record)
        if self._heartbeats is not None:
            self._heartbeats.start()

    def follow(self, model: torch.nn.Module) -> None:
        """See the passes of this rank's model."""
        self.pulse.follow(model)

    def share(self, point: StepMetrics, at_once: bool) -> StepMetrics:
        """A step's metrics with the losses of all ranks; `at_once` where they are read right away."""
        self.pulse.end_step(point.step, point.took_s)
        return self._averaging.add(point, at_once)

    def give(self, point: StepMetrics, at_once: bool) -> None:
        """The same on a rank that only follows: its losses count, and nobody reads its rows."""
        self.pulse.end_step(point.step, point.took_s)
        self._averaging.give(point, at_once)

    def record(self, point: Metrics) -> None:
        """A row that is to be written, in order, once the losses before it can be read."""
        self._held.append(point)
        self._let_go()

    def go_along(self, send: Send) -> None:
        """A flag is sent to all ranks, at a step's start: the losses go along.

        Raises:
            RanksApart: A rank is gone.
        """
        self._averaging.go_along(send)
        self._let_go()

    def is_average_due(self) -> bool:
        """On rank 0: whether `average_now` is due on all ranks, for losses that cannot go along."""
        return self._averaging.is_due()

    def average_now(self) -> None:
        """All ranks meet at the end of a step: average what is left."""
        self._averaging.average_now()
        self._let_go()

    def average_no_more(self) -> None:
        """Another rank has come to its end: from here on losses are this rank's own."""
        self._averaging.stop()
        self._let_go()

    def _let_go(self) -> None:
        if self._held and not self._averaging.is_pending:
            self._write(self._held)
            self._held.clear()

    def close(self, is_whole: bool) -> None:
        """The run has ended, on all ranks where `is_whole`."""
        self.pulse.leave()
        if self._heartbeats is not None:
            self._heartbeats.stop()
        self._averaging.close(is_whole)
        self._averaging.stop()
        self._let_go()


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
