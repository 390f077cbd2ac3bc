"""A note in the folder where a loop saves, of the run that saves there now: a second one would write over the first's.

Other runs may be recorded in another folder of runs, so the note lies where they meet.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from agenttune.store.process_liveness import is_alive, started_s

logger = logging.getLogger("agenttune")
NAME = ".agenttune-run.json"


class OutputMarker(BaseModel):
    """Who saves here."""

    run_id: str
    pid: int
    pid_started_s: float | None = None


def claim(folder: Path, run_id: str) -> OutputMarker | None:
    """Note that a run of this process saves in a folder; returns who else does at this moment, if anybody does.

    Nothing is noted in a folder that is not there, or cannot be written to.
    """
    other = _read(folder)
    pid = os.getpid()
    if other is not None and (other.pid == pid or not is_alive(other.pid, other.pid_started_s)):
        other = None
    if folder.is_dir():
        mine = OutputMarker(run_id=run_id, pid=pid, pid_started_s=started_s(pid))
        aside = folder / f"{NAME}.{pid}"
        try:
            aside.write_text(mine.model_dump_json(), encoding="utf-8")
            aside.replace(folder / NAME)
        except OSError as error:
            logger.warning("%s cannot be marked as in use: %s", folder, error)
    return other


def release(folder: Path, run_id: str) -> None:
    """Take the note away, unless it is another's by now."""
    found = _read(folder)
    if found is not None and (found.run_id, found.pid) == (run_id, os.getpid()):
        (folder / NAME).unlink(missing_ok=True)


def _read(folder: Path) -> OutputMarker | None:
    try:
        return OutputMarker.model_validate_json((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
