"""Telling whether a process still lives, whatever its pid has become since."""

from __future__ import annotations

import psutil

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
    found = started_s(pid)
    if found is None:
        return False
    return expected_start_s is None or abs(found - expected_start_s) < SAME_PROCESS_S
