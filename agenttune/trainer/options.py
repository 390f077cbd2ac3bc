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
from agenttune.errors import LogExists, UserError
from agenttune.protocol.run_info import RunInfo
from agenttune.store.process_liveness import started_s
from agenttune.store.run_log import LOG_NAME, RunLog
from agenttune.trainer.distributed.processes import leads_here

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

    A run that has begun or ended is never continued: the next `train()` of the same process gets `<id>-2`.

    Raises:
        StoreFault: The log cannot be written there.
    """
    runs_dir = options.folder(environ)
    given = environ.get(RUN_ID)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    first = given or f"{options.run_name or 'run'}-{stamp}"
    for number in itertools.count(1):
        run_id = first if number == 1 else f"{first}-{number}"
        folder = runs_dir / run_id
        log = _take(folder) if (folder / LOG_NAME).exists() else _create(folder, run_id, options.run_name)
        if log is not None:
            return log
    raise AssertionError("count() does not end")


def _take(folder: Path) -> RunLog | None:
    """The log of a run that waits for its trainer; None if another trainer has it."""
    log = RunLog.open(folder)
    if log.take(**_identity()):
        return log
    log.close()
    return None


def _create(folder: Path, run_id: str, name: str | None) -> RunLog | None:
    now_s = time.time()
    info = RunInfo(run_id=run_id, name=name or run_id, status="starting", created_at_s=now_s)
    try:
        return RunLog.create(folder, info.model_copy(update=_identity()))
    except LogExists:
        return None  # another process took the same second's id: try the next number


def _identity() -> dict[str, object]:
    pid = os.getpid()
    return {"pid": pid, "pid_started_s": started_s(pid), "started_at_s": time.time()}


logger = logging.getLogger("agenttune")


def open_log(options: Options) -> RunLog | None:
    """The run's log, with a control server beside it; None on ranks that only follow.

    Raises:
        PortInUse: The port that was asked for is taken.
        StoreFault: The log cannot be written.
    """
    if not leads_here():
        return None
    if options.server and not os.environ.get(SERVER_URL):
        address = ensure_server(options.folder(), options.host, options.port, allowed_origins=options.allowed_origins)
        say(f"control server at {address.url}")
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
