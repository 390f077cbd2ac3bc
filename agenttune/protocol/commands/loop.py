"""Commands about the course of the run: save, go back, pause, go on, stop, evaluate, and a note in the log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.commands.base import CommandBase, Risk
from agenttune.protocol.commands.values import Bool, Name, Text


class SaveCheckpoint(CommandBase):
    """Save a checkpoint at this step."""

    risk = Risk.DISRUPT
    example = {"kind": "save_checkpoint", "tag": "before-the-cut", "keep_in": "memory"}
    kind: Literal["save_checkpoint"] = "save_checkpoint"
    tag: Name | None = Field(None, description="A label to find it by.")
    keep_in: Literal["disk", "memory"] = Field(
        "disk", description="`memory`: for a quick return, gone when the process ends."
    )
    pin: Bool = Field(False, description="Never delete it to keep within the disk cap.")


class LoadCheckpoint(CommandBase):
    """Go back to a checkpoint and continue from there as a new branch."""

    risk = Risk.DANGER
    example = {"kind": "load_checkpoint", "checkpoint_id": "before-the-cut", "branch_name": "retry"}
    kind: Literal["load_checkpoint"] = "load_checkpoint"
    checkpoint_id: Text = Field(min_length=1, max_length=200, description="Its id, or its tag: the newest of that tag.")
    branch_name: Name | None = Field(None, description="Of the new branch; default: one is given.")


class PauseTraining(CommandBase):
    """Hold training at the step boundary until `resume_training`."""

    risk = Risk.DISRUPT
    example = {"kind": "pause_training"}
    kind: Literal["pause_training"] = "pause_training"


class ResumeTraining(CommandBase):
    """Go on after a pause."""

    risk = Risk.DISRUPT
    example = {"kind": "resume_training"}
    kind: Literal["resume_training"] = "resume_training"


class StopTraining(CommandBase):
    """End training at this step."""

    risk = Risk.DANGER
    example = {"kind": "stop_training", "save": True}
    kind: Literal["stop_training"] = "stop_training"
    save: Bool = Field(True, description="Save a checkpoint first.")


class DoEvaluate(CommandBase):
    """Evaluate now, without disturbing the run; the ack carries the metrics."""

    risk = Risk.DISRUPT
    example = {"kind": "do_evaluate"}
    kind: Literal["do_evaluate"] = "do_evaluate"


class AddNote(CommandBase):
    """Write a remark into the run's log."""

    risk = Risk.OBSERVE
    example = {"kind": "add_note", "text": "the data loader was restarted here"}
    kind: Literal["add_note"] = "add_note"
    text: Text = Field(min_length=1, max_length=4000)
