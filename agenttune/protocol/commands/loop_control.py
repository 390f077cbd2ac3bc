"""Commands about the course of the run: save, go back, pause, go on, stop, evaluate, and a note in the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from agenttune.protocol.commands.base import AskedValue, CommandBase, Impact, Risk
from agenttune.protocol.commands.hyperparameters import UpdateOptimizer
from agenttune.protocol.commands.registry import register
from agenttune.protocol.commands.value_types import Bool, Float, Name, Text, refuse_denormals

if TYPE_CHECKING:
    from agenttune.protocol.proposals import Change


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
    leaves_pause = True
    not_in_a_schedule = "it would go back to a checkpoint of one run, and then over the same entries again"
    example = {"kind": "load_checkpoint", "checkpoint_id": "before-the-cut", "lr": 1e-4, "branch_name": "retry"}
    _is_normal = field_validator("*")(refuse_denormals)
    kind: Literal["load_checkpoint"] = "load_checkpoint"
    checkpoint_id: Text = Field(
        min_length=1,
        max_length=200,
        description="Its id, or its tag: the newest of that tag. A run keeps `start`, `best` and `good` by itself.",
    )
    branch_name: Name | None = Field(None, description="Of the new branch; default: one is given.")
    lr: Annotated[Float, Field(gt=0, le=100)] | None = Field(
        None,
        description="Base learning rate of the first parameter group from there on (what the schedule scales); other "
        "groups keep their ratio to it. Default: as it was then.",
    )
    reset_optimizer: Bool | None = Field(None, description="Clear the optimizer's moments there.")
    skip_seen_data: Bool | None = Field(
        None,
        description="Go on with the data of now: no batch comes again.",
    )

    def wanted_checkpoint(self) -> str:
        return self.checkpoint_id

    @property
    def bends(self) -> bool:
        return self.lr is not None or bool(self.reset_optimizer) or bool(self.skip_seen_data)

    def change_there(self) -> UpdateOptimizer | None:
        """What it changes once it has gone back, as a command of its own."""
        return None if self.lr is None else UpdateOptimizer(lr=self.lr, lr_sets="base")

    def set_again(self) -> CommandBase | None:
        return self.change_there()

    def asked(self) -> Iterator[AskedValue]:
        if self.lr is not None:
            yield AskedValue("lr", "lr", self.lr, "optimizer", sets_base=True)

    def as_applied(self, changes: Sequence[Change]) -> dict[str, Any]:
        rate = next((change for change in changes if change.name == "lr"), None)
        return self.arguments() if rate is None or rate.base is None else {**self.arguments(), "lr": rate.base}


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
    """Go on after a pause; of an agent, not after one of a person."""

    risk = Risk.DISRUPT
    impact = Impact.HOLD
    leaves_pause = True
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
    leaves_pause = True
    example = {"kind": "stop_training", "save": True}
    kind: Literal["stop_training"] = "stop_training"
    save: Bool = Field(True, description="Save a checkpoint first.")


@register
class DoEvaluate(CommandBase):
    """Evaluate now, without disturbing the run; the ack has the metrics."""

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
