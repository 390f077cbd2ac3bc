"""How many files this process may have open, and what follows for those it shares out."""

from __future__ import annotations

import resource

WANTED = 65_536
"""Far more than a server of runs needs; many systems begin a process with 1,024 (guess)."""
MOST_THREADS, FEWEST_THREADS = 40, 4
"""For requests that read logs; forty is what the web framework takes by default."""
OTHER_THREADS = 8
"""Live streams, notifications, curves kept ready: they open logs too."""
FILES_PER_LOG = 3
"""SQLite's: the file, its write-ahead log and its shared memory."""
MOST_LOGS = 32
"""That one thread keeps open (guess: more runs than are looked at in turn)."""


def raise_limit() -> int:
    """Let this process open as many files as it may without asking anybody; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):  # some systems allow less than they say
        return soft
    return most


def limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def threads_for(files: int) -> int:
    """Threads for requests, each of which may have a log open."""
    return max(FEWEST_THREADS, min(MOST_THREADS, files // 32))


def logs_per_thread_for(files: int) -> int:
    """Logs that each thread may keep open: together a third of all files."""
    return max(1, min(MOST_LOGS, files // 3 // FILES_PER_LOG // (threads_for(files) + OTHER_THREADS)))


def clients_for(files: int) -> int:
    """Clients at once: half of all files is for them."""
    return max(8, files // 2 - 16)
