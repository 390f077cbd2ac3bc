"""How the processes of a run come to hear from each other: at once, or when they have met.

A session may be opened before `init_process_group`. Until then no rank applies anything: commands wait in the queue, so
that none reaches one rank alone. All ranks find the processes together at the same step boundary, as they take their
steps together.
"""

from __future__ import annotations

import logging

from agenttune.trainer.distributed.channel import RankChannel
from agenttune.trainer.distributed.heartbeats import collective_limit_s
from agenttune.trainer.distributed.processes import is_distributed
from agenttune.trainer.distributed.rank import Rank, rank_here

logger = logging.getLogger("agenttune")

LIMIT_S = 1800.0
"""Where torch does not tell the limit of its own collectives: its default."""
PATIENCE_BOUNDARIES = 200
"""Step boundaries without `init_process_group` until it is said that commands wait for it (guess)."""


class Joining:
    """One rank's way to the others.

    Args:
        rank: This process' place, by torch or the environment.

    Attributes:
        leads: Whether this process decides.
    """

    def __init__(self, rank: Rank) -> None:
        self.leads, self._rank = rank.leads, rank
        self._boundaries = 0

    def meet(self) -> RankChannel | None:
        """The channel to the others, once there are any; to be asked on all ranks at the same place."""
        if is_distributed():
            return RankChannel(collective_limit_s() or LIMIT_S)
        self._boundaries += 1
        if self._boundaries == PATIENCE_BOUNDARIES and self.leads:
            logger.warning(
                "%s says that this is one of %d processes, but torch.distributed was not initialized: commands wait "
                "for init_process_group. If this is a run of its own, unset %s",
                self._rank.source,
                self._rank.world_size,
                self._rank.source,
            )
        return None


def join_ranks() -> Joining | None:
    """The way to the other processes of this run; None where there are none."""
    rank = rank_here()
    return Joining(rank) if rank.world_size > 1 else None
