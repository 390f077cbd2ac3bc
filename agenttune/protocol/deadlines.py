"""Moments by two clocks, so that nobody's hand on the wall clock makes a request wait longer or shorter.

Linux counts the time since it was started in a clock that nobody sets, that is the same in every process and that
goes on while the machine sleeps (CLOCK_BOOTTIME, `man clock_gettime`). With the name of that start it says how long
something took, also across restarts of processes. Across a restart of the machine only the wall clock can.
"""

from __future__ import annotations

import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from agenttune.protocol.proposals import ApprovalRequest

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class BootTime(NamedTuple):
    """Seconds since a start of the machine, and which start it was; empty where that is not known."""

    boot_id: str
    at_s: float


class Instant(NamedTuple):
    """A moment in Unix time, which somebody may set, and since the machine's start, which nobody does."""

    unix_s: float
    boot: BootTime = BootTime("", 0.0)


@lru_cache(1)
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # another system: its clock is then taken for this process's own
        return uuid.uuid4().hex


def boot_time() -> BootTime:
    return BootTime(_boot_id(), time.clock_gettime(_CLOCK))


def instant() -> Instant:
    """Now."""
    return Instant(time.time(), boot_time())


def was_timed(request: ApprovalRequest, now: Instant) -> bool:
    """Whether a clock that nobody sets has run ever since a request was made."""
    return bool(request.boot_id) and request.boot_id == now.boot.boot_id


def now_for(request: ApprovalRequest, now: Instant) -> float:
    """Unix time as it would be had nobody set the clock since a request was made: what its deadline goes by."""
    if was_timed(request, now):
        return request.requested_at_s + now.boot.at_s - request.requested_boot_s
    return now.unix_s


def is_over(request: ApprovalRequest, now: Instant) -> bool:
    """Whether the time to answer a request is up."""
    return now_for(request, now) >= request.expires_at_s
