"""The command that tries out others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args

from pydantic import Field, WithJsonSchema, model_validator

from agenttune.errors import CommandError
from agenttune.protocol.commands.base import AskedValue, CommandBase, Risk
from agenttune.protocol.commands.hyperparameters import SetKnob, UpdateOptimizer, UpdateSchedule, UpdateTraining
from agenttune.protocol.commands.loop_control import LoadCheckpoint
from agenttune.protocol.commands.registry import parse_command, register
from agenttune.protocol.commands.value_types import Bool, Float, Int

if TYPE_CHECKING:
    from agenttune.protocol.proposals import Ack

Candidate = Annotated[
    Union[UpdateOptimizer, UpdateSchedule, UpdateTraining, SetKnob, LoadCheckpoint],
    Field(discriminator="kind"),
]
CANDIDATE_TYPES: tuple[type[CommandBase], ...] = get_args(get_args(Candidate)[0])
MAX_CANDIDATES = 8
MAX_EXTRA_STEPS = 5000
"""Of one probe (guess: more says nothing that a run of its own would not say better)."""
_CANDIDATES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_CANDIDATES,
    "items": {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": [candidate.kind_name() for candidate in CANDIDATE_TYPES]},
        },
        "required": ["kind"],
        "additionalProperties": True,  # grammars of local servers take an object that does not say so for a closed one
    },
}
"""Their own fields are described where the commands themselves are; a model pays for each word twice otherwise."""


@register
class Probe(CommandBase):
    """Try changes for `steps` steps each from the state of now, on the same batches; go back, and adopt the best.

    Costs `steps` extra steps for each candidate, and for changing nothing. Few steps favour what helps at once: a
    lower rate looks better than it is. If they are returns, all to one checkpoint, they are tried from there, and
    changing nothing is going back alone.
    """

    risk = Risk.DISRUPT
    reschedules = True
    is_told_in_full = True
    example = {
        "kind": "probe",
        "candidates": [{"kind": "update_optimizer", "lr": 5e-4}, {"kind": "update_optimizer", "lr": 2e-3}],
        "steps": 20,
    }
    kind: Literal["probe"] = "probe"
    candidates: Annotated[tuple[Candidate, ...], WithJsonSchema(_CANDIDATES_SCHEMA)] = Field(
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="Commands, each with its `kind` and fields.",
    )
    steps: Annotated[Int, Field(ge=2, le=1000)] = Field(20, description="Training steps of each trial.")
    metric: Literal["loss", "goal"] = Field(
        "loss",
        description="`loss`: mean training loss over the second half of each trial; `goal`: the goal metric, evaluated "
        "at its end.",
    )
    include_current: Bool = Field(True, description="Try changing nothing too, and adopt only what is better.")
    min_progress_frac: Annotated[Float, Field(ge=0, le=100)] = Field(
        0.2,
        description="By how much further than changing nothing it has to come, as a part of how far that came down.",
    )
    min_gain_frac: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.0, description="By which part of the value, at least, it has to be better."
    )
    lower_rates: Literal["any", "growing", "never"] = Field(
        "any",
        description="Whether a lower learning rate may win: like any other, if its lead grows to the end of the trial "
        "(few steps favour it), or never.",
    )
    confirm_steps: Annotated[Int, Field(ge=2, le=1000)] | None = Field(
        None,
        description="Then what won has to win again, over so many steps.",
    )
    confirm: Literal["loss", "goal"] = Field("loss", description="As `metric`, for that.")

    @property
    def extra_steps(self) -> int:
        """Training steps that all trials take together, at most."""
        return self.steps * (len(self.candidates) + self.include_current) + 2 * (self.confirm_steps or 0)

    @model_validator(mode="after")
    def _can_be_tried(self) -> Probe:
        for number, candidate in enumerate(self.candidates):
            if candidate in self.candidates[:number]:
                raise ValueError(f"candidate {number} (from 0) stands there twice")
            fixed = {"max_steps", "gradient_accumulation_steps"} & candidate.arguments().keys()
            if fixed:
                raise ValueError(f"candidate {number} (from 0): {fixed.pop()} cannot be tried; max_grad_norm can")
        self._check_returns()
        if self.extra_steps > MAX_EXTRA_STEPS:
            raise ValueError(f"{self.extra_steps} extra steps in all; at most {MAX_EXTRA_STEPS} in one probe")
        return self

    def _check_returns(self) -> None:
        returns = [candidate for candidate in self.candidates if isinstance(candidate, LoadCheckpoint)]
        if not returns:
            return
        if len(returns) < len(self.candidates) or len({one.checkpoint_id for one in returns}) > 1:
            raise ValueError("trials begin at one state: either all candidates go back to the same checkpoint, or none")
        if any(one.skip_seen_data for one in returns):
            raise ValueError("all trials see the same batches: skip_seen_data cannot be tried; use load_checkpoint")
        alone = next((n for n, one in enumerate(returns) if not one.bends), None)
        if self.include_current and alone is not None:
            raise ValueError(
                f"candidate {alone} (from 0) goes back and changes nothing, as include_current tries; leave it out, or "
                "have include_current false"
            )

    @property
    def going_back(self) -> LoadCheckpoint | None:
        """Of returns: going back alone, which is what changing nothing is there; None where trials begin now."""
        first = self.candidates[0]
        return LoadCheckpoint(checkpoint_id=first.checkpoint_id) if isinstance(first, LoadCheckpoint) else None

    def wanted_checkpoint(self) -> str | None:
        return self.candidates[0].wanted_checkpoint()

    def asked(self) -> Iterator[AskedValue]:
        return chain.from_iterable(candidate.asked() for candidate in self.candidates)

    def touched(self) -> frozenset[str]:
        return frozenset().union(*(candidate.touched() for candidate in self.candidates))

    def tries(self) -> tuple[Candidate, ...]:
        return self.candidates

    def in_force(self, ack: Ack) -> CommandBase | None:
        try:
            return parse_command(ack.result.get("adopted"))
        except CommandError:  # nothing was adopted, or an older version wrote it another way
            return None
