"""Ranks of a distributed run that hold up the others: one that is slow, one that is stuck or gone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from agenttune.detectors.base import Detector
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.rank_reads import PLACES, RanksRead
from agenttune.protocol.text import some

SLOW_FACTOR = 1.5
"""A straggler's own part of a step takes so many times that of the median rank (guess)."""
SLOW_FRAC = 0.1
"""And is longer by at least this part of a step, or nothing is lost by it (guess)."""
SLOW_READINGS = 2
"""In so many readings in a row: one may be of an odd moment, such as an epoch's first batch (guess)."""
SILENT_S = 30.0
"""A rank that stands behind the others for so long is stuck, if its steps are not longer than that (guess)."""
SILENT_STEPS = 20
"""Or for the time of so many steps (guess)."""
MISSED_BEATS = 5
"""A rank is gone or frozen when so many signs of life in a row are missing (guess)."""
LIMIT_FRAC = 0.5
"""At this part of the time after which a collective operation gives up, it is said in any case."""
NAMED = 8
"""Ranks that are named one by one."""


class SilentRank(Detector):
    """A rank shows no sign of life, or stands still behind the others, which wait for it: told before they give up."""

    name = "silent_rank"
    severity = "critical"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        if observation.status != "running" or not observation.ranks:
            return
        read = observation.ranks[-1]
        gone = [r for r, s in enumerate(read.heard_s) if s > MISSED_BEATS * read.interval_s]
        stuck = [] if gone else stuck_ranks(read)
        ranks = [r for r in gone or stuck if read.places[r] != "ended"]
        if not ranks:
            return
        first = ranks[0]
        silent_s = read.heard_s[first] if gone else read.stands_s[first]
        what = "shows no sign of life: its process is gone or frozen" if gone else "stands still"
        limit = "" if read.limit_s is None else f"; collective operations give up after {read.limit_s:g} s"
        yield self.finding(
            severity="critical",
            metric="step",
            step=observation.step,
            summary=f"{_named(ranks)} {what}, for {silent_s:.0f} s: at step {read.steps[first]}, "
            f"{_where(read, first)}; the others wait for it{limit}",
            evidence={"rank": first, "ranks": len(ranks), "silent_s": silent_s, "step": read.steps[first]},
        )


def stuck_ranks(read: RanksRead) -> list[int]:
    """The ranks that are behind the furthest ones, where nobody gets on; empty if all are at the same place."""
    steps = [s for s in read.step_time_s if s > 0]
    patience_s = max(SILENT_S, SILENT_STEPS * median(steps)) if steps else SILENT_S
    if read.limit_s is not None:
        patience_s = min(patience_s, LIMIT_FRAC * read.limit_s)
    if not read.stands_s or min(read.stands_s) < patience_s:
        return []
    at = [(step, PLACES.index(place)) for step, place in zip(read.steps, read.places, strict=True)]
    furthest = max(at)
    return [rank for rank, place in enumerate(at) if place < furthest]


class Straggler(Detector):
    """One rank needs much longer than the others for its own part of a step, and all wait for it."""

    name = "straggler"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        newest = observation.ranks[-SLOW_READINGS:]
        if len(newest) < SLOW_READINGS:
            return
        always = Counter(rank for read in newest for rank in slow_ranks(read))
        ranks = sorted(rank for rank, times in always.items() if times == len(newest))
        if not ranks:
            return
        read = newest[-1]
        own = own_times_s(read)
        worst = max(ranks, key=lambda rank: own[rank])
        usual = median(own)
        yield self.finding(
            severity="warning",
            metric="step_time_s",
            step=observation.step,
            summary=f"{_named(ranks)} {'hold' if len(ranks) > 1 else 'holds'} up the others: rank {worst}'s own part "
            f"of a step takes {own[worst]:.3g} s (data {read.data_wait_s[worst]:.3g} s, forward "
            f"{read.forward_s[worst]:.3g} s), the median rank's {usual:.3g} s",
            evidence={"rank": worst, "ranks": len(ranks), "own_s": own[worst], "median_s": usual},
        )


def slow_ranks(read: RanksRead) -> list[int]:
    """The ranks whose own part of a step is much longer than usual."""
    own = own_times_s(read)
    finite = [s for s in own if math.isfinite(s) and s > 0]
    if len(finite) < len(own) or len(own) < 2:
        return []
    # Of two the faster one is usual; of more the median, which a few slow ones do not move.
    usual = min(own) if len(own) == 2 else median(own)
    lost_s = SLOW_FRAC * median(read.step_time_s)
    return [rank for rank, s in enumerate(own) if s > SLOW_FACTOR * usual and s - usual > lost_s]


def own_times_s(read: RanksRead) -> list[float]:
    """What each rank's step takes before it waits for any other, in seconds."""
    return [wait + forward for wait, forward in zip(read.data_wait_s, read.forward_s, strict=True)]


def _where(read: RanksRead, rank: int) -> str:
    words = {"data": "between two steps (its data, or the script)", "forward": "in a forward pass"}
    return words.get(read.places[rank], "after a forward pass")


def _named(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {some(ranks, NAMED)}"
