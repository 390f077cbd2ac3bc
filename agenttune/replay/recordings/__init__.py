"""What trainings left behind, as one kind of recording: our log, a Trainer's `trainer_state.json`, TensorBoard's files.

Knows the store for our own logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agenttune.errors import UserError
from agenttune.replay.recordings.event_files import find_event_folder, read_events
from agenttune.replay.recordings.own_log import line_of, read_log
from agenttune.replay.recordings.recording import Recording
from agenttune.replay.recordings.trainer_state import STATE_NAME, find_state, read_trainer_state
from agenttune.store.run_log import LOG_NAME, RunLog

__all__ = ["Recording", "line_of", "read_log", "read_recording"]


def read_recording(path: Path, names: Mapping[str, str] | None = None) -> Recording:
    """Read whatever lies at a path.

    Args:
        path: A run's folder or its log, a Trainer's output folder or `trainer_state.json`, an event file or a folder
            with some.
        names: For event files: the tags to take for `loss`, `lr`, `grad_norm`.

    Raises:
        UserError: Nothing of these lies there, or it cannot be read; says what was found and what is taken.
        StoreFault: The run's log is damaged.
    """
    if path.is_dir():
        return _read_folder(path, names)
    if not path.is_file():
        raise UserError(f"no run and no file {str(path)!r}", field="run")
    if path.name == LOG_NAME:
        return _read_run(path.parent)
    if "tfevents" in path.name:
        return read_events(path, names)
    if path.suffix == ".json":
        return read_trainer_state(path)
    raise UserError(f"{path}: not a kind of file that is known here; {_taken()}", field="run")


def _read_folder(folder: Path, names: Mapping[str, str] | None) -> Recording:
    if (folder / LOG_NAME).is_file():
        return _read_run(folder)
    state = find_state(folder)
    if state is not None and not names:
        return read_trainer_state(state)
    events = find_event_folder(folder)
    if events is not None:
        return read_events(events, names)
    raise UserError(f"{folder}: there is no recording in it; {_taken()}", field="run")


def _read_run(folder: Path) -> Recording:
    log = RunLog.open(folder)
    try:
        return read_log(log)
    finally:
        log.close()


def _taken() -> str:
    return (
        f"give a run, a Trainer's {STATE_NAME} or its output folder, or TensorBoard's event files "
        "(events.out.tfevents...)"
    )
