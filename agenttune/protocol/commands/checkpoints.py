"""Commands about checkpoints that are there already: their tag, their pin, and deleting them by a rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agenttune.protocol.commands.base import AtLeastOne, CommandBase, Impact, Risk
from agenttune.protocol.commands.registry import register
from agenttune.protocol.commands.value_types import Bool, Int, Steps, Text

MOST_NAMED = 1000
"""Checkpoints named by one command (guess)."""
Tag = Annotated[Text, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
"""As of `save_checkpoint`, or empty."""
CheckpointName = Annotated[Text, Field(min_length=1, max_length=200)]


@register
class UpdateCheckpoint(AtLeastOne):
    """Give a checkpoint another tag, or pin it so that it is never deleted to keep within the disk cap."""

    modifiers = frozenset({"checkpoint_id"})
    risk = Risk.OBSERVE
    impact = Impact.NONE
    is_for_policies = False  # a policy names what it saves when it saves it
    example = {"kind": "update_checkpoint", "checkpoint_id": "before-the-cut", "tag": "good", "pin": True}
    kind: Literal["update_checkpoint"] = "update_checkpoint"
    checkpoint_id: CheckpointName = Field(description="Its id, or its tag: the newest of that tag.")
    tag: Tag | None = Field(None, description="A label to find it by; empty: none.")
    pin: Bool | None = Field(None, description="Never delete it to keep within the disk cap.")

    def wanted_checkpoint(self) -> str:
        return self.checkpoint_id


@register
class DeleteCheckpoints(CommandBase):
    """Delete checkpoints that commands have saved: those named, or all but some of them by a rule.

    Never deleted: what is pinned, what a branch began from, what the training loop saved by itself, and what the run
    keeps to go back to.
    """

    risk = Risk.DANGER
    impact = Impact.NONE
    is_for_policies = False
    not_in_a_schedule = "what is deleted is a person's choice"
    example = {"kind": "delete_checkpoints", "keep_last": 3, "keep_best": 1}
    kind: Literal["delete_checkpoints"] = "delete_checkpoints"
    checkpoint_ids: list[CheckpointName] | None = Field(
        None, min_length=1, max_length=MOST_NAMED, description="These ones, by id or tag."
    )
    before_step: Steps | None = Field(None, ge=1, description="By rule: only those of before this step.")
    branch: Text | None = Field(None, min_length=1, max_length=200, description="By rule: only those of this branch.")
    keep_last: Annotated[Int, Field(ge=0)] | None = Field(None, description="By rule: all but so many newest ones.")
    keep_best: Annotated[Int, Field(ge=0)] | None = Field(
        None, description="By rule: all but so many best ones, by the goal metric as evaluated before each."
    )

    @field_validator("checkpoint_ids")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        return None if names is None else list(dict.fromkeys(names))

    @model_validator(mode="after")
    def _named_or_by_rule(self) -> DeleteCheckpoints:
        rule = [self.before_step, self.branch, self.keep_last, self.keep_best]
        if (self.checkpoint_ids is None) == all(part is None for part in rule):
            raise ValueError("give either checkpoint_ids, or a rule: before_step, branch, keep_last, keep_best")
        return self
