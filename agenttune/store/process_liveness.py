"""Telling whether a process still lives, whatever its pid has become since."""

from __future__ import annotations

import functools
import os
import socket

import psutil

from agenttune.protocol.events import PolicyAttached
from agenttune.protocol.run_info import RunInfo

SAME_PROCESS_S = 1.0
"""Two start times closer than this are the same process; the kernel counts in hundredths of a second."""


def started_s(pid: int) -> float | None:
    """Start of a process in seconds after boot (which no change of the clock moves); None if there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(pid: int, expected_start_s: float | None) -> bool:
    """Whether the process that had this pid at `expected_start_s` (seconds after boot) still runs."""
    found = _own_start_s(pid) if pid == os.getpid() else started_s(pid)
    if found is None:
        return False
    return expected_start_s is None or abs(found - expected_start_s) < SAME_PROCESS_S


def may_be_alive(info: RunInfo) -> bool:
    """Whether a run's training process is still there, as far as can be told from here."""
    return info.is_live and (info.pid is None or is_alive(info.pid, info.pid_started_s))


def agent_lives(attached: PolicyAttached) -> bool | None:
    """Whether the process of an agent lives; None where that cannot be told, as of one on another machine."""
    if attached.pid is None or (attached.host and attached.host != socket.gethostname()):
        return None
    return is_alive(attached.pid, attached.pid_started_s)


@functools.lru_cache(maxsize=4)
def _own_start_s(pid: int) -> float | None:
    """Of this very process, which is asked for at each decision of an agent that works in it."""
    return started_s(pid)
