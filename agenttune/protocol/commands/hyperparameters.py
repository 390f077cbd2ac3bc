"""Commands that change a number of the training: of the optimizer, the schedule, the loop, or a registered knob."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from agenttune.protocol.commands.base import AskedValue, AtLeastOne, CommandBase, Need, Redefines, Risk, read_back
from agenttune.protocol.commands.registry import register
from agenttune.protocol.commands.value_types import (
    MAX_GROUP,
    Beta,
    Betas,
    Bool,
    Float,
    Int,
    Scalar,
    Steps,
    Text,
    refuse_denormals,
)

if TYPE_CHECKING:
    from agenttune.protocol.proposals import Change


@register
class UpdateOptimizer(AtLeastOne):
    """Change hyperparameters of the running optimizer, from the next step on."""

    risk = Risk.TUNE
    is_set_again = True
    steers = True
    modifiers = frozenset({"lr_sets", "param_group"})
    example = {"kind": "update_optimizer", "lr": 1e-4, "weight_decay": 0.01}
    _is_normal = field_validator("*")(refuse_denormals)
    kind: Literal["update_optimizer"] = "update_optimizer"
    lr: Annotated[Float, Field(ge=0, le=100)] | None = Field(
        None,
        description="Learning rate of the first parameter group; the other groups keep their ratio to it.",
    )
    lr_sets: Literal["effective", "base"] = Field(
        "effective",
        description="`effective`: the rate of the next step, the schedule keeping its shape from there; `base`: what "
        "the schedule scales.",
    )
    weight_decay: Annotated[Float, Field(ge=0, le=10)] | None = Field(
        None, description="Weight decay; parameter groups that are exempt from decay stay exempt."
    )
    betas: Betas | None = Field(None, description="Adam's two moment decay rates.")
    eps: Annotated[Float, Field(gt=0, le=1)] | None = Field(None, description="Denominator constant.")
    momentum: Beta | None = Field(None, description="Momentum of SGD and RMSprop.")
    other: dict[Text, Bool | Float | list[Float] | None] = Field(
        default_factory=dict,
        description="Other hyperparameters of this optimizer, by its own names.",
    )
    param_group: Annotated[int, Strict(), Field(ge=0, le=MAX_GROUP)] | None = Field(
        None,
        description="Only this parameter group, from 0. Default: all, as described above.",
    )

    def asked(self) -> Iterator[AskedValue]:
        for name in OPTIMIZER_FIELDS:
            if getattr(self, name) is not None:
                sets_base = name == "lr" and self.lr_sets == "base"
                yield AskedValue(name, name, getattr(self, name), "optimizer", self.param_group, sets_base)
        for name, value in self.other.items():
            yield AskedValue(name, f"other.{name}", value, "optimizer", self.param_group)

    def as_applied(self, changes: Sequence[Change]) -> dict[str, Any]:
        by_name = {change.name: change for change in changes}
        rate = by_name.pop("lr", None) if self.lr_sets == "base" else None
        applied = read_back(self.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True), by_name)
        if self.other:
            applied["other"] = read_back(self.arguments()["other"], by_name)
        return applied if rate is None or rate.base is None else {**applied, "lr": rate.base}

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any]:
        raw: dict[str, Any] = {"kind": self.kind}
        if self.param_group is not None:
            raw["param_group"] = self.param_group
        for change in changes:
            if change.name == "lr":
                # The base, where there is one: the schedule then stands where it would have stood without the change.
                raw["lr"] = change.previous if change.previous_base is None else change.previous_base
                raw["lr_sets"] = "effective" if change.previous_base is None else "base"
            elif change.name in OPTIMIZER_FIELDS:
                raw[change.name] = change.previous
            else:
                raw.setdefault("other", {})[change.name] = change.previous
        return raw


OPTIMIZER_FIELDS = tuple(
    name for name in UpdateOptimizer.model_fields if name not in {"kind", "other", *UpdateOptimizer.modifiers}
)
"""Fields of `UpdateOptimizer` that are hyperparameters themselves."""


@register
class UpdateSchedule(CommandBase):
    """Re-plan the learning rate from this step to a new end."""

    risk = Risk.TUNE
    is_set_again = True
    steers = reschedules = True
    needs = Need.PLANNABLE_SCHEDULE
    example = {"kind": "update_schedule", "shape": "cosine", "final_lr": 1e-5, "end_step": 5000}
    _is_normal = field_validator("*")(refuse_denormals)
    kind: Literal["update_schedule"] = "update_schedule"
    shape: Literal["constant", "linear", "cosine", "wsd", "previous"] = Field(
        description="wsd: stable, then linear decay over the last `decay_steps`; previous, alone: what the newest plan "
        "replaced, as it would stand now."
    )
    peak_lr: Annotated[Float, Field(gt=0, le=100)] | None = Field(
        None, description="Rate where the shape starts; default: that of now."
    )
    final_lr: Annotated[Float, Field(ge=0, le=100)] = Field(
        0.0, description="At `end_step` and after; `constant` ignores it."
    )
    warmup_steps: Annotated[Steps, Field(ge=0)] = Field(
        0, description="Steps of a linear rise to `peak_lr` before. It starts at `start_lr`."
    )
    start_lr: Annotated[Float, Field(ge=0, le=100)] | None = Field(
        None, description="Where the warm-up starts; default: 0."
    )
    decay_steps: Annotated[Steps, Field(ge=1)] | None = Field(
        None, description="For wsd; default: a fifth of the way to `end_step`."
    )
    end_step: Annotated[Steps, Field(ge=1)] | None = Field(
        None, description="Where the plan ends; default: the run's last step."
    )

    @model_validator(mode="after")
    def _decay_belongs_to_wsd(self) -> UpdateSchedule:
        if self.decay_steps is not None and self.shape != "wsd":
            raise ValueError(f"decay_steps belongs to shape 'wsd', not to '{self.shape}'")
        return self

    @model_validator(mode="after")
    def _warm_up_goes_up(self) -> UpdateSchedule:
        if self.start_lr is None:
            return self
        if not self.warmup_steps:
            raise ValueError("start_lr is where a warm-up starts: give warmup_steps too")
        if self.peak_lr is not None and self.start_lr > self.peak_lr:
            raise ValueError(f"a warm-up from start_lr {self.start_lr:g} to peak_lr {self.peak_lr:g} would go down")
        return self

    @model_validator(mode="after")
    def _previous_is_as_it_was(self) -> UpdateSchedule:
        given = self.model_dump(exclude={"kind", "shape"}, exclude_defaults=True)
        if self.shape == "previous" and given:
            raise ValueError(f"shape 'previous' takes no other arguments, not {', '.join(given)}")
        return self

    def asked(self) -> Iterator[AskedValue]:
        for field, value in (("peak_lr", self.peak_lr), ("final_lr", self.final_lr or None)):
            if value is not None:
                yield AskedValue("lr", field, value, "schedule")

    def touched(self) -> frozenset[str]:
        return frozenset({"lr"})

    def lr_plan(self) -> UpdateSchedule:
        return self

    def as_applied(self, changes: Sequence[Change]) -> dict[str, Any]:
        # Without one, the peak was the rate of that moment: here it is written down.
        rate = next((change for change in changes if change.name == "lr"), None)
        return self.arguments() if rate is None else {"peak_lr": rate.requested, **self.arguments()}

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any]:
        return {"kind": self.kind, "shape": "previous"}


@register
class UpdateTraining(AtLeastOne):
    """Change clipping, accumulation or the number of steps."""

    risk = Risk.TUNE
    is_set_again = True
    steers = reschedules = True
    example = {"kind": "update_training", "max_grad_norm": 0.5, "max_steps": 8000}
    _is_normal = field_validator("*")(refuse_denormals)
    kind: Literal["update_training"] = "update_training"
    max_grad_norm: Annotated[Float, Field(ge=0, le=1e6)] | None = Field(
        None,
        description="Gradients are clipped to this norm; 0: no clipping.",
    )
    gradient_accumulation_steps: Annotated[Int, Field(ge=1, le=65536)] | None = Field(
        None, description="Micro-batches per optimizer step."
    )
    max_steps: Annotated[Steps, Field(ge=1)] | None = Field(
        None, description="Where training ends; the schedule stays as it is."
    )

    def redefines_by(self, changed: str) -> Redefines:
        # More or fewer samples a step: the noise is another one, and for some losses the level too.
        return "training" if changed == "gradient_accumulation_steps" else "nothing"

    def asked(self) -> Iterator[AskedValue]:
        for name, value in self.arguments().items():
            yield AskedValue(name, name, value, "loop")

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any]:
        return {"kind": self.kind, **{change.name: change.previous for change in changes}}


@register
class SetKnob(CommandBase):
    """Set a value that the user registered with `register_knob`."""

    risk = Risk.TUNE
    is_set_again = True
    redefines = "every_loss"
    needs = Need.REGISTERED_KNOB
    example = {"kind": "set_knob", "name": "label_smoothing", "value": 0.1}
    kind: Literal["set_knob"] = "set_knob"
    name: Text = Field(min_length=1, max_length=128)
    value: Scalar

    def asked(self) -> Iterator[AskedValue]:
        yield AskedValue(self.name, "value", self.value, "script")

    def inverse(self, changes: Sequence[Change]) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "value": changes[0].previous}
