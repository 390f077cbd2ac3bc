"""Opening a run from inside a training process: a control server where one is needed, then the run's log."""

from __future__ import annotations

import logging
import os

from agenttune.control.discovery import ensure_server
from agenttune.store.run_log import RunLog
from agenttune.trainer.distributed.processes import leads_here
from agenttune.trainer.options import SERVER_URL, Options, open_run

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
