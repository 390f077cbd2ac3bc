"""The commands a trainer understands: the only list.

Each command is one frozen model. The LLM tool, the REST body, the command line, the form and the table in the
docs are derived from it (`command_schemas.py`). To add one: a model here, a function that applies it in
`trainer/commands/apply.py`.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from agenttune.errors import CommandError
from agenttune.protocol.invalid_values import did_you_mean, why

Float = Annotated[float, Strict()]
MAX_INT = 2**53
"""Largest integer of a command: every JSON reader still counts exactly up to here."""


def _countable(value: object) -> object:
    # No part of the schema: a model that is offered the command would pay for it in every prompt.
    if isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:
        raise ValueError(f"must be an integer from -{MAX_INT} to {MAX_INT}")
    return value


Int = Annotated[int, Strict()]
MAX_STEPS = 10**9
"""Largest step of a command (guess: a thousand times the longest training); sums and products of it stay far within the
64 bits of SQLite and torch."""
Steps = Annotated[int, Strict(), Field(le=MAX_STEPS)]
MAX_GROUP = 10_000
"""Largest parameter group (guess: no optimizer has as many)."""
Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Name = Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that is safe as a file name: letters, digits, dot, underscore, dash; at most 64 characters."""
Scalar = Bool | Int | Float | Text


def _refuse_unsayable(value: object) -> object:
    """Free-form values hold NaN, infinities and endless integers that no type would stop."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int):
        _countable(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        _refuse_unsayable(item)
    return value


SMALLEST = 2.0**-126
"""The smallest normal number of 32 bits; what is below it is lost in the optimizer's tensors, and ratios overflow."""


def _refuse_denormals(value: object) -> object:
    """A rate below it divides everything that is scaled by it into infinity."""
    if isinstance(value, float) and 0 < abs(value) < SMALLEST:
        raise ValueError(f"Input should be 0 or at least {SMALLEST:.3g}: the tensors of a model hold nothing smaller")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in inside:
        _refuse_denormals(item)
    return value


Free = Annotated[Any, AfterValidator(_refuse_unsayable)]
"""Any JSON value; what it may be is known to the trainer only."""
Betas = tuple[Annotated[Float, Field(ge=0, lt=1)], Annotated[Float, Field(ge=0, lt=1)]]
Beta = Annotated[Float, Field(ge=0, lt=1)]


class Risk(str, Enum):
    """How much a command can disturb a run; approval rules speak of these classes."""

    OBSERVE = "observe"  # reads, or writes to the log only
    TUNE = "tune"  # a reversible change within bounds
    DISRUPT = "disrupt"  # costs time: pause, evaluate, save
    DANGER = "danger"  # cannot be taken back by writing the old value: load, stop, layers, dataset reload


Redefines = Literal["nothing", "training", "every_loss"]
"""Which losses a change gives another meaning, so that values of before and after are not of one curve. `training`:
what is measured on training batches. `every_loss`: evaluated losses too, for it changes how a loss is computed."""


class CommandBase(BaseModel):
    """What every command shares. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    risk: ClassVar[Risk]
    example: ClassVar[dict[str, Any]]
    """One that is valid, for the docs and for whoever writes one by hand."""
    redefines: ClassVar[Redefines] = "nothing"
    """Which losses it can give another meaning."""
    # Not part of the type `Int`: behind a function, pydantic writes bounds into schemas under names of its own.
    _is_countable = field_validator("*")(_countable)
    kind: str

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, raw: Any) -> Any:
        # Models fill what they do not need with null. No field of a command has null for a value of its own: where it
        # may mean something, it stands inside a mapping, such as `other`.
        if not isinstance(raw, dict):
            return raw
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in raw.items() if value is not None or name not in optional}

    def redefines_by(self, changed: str) -> Redefines:
        """Which losses mean something else once this value of it has changed."""
        return self.redefines

    def arguments(self) -> dict[str, Any]:
        """The fields that were given, as plain JSON values, without `kind`."""
        return self.model_dump(mode="json", exclude={"kind"}, exclude_none=True)


class _AtLeastOne(CommandBase):
    """A command that is empty unless one of its optional fields is given."""

    modifiers: ClassVar[frozenset[str]] = frozenset()
    """Fields that only say how, not what."""

    @model_validator(mode="after")
    def _something_is_asked(self) -> _AtLeastOne:
        choices = [name for name in type(self).model_fields if name not in {"kind", *self.modifiers}]
        if all(getattr(self, name) in (None, {}) for name in choices):
            raise ValueError(f"nothing to change: give at least one of {', '.join(choices)}")
        return self


class UpdateOptimizer(_AtLeastOne):
    """Change hyperparameters of the running optimizer, from the next step on."""

    risk = Risk.TUNE
    modifiers = frozenset({"lr_sets", "param_group"})
    example = {"kind": "update_optimizer", "lr": 1e-4, "weight_decay": 0.01}
    _is_normal = field_validator("*")(_refuse_denormals)
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


class UpdateSchedule(CommandBase):
    """Re-plan the learning rate from this step to a new end."""

    risk = Risk.TUNE
    example = {"kind": "update_schedule", "shape": "cosine", "final_lr": 1e-5, "end_step": 5000}
    _is_normal = field_validator("*")(_refuse_denormals)
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


class UpdateTraining(_AtLeastOne):
    """Change clipping, accumulation or the number of steps."""

    risk = Risk.TUNE
    example = {"kind": "update_training", "max_grad_norm": 0.5, "max_steps": 8000}
    _is_normal = field_validator("*")(_refuse_denormals)
    kind: Literal["update_training"] = "update_training"
    max_grad_norm: Annotated[Float, Field(ge=0, le=1e6)] | None = Field(
        None,
        description="Longer gradients are scaled down to this norm; 0 switches clipping off.",
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


class SetKnob(CommandBase):
    """Set a value that the user registered with `register_knob`."""

    risk = Risk.TUNE
    redefines = "every_loss"
    example = {"kind": "set_knob", "name": "label_smoothing", "value": 0.1}
    kind: Literal["set_knob"] = "set_knob"
    name: Text = Field(min_length=1, max_length=128)
    value: Scalar


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


Candidate = Annotated[
    Union[UpdateOptimizer, UpdateSchedule, UpdateTraining, SetKnob],
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
            "kind": {"type": "string", "enum": [t.model_fields["kind"].default for t in CANDIDATE_TYPES]},
        },
        "required": ["kind"],
        "additionalProperties": True,  # grammars of local servers take an object that does not say so for a closed one
    },
}
"""Their own fields are described where the commands themselves are; a model pays for each word twice otherwise."""


class Probe(CommandBase):
    """Try changes for `steps` steps each from the state of now, on the same batches; go back, and adopt the best.

    Costs `steps` extra steps for each candidate, and for changing nothing. Few steps favour what helps at once: a
    lower rate looks better than it is.
    """

    risk = Risk.DISRUPT
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
    min_gain_frac: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.01, description="By which part of the value, at least, it has to be better."
    )

    @property
    def extra_steps(self) -> int:
        """Training steps that all trials take together."""
        return self.steps * (len(self.candidates) + self.include_current)

    @model_validator(mode="after")
    def _can_be_tried(self) -> Probe:
        for number, candidate in enumerate(self.candidates):
            if candidate in self.candidates[:number]:
                raise ValueError(f"candidate {number} (from 0) stands there twice")
            fixed = {"max_steps", "gradient_accumulation_steps"} & candidate.arguments().keys()
            if fixed:
                raise ValueError(f"candidate {number} (from 0): {fixed.pop()} cannot be tried; max_grad_norm can")
        if self.extra_steps > MAX_EXTRA_STEPS:
            raise ValueError(f"{self.extra_steps} extra steps in all; at most {MAX_EXTRA_STEPS} in one probe")
        return self


class UpdateDataset(CommandBase):
    """Rebuild the training dataset with other initialization parameters."""

    risk = Risk.DANGER
    redefines = "training"
    example = {"kind": "update_dataset", "values": {"block_tokens": 256}}
    kind: Literal["update_dataset"] = "update_dataset"
    values: dict[Text, Free] = Field(min_length=1)


class UpdateDatasetRuntimeHyperparameters(CommandBase):
    """Change runtime parameters of the training dataset, from the next batch on."""

    risk = Risk.TUNE
    redefines = "training"
    example = {
        "kind": "update_dataset_runtime_hyperparameters",
        "values": {"weights": {"wikitext": 0.9, "gsm8k": 0.1}},
    }
    kind: Literal["update_dataset_runtime_hyperparameters"] = "update_dataset_runtime_hyperparameters"
    values: dict[Text, Free] = Field(min_length=1)


FREEZE = "requires_grad_"
"""The layer operation that lets a layer be trained, or not."""


class ModelLayerOperation(CommandBase):
    """Run an allowed operation on one layer."""

    risk = Risk.DANGER
    redefines = "training"
    example = {
        "kind": "model_layer_operation",
        "layer_name": "transformer.h.1.mlp.c_fc",
        "operation_name": "reset_parameters",
    }
    kind: Literal["model_layer_operation"] = "model_layer_operation"
    layer_name: Text = Field(max_length=512)
    operation_name: Text = Field(max_length=128)
    params: dict[Text, Free] = Field(default_factory=dict)

    def redefines_by(self, changed: str) -> Redefines:
        # Frozen or not, a layer computes what it did.
        return "nothing" if self.operation_name == FREEZE else self.redefines


class ModelLayerParameterUpdate(CommandBase):
    """Change a hyperparameter of one layer, such as dropout's `p`."""

    risk = Risk.DANGER
    redefines = "training"
    example = {
        "kind": "model_layer_parameter_update",
        "layer_name": "transformer.drop",
        "param_name": "p",
        "value": 0.2,
    }
    kind: Literal["model_layer_parameter_update"] = "model_layer_parameter_update"
    layer_name: Text = Field(max_length=512)
    param_name: Text = Field(max_length=128)
    value: Scalar | list[Float]


class ReadModel(CommandBase):
    """Read the model's layers, with parameter counts and what is trainable; the ack carries the tree."""

    risk = Risk.OBSERVE
    example = {"kind": "read_model", "layer_name": "transformer.h.0", "norms": True}
    kind: Literal["read_model"] = "read_model"
    layer_name: Text = Field("", max_length=512, description="Only this layer and what is in it. Default: all.")
    norms: Bool = Field(False, description="Also the norms of weights and of the last gradients, layer by layer.")


class AddNote(CommandBase):
    """Write a remark into the run's log."""

    risk = Risk.OBSERVE
    example = {"kind": "add_note", "text": "the data loader was restarted here"}
    kind: Literal["add_note"] = "add_note"
    text: Text = Field(min_length=1, max_length=4000)


Command = Annotated[
    Union[
        UpdateOptimizer,
        UpdateSchedule,
        UpdateTraining,
        SetKnob,
        SaveCheckpoint,
        LoadCheckpoint,
        PauseTraining,
        ResumeTraining,
        StopTraining,
        DoEvaluate,
        Probe,
        UpdateDataset,
        UpdateDatasetRuntimeHyperparameters,
        ModelLayerOperation,
        ModelLayerParameterUpdate,
        ReadModel,
        AddNote,
    ],
    Field(discriminator="kind"),
]
COMMAND_TYPES: tuple[type[CommandBase], ...] = get_args(get_args(Command)[0])
COMMAND_KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in COMMAND_TYPES)
BY_KIND: dict[str, type[CommandBase]] = dict(zip(COMMAND_KINDS, COMMAND_TYPES, strict=True))
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Command)


def parse_command(raw: object) -> CommandBase:
    """Turn decoded JSON into a command.

    Raises:
        CommandError: Not an object, unknown kind, unknown field, wrong type, out of bounds or non-finite; names
            the field and what is allowed there.
    """
    if not isinstance(raw, dict):
        raise CommandError(f"a command is a JSON object with a 'kind', not {type(raw).__name__}", field="command")
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in BY_KIND:
        known = list(COMMAND_KINDS)
        raise CommandError(f"unknown command {kind!r:.80}; known: {', '.join(known)}", field="kind", allowed=known)
    try:
        command: CommandBase = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        raise command_error(error, BY_KIND[kind], raw) from None
    return command


def command_error(error: ValidationError, model: type[CommandBase], raw: dict[str, Any]) -> CommandError:
    """Describe the first problem of a failed validation in one sentence, with the field's own allowed values."""
    problems = error.errors(include_url=False)
    first = problems[0]
    kind = model.model_fields["kind"].default
    path = _path(first["loc"], raw)
    if first["type"] == "extra_forbidden":
        allowed: object = [name for name in model.model_fields if name != "kind"]
    else:
        allowed = _limits(model, path[0]) if path else None
    # A union reports one problem a member; together they say what would have been accepted.
    here = [why(p) for p in problems if _path(p["loc"], raw) == path]
    problem = ", or: ".join(dict.fromkeys(here))
    got = "" if first["type"] == "missing" or not path else f" (got {first['input']!r:.80})"
    meant = did_you_mean(path[-1], allowed) if first["type"] == "extra_forbidden" and isinstance(allowed, list) else ""
    hint = f"{meant}; allowed: {', '.join(map(str, allowed))}" if isinstance(allowed, list) else ""
    where = ".".join([kind, *path])
    return CommandError(f"{where}: {problem}{got}{hint}", field=".".join(path) or None, allowed=allowed)


def _path(loc: tuple[int | str, ...], raw: object) -> list[str]:
    """The keys of `raw` that lead to the problem; pydantic mixes in the names of union members."""
    path = []
    for part in loc[1:]:
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
        elif isinstance(raw, (list, tuple)) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
        elif not (isinstance(raw, dict) and part == loc[-1]):
            continue
        path.append(str(part))
    return path


def _limits(model: type[CommandBase], field: str) -> object:
    """What the JSON schema of a field allows, without titles, descriptions and the null of an optional one."""
    schema = model.model_json_schema()["properties"].get(field, {})
    choices = [c for c in schema.get("anyOf", [schema]) if c != {"type": "null"}]
    plain = [{k: v for k, v in c.items() if k not in ("title", "description", "default")} for c in choices]
    return plain[0].get("enum", plain[0]) if len(plain) == 1 else plain
