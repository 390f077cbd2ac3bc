"""Which job a training process belongs to, and whether that has been started again: then its run goes on.

Told by what the launchers leave in the environment. A job that was started again trains on in the run that it has
begun, as the next attempt; any other start is a new run.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenttune.store.process_liveness import started_s

OWN = "AGENTTUNE_JOB"
"""A job's name, given by whoever starts it again by means of their own."""
OWN_RESTARTS = "AGENTTUNE_JOB_RESTARTS"
"""How often that is done at most."""


@dataclass(frozen=True)
class Job:
    """What a process was started by.

    Attributes:
        key: The same for every attempt, and for no other job.
        by: Who starts it again.
        is_restart: Whether it was started before.
        restarts_left: How often it will be started again if it fails; 0: not, or nobody knows.
        counts_all: `restarts_left` is of the whole job, not of this attempt.
        keeper_pid: The process that would start it again, and lives on meanwhile; None where there is none.
    """

    key: str
    by: str
    is_restart: bool = False
    restarts_left: int = 0
    keeper_pid: int | None = None
    counts_all: bool = False

    def left_after(self, attempt: int) -> int:
        """How often it will be started again, should this attempt (from 1) fail."""
        return max(0, self.restarts_left - (attempt - 1)) if self.counts_all else self.restarts_left

    @property
    def keeper_started_s(self) -> float | None:
        """Start of that process, in seconds after boot."""
        return None if self.keeper_pid is None else started_s(self.keeper_pid)


def job_of(environ: Mapping[str, str] = os.environ, argv: Sequence[str] = sys.argv) -> Job | None:
    """The job that this process belongs to; None for one that was started by hand.

    Slurm keeps a job's number when it is requeued; torchrun its own name while it lives. Several trainings of one job
    are told apart by their script and its arguments.
    """
    elastic, slurm = environ.get("TORCHELASTIC_RUN_ID"), environ.get("SLURM_JOB_ID")
    restarts, most = _count(environ, "TORCHELASTIC_RESTART_COUNT"), _count(environ, "TORCHELASTIC_MAX_RESTARTS")
    left = max(0, most - restarts) if elastic is not None else 0
    keeper = os.getppid() if elastic is not None and most > 0 else None
    requeues = _count(environ, "SLURM_RESTART_COUNT")
    script = _script(argv, environ if elastic is None else {})
    if own := environ.get(OWN):
        # Ray's workers are started anew by its daemon, which lives on and is their parent.
        keeper = keeper or (_count(environ, "RAY_RAYLET_PID") or None)
        by = "Ray" if "RAY_RAYLET_PID" in environ else OWN
        return Job(f"own/{own}", by, True, left or _count(environ, OWN_RESTARTS), keeper, counts_all=not left)
    if slurm is not None:
        by = "Slurm" if requeues and not restarts else "torchrun" if elastic is not None else "Slurm"
        key = f"slurm/{environ.get('SLURM_CLUSTER_NAME', '')}/{slurm}/{script}"
        return Job(key, by, requeues > 0 or restarts > 0, left, keeper)
    if elastic is None:
        return None
    # A fixed name, such as torchrun's default `none`, is used again by other jobs.
    place = f"{os.getppid()}/{started_s(os.getppid())}" if elastic == "none" else ""
    return Job(f"torchelastic/{elastic}/{place}/{script}", "torchrun", restarts > 0, left, keeper)


def _script(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """A training within a job; of a sweep that Slurm starts, each task has its own."""
    words = [os.getcwd(), *argv]
    if not environ.get("MASTER_ADDR"):
        words.append(environ.get("SLURM_PROCID", ""))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def _count(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0
