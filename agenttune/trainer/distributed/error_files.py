"""What a failing rank leaves for its launcher: torch's error file, from which the launcher learns which rank it was.

torchrun names the file to each rank; a script whose main function is not decorated with `record` never writes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from agenttune.protocol.rank_failures import contact_lost

logger = logging.getLogger("agenttune")

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def leave_error(error: BaseException, environ: Mapping[str, str] = os.environ) -> None:
    """Write the error file of this rank, unless nobody asked for one or it is there.

    It appears whole or not at all: when a rank fails the launcher ends the others, also one that is writing this file,
    and on half a file it fails itself and names nobody.
    """
    path = environ.get(ERROR_FILE)
    if not path or os.path.exists(path) or not isinstance(error, Exception):
        return
    from torch.distributed.elastic.multiprocessing.errors.error_handler import ErrorHandler

    aside = f"{path}.{os.getpid()}"

    class Aside(ErrorHandler):
        def _get_error_file_path(self) -> str:
            return aside

    try:
        Aside().record_exception(error)
        os.replace(aside, path)
    except OSError as fault:
        logger.warning("the error file of this rank cannot be written: %s", fault)


def reason_of(error: BaseException) -> str:
    """An exception that ended training: its type and message; what lost contact means, in plain words."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return contact_lost(text) or text
