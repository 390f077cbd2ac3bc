"""Which process of how many this one is, told before `init_process_group` by what the launchers leave behind.

A run is recorded by rank 0 alone. A session may be opened before the processes have met, and then each would take
itself for the only one; the environment knows better.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch.distributed as dist

INTERACTIVE = frozenset({"bash", "interactive", "sh", "tcsh", "zsh"})
"""Names that Slurm gives to a job step in which a person has a shell: what is started there is a process of its own."""


class Rank(NamedTuple):
    """The place of this process among those that train one model.

    Attributes:
        rank: From 0; 0 reads and writes the run's log.
        world_size: Their number.
        source: Who says so.
    """

    rank: int
    world_size: int
    source: str

    @property
    def leads(self) -> bool:
        """Whether this process is the one that records the run."""
        return self.rank == 0


ALONE = Rank(0, 1, "no launcher")


def rank_here(environ: Mapping[str, str] = os.environ) -> Rank:
    """This process' place: by torch once the processes have met, before that by the environment."""
    if dist.is_available() and dist.is_initialized():
        return Rank(dist.get_rank(), dist.get_world_size(), "torch.distributed")
    return rank_of(environ)


def rank_of(environ: Mapping[str, str]) -> Rank:
    """What the environment says: torchrun's variables first, as `srun torchrun` and `mpirun torchrun` set both kinds.

    One process a launcher's task is not yet a distributed run: a sweep of independent trainings is started by
    `srun -n 8` too. Slurm's and PMI's variables therefore count only beside `MASTER_ADDR`, without which their
    processes could not meet, and Slurm's not in a shell that `srun --pty` or `salloc` opened, where they are left
    behind by the shell's own step.
    """
    return next(_told(environ), ALONE)


def _told(environ: Mapping[str, str]) -> Iterator[Rank]:
    meets = bool(environ.get("MASTER_ADDR"))
    known = [("RANK", "WORLD_SIZE", True)]
    known += [("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", meets and not _is_shell(environ))]
    known += [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", True), ("PMI_RANK", "PMI_SIZE", meets)]
    for name, size_name, counts in known:
        rank, size = _number(environ, name), _number(environ, size_name)
        if counts and rank is not None and size is not None and 0 <= rank < size and size > 1:
            yield Rank(rank, size, name)


def _is_shell(environ: Mapping[str, str]) -> bool:
    return environ.get("SLURM_JOB_NAME", "") in INTERACTIVE or bool(environ.get("SLURM_PTY_PORT"))


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None
