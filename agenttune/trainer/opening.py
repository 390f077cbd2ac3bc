"""What is told when a run begins: what lies where it saves, who else saves there, which limits guard nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from agenttune.gate import guards_nothing
from agenttune.protocol.events import DatasetRead, KnobsRead, NoteAdded, RunInfo
from agenttune.protocol.proposals import Record
from agenttune.trainer.checkpoints.output_marker import claim
from agenttune.trainer.recording.recorder import Recorder
from agenttune.trainer.run_state import RunState

logger = logging.getLogger("agenttune")


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


def _warn(text: str, recorder: Recorder) -> None:
    logger.warning(text)
    recorder.record(NoteAdded(text=text, author="agenttune"))
