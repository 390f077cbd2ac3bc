"""What is checked when a run begins: checkpoints that lie where it saves, who else saves there, limits without effect.

A second run that saves in one folder writes over the first's checkpoints, and may be recorded elsewhere. So each run
leaves a note in the folder where it saves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from agenttune.gate import guards_nothing
from agenttune.protocol.events import DatasetRead, KnobsRead, NoteAdded
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import clean
from agenttune.store.folder_lock import folder_held
from agenttune.store.process_liveness import is_alive, started_s
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.resumed_values import resume_warning
from agenttune.trainer.run_state import RunState

logger = logging.getLogger("agenttune")

LOST_CHARACTERS = 4000


def record_found_checkpoints(run_state: RunState, recorder: Recorder) -> None:
    """Record the checkpoints of earlier runs: each for the catalog, and how many for people."""
    found = run_state.checkpoints.add_found(run_state.adapter.found_checkpoints(), run_state.adapter.resumed_from())
    for checkpoint in found:
        recorder.record(checkpoint.saved_event(), step=checkpoint.step)
    before = [checkpoint for checkpoint in found if checkpoint.is_before]
    if before:
        one = len(before) == 1
        where = ", ".join(sorted({str(Path(checkpoint.path or "").parent) for checkpoint in before}))
        text = f"{len(before)} checkpoint{'s' * (not one)} of before this run lie{'s' * one} in {where}"
        recorder.record(NoteAdded(text=text, author="agenttune"))


def claim_output(folder: Path, run_id: str, recorder: Recorder) -> None:
    """Mark the folder where the loop saves, and warn if another run saves there too."""
    other = claim(folder, run_id)
    if other is not None:
        text = (
            f"run {other.run_id} (process {other.pid}) trains now and saves in {folder} too: each writes over "
            "the other's checkpoints; give one of them an output_dir of its own"
        )
        _warn(text, recorder)


def warn_of_limits(info: RunInfo, knobs: KnobsRead, whole: Sequence[Record], recorder: Recorder) -> None:
    """Warn of limits in the configuration that guard nothing: one that is wrongly trusted is worse than none."""
    dataset = next((body for body in whole if isinstance(body, DatasetRead)), None)
    for sentence in guards_nothing(info, knobs.knobs, dataset):
        _warn(sentence, recorder)


def warn_of_lost_values(run_state: RunState, own_log: Path, knobs: KnobsRead, recorder: Recorder) -> None:
    """Warn of what the checkpoint that this run resumes from was trained under, and is not in force now."""
    if text := resume_warning(run_state, own_log, knobs.knobs):
        _warn(clean(text, LOST_CHARACTERS), recorder)


def _warn(text: str, recorder: Recorder) -> None:
    logger.warning(text)
    recorder.record(NoteAdded(text=text, author="agenttune"))


NAME = ".agenttune-run.json"


class OutputMarker(BaseModel):
    """Who saves here."""

    run_id: str
    pid: int
    pid_started_s: float | None = None


def claim(folder: Path, run_id: str) -> OutputMarker | None:
    """Note that a run of this process saves in a folder; returns who else does at this moment, if anybody does.

    Of two that come at once, one sees the other. Nothing is noted where there is no folder, or it cannot be written to.
    """
    try:
        with folder_held(folder):
            other, pid = _read(folder), os.getpid()
            mine = OutputMarker(run_id=run_id, pid=pid, pid_started_s=started_s(pid))
            aside = folder / f"{NAME}.{pid}"
            aside.write_text(mine.model_dump_json(), encoding="utf-8")
            aside.replace(folder / NAME)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be marked as in use: %s", folder, error)
        other, pid = _read(folder), os.getpid()
    is_other = other is not None and other.pid != pid and is_alive(other.pid, other.pid_started_s)
    return other if is_other else None


def release(folder: Path, run_id: str) -> None:
    """Take the note away, unless it is another's by now."""
    try:
        with folder_held(folder):
            found = _read(folder)
            if found is not None and (found.run_id, found.pid) == (run_id, os.getpid()):
                (folder / NAME).unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s stays marked as in use: %s", folder, error)


def _read(folder: Path) -> OutputMarker | None:
    try:
        return OutputMarker.model_validate_json((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
