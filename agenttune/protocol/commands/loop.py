"""Commands about the course of the run: save, go back, pause, go on, stop, evaluate, and a note in the log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.commands.base import CommandBase, Impact, Risk
from agenttune.protocol.commands.registry import register
from agenttune.protocol.commands.values import Bool, Name, Text


@register
class SaveCheckpoint(CommandBase):
    """Save a checkpoint at this step."""

    risk = Risk.DISRUPT
    impact = Impact.NONE
    example = {"kind": "save_checkpoint", "tag": "before-the-cut", "keep_in": "memory"}
    kind: Literal["save_checkpoint"] = "save_checkpoint"
    tag: Name | None = Field(None, description="A label to find it by.")
    keep_in: Literal["disk", "memory"] = Field(
        "disk", description="`memory`: for a quick return, gone when the process ends."
    )
    pin: Bool = Field(False, description="Never delete it to keep within the disk cap.")


@register
class LoadCheckpoint(CommandBase):
    """Go back to a checkpoint and continue from there as a new branch."""

    risk = Risk.DANGER
    impact = Impact.RESTORE
    reschedules = True
    not_in_a_schedule = "it would go back to a checkpoint of one run, and then over the same entries again"
    example = {"kind": "load_checkpoint", "checkpoint_id": "before-the-cut", "branch_name": "retry"}
    kind: Literal["load_checkpoint"] = "load_checkpoint"
    checkpoint_id: Text = Field(min_length=1, max_length=200, description="Its id, or its tag: the newest of that tag.")
    branch_name: Name | None = Field(None, description="Of the new branch; default: one is given.")

    def wanted_checkpoint(self) -> str:
        return self.checkpoint_id


@register
class PauseTraining(CommandBase):
    """Hold training at the step boundary until `resume_training`."""

    risk = Risk.DISRUPT
    impact = Impact.HOLD
    interrupts = True
    is_for_policies = False  # training need not stand still for one
    not_in_a_schedule = "it waits for a person"
    example = {"kind": "pause_training"}
    kind: Literal["pause_training"] = "pause_training"


@register
class ResumeTraining(CommandBase):
    """Go on after a pause."""

    risk = Risk.DISRUPT
    impact = Impact.HOLD
    is_for_policies = False
    not_in_a_schedule = "it is a person's answer to a pause"
    example = {"kind": "resume_training"}
    kind: Literal["resume_training"] = "resume_training"


@register
class StopTraining(CommandBase):
    """End training at this step."""

    risk = Risk.DANGER
    impact = Impact.END
    interrupts = True
    example = {"kind": "stop_training", "save": True}
    kind: Literal["stop_training"] = "stop_training"
    save: Bool = Field(True, description="Save a checkpoint first.")


@register
class DoEvaluate(CommandBase):
    """Evaluate now, without disturbing the run; the ack carries the metrics."""

    risk = Risk.DISRUPT
    impact = Impact.NONE
    example = {"kind": "do_evaluate"}
    kind: Literal["do_evaluate"] = "do_evaluate"


@register
class AddNote(CommandBase):
    """Write a remark into the run's log."""

    risk = Risk.OBSERVE
    impact = Impact.NONE
    is_for_policies = False  # its reasons are in the log anyway
    example = {"kind": "add_note", "text": "the data loader was restarted here"}
    kind: Literal["add_note"] = "add_note"
    text: Text = Field(min_length=1, max_length=4000)
