"""Where a run is recorded: options of the user, the launcher's environment, the run's log and its control server."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agenttune.config.sections import check_origins
from agenttune.control.discovery import ensure_server
from agenttune.control.tunnel import is_on_several_nodes, tunnel
from agenttune.errors import LogExists, UserError
from agenttune.protocol.run_info import RunInfo
from agenttune.store.job import job_of
from agenttune.store.local_folder import local_runs_dir
from agenttune.store.log_connection import storing
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.trainer.distributed.attempts import continue_run, identity, part_of
from agenttune.trainer.distributed.rank import Rank, rank_here

RUN_ID = "AGENTTUNE_RUN_ID"
RUNS_DIR = "AGENTTUNE_RUNS_DIR"
SERVER_URL = "AGENTTUNE_SERVER_URL"
MAX_NAME = 41
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


@dataclass(frozen=True)
class Options:
    """How a training process records itself.

    Attributes:
        run_name: The run's id is this name with the time of its start. Default: `run`.
        runs_dir: Folder for one sub-folder a run, on a local disk. Default: `AGENTTUNE_RUNS_DIR`, else `./runs`.
        host: Address of the control server, where one has to be started.
        port: Its port, which is an error if it is taken; 0 takes a free one, None 7007 or the next one that is free.
        server: False for no control server; the log alone is written and read.
        allowed_origins: Pages of other servers that may use the control server, such as `http://localhost:5173`.
        consult: In lockstep, with an agent in the training's own process: called again and again while training waits
            for its decision, instead of waiting for another process.
    """

    run_name: str | None = None
    runs_dir: str | Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    server: bool = True
    allowed_origins: tuple[str, ...] = ()
    consult: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        check_origins(self.allowed_origins)
        if self.run_name is not None and not _NAME.fullmatch(self.run_name):
            raise UserError(
                f"run_name {self.run_name!r} cannot be a folder name; use letters, digits, '.', '_' and '-', "
                "at most 41, starting with a letter or digit",
                field="run_name",
            )

    def named(self, run_name: str | None, output_dir: str | None) -> Options:
        """The same with the name that a Trainer's user gave to the run, as far as it can be a folder's.

        Args:
            run_name: `TrainingArguments.run_name`; transformers up to 4.5x set it to the output folder where nobody
                gave it, later ones leave it None.
            output_dir: That folder.
        """
        if self.run_name is not None or not run_name or run_name == output_dir:
            return self
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run_name).lstrip("._-")[:MAX_NAME].rstrip("-")
        return replace(self, run_name=name) if name else self

    def folder(self, environ: Mapping[str, str] = os.environ) -> Path:
        """The runs folder: the argument, else the environment, else `./runs`."""
        return Path(self.runs_dir or environ.get(RUNS_DIR) or "runs").absolute()


def open_run(options: Options, environ: Mapping[str, str] = os.environ) -> RunLog:
    """Open the log that the launcher made, or create one.

    A run that has begun or ended is only continued by a job that was started again, such as by torchrun or Slurm; the
    next `train()` of the same process gets `<id>-2`.

    Raises:
        StoreFault: The log cannot be written there.
    """
    runs_dir = local_runs_dir(options.folder(environ))[0]
    given, job = environ.get(RUN_ID), job_of(environ)
    part = 1 if job is None else part_of(job)
    mine = {**identity(job, part), "started_at_s": time.time()}
    # What a launcher that was started again has made ready comes before what the job is found to have begun.
    waiting = _take(runs_dir / given, mine) if given and (runs_dir / given / LOG_NAME).exists() else None
    found = waiting or continue_run(runs_dir, job, part, environ, started_at_s=time.time())
    if found is not None:
        return found
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    first = given or f"{options.run_name or 'run'}-{stamp}"
    for number in itertools.count(1):
        run_id = first if number == 1 else f"{first}-{number}"
        folder = runs_dir / run_id
        if given and (folder / LOG_NAME).exists():
            log = _take(folder, mine)
        else:
            log = _create(folder, run_id, options.run_name, mine, is_named=run_id == given)
        if log is not None:
            return log
    raise AssertionError("count() does not end")


def _take(folder: Path, mine: Mapping[str, object]) -> RunLog | None:
    """The log of a run that waits for its trainer; None if another trainer has it."""
    log = RunLog.open(folder)
    if log.take(**mine):
        return log
    log.close()
    return None


def _create(folder: Path, run_id: str, name: str | None, mine: Mapping[str, object], is_named: bool) -> RunLog | None:
    """A new log in a folder that nobody else has; None if somebody has.

    Args:
        folder: The run's.
        run_id: Its name.
        name: The run's, for people.
        mine: Of its card: whose it is.
        is_named: Somebody chose this very folder, and may have made it.
    """
    with storing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=is_named)
        except FileExistsError:
            return None  # another process, perhaps a launcher, took the same second's id: try the next number
    now_s = time.time()
    info = RunInfo(run_id=run_id, name=name or run_id, status="starting", created_at_s=now_s)
    try:
        return RunLog.create(folder, info.model_copy(update=mine))
    except LogExists:
        return None


logger = logging.getLogger("agenttune")


def open_log(options: Options, rank: Rank | None = None) -> RunLog | None:
    """The run's log, with a control server beside it; None on ranks that only follow.

    Args:
        options: Of the user.
        rank: This process' place, if it is known better than by torch and the environment.

    Raises:
        PortInUse: The port that was asked for is taken.
        StoreFault: The log cannot be written.
    """
    rank = rank or rank_here()
    if not rank.leads:
        return None
    runs_dir, notice = local_runs_dir(options.folder())
    if notice:
        say(notice)
    if options.server and not os.environ.get(SERVER_URL):
        address = ensure_server(runs_dir, options.host, options.port, allowed_origins=options.allowed_origins)
        say(f"control server at {address.url}")
        if is_on_several_nodes(rank.world_size):
            say(tunnel(address.url))
        if address.notice:
            say(address.notice)
    log = open_run(options)
    say(f"run {log.folder.name} is recorded in {log.folder}")
    return log


def say(message: str) -> None:
    """Log a line that the user should see, whether or not the program has set up logging."""
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())
    if logger.getEffectiveLevel() > logging.INFO and logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    logger.info(message)
