"""A run as its log knows it: its identity card, its knobs, the layers of its model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from agenttune.protocol.commands import Redefines, SetKnob
from agenttune.protocol.invalid_values import shape
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Author, Record, StandingApproval
from agenttune.protocol.run_facts import RunFacts

MOST_TAGS = 32
"""Of one run (guess)."""
Tag = Annotated[
    str,
    Field(
        pattern=shape(
            r"^[^\s,\x00-\x1f\x7f](?:[^,\x00-\x1f\x7f]{0,38}[^\s,\x00-\x1f\x7f])?$",
            "at most 40 characters, without commas and without blanks at its ends",
        )
    ),
]
"""A word or two by which a person finds a run again."""
RunStatus = Literal["starting", "running", "paused", "finished", "stopped", "interrupted", "failed", "lost"]
LIVE: frozenset[str] = frozenset({"starting", "running", "paused"})
"""Statuses in which a run takes commands; the others are final."""


class KnobState(Record):
    """A live-tunable value as it stands: `base` is what a schedule scales, `effective` what is used now."""

    name: str
    unit: str = ""
    description: str = ""
    base: float | None = None
    effective: Any = None
    groups: list[Any] | None = Field(None, description="Effective value per optimizer parameter group.")
    base_groups: list[float] | None = Field(None, description="Base value per optimizer parameter group.")
    ratios: list[float] | None = Field(
        None, description="Learning rate: base of each group over the first one's, as last known where that is 0."
    )
    exempt_groups: list[int] = Field(
        default_factory=list, description="Groups that stay as they are unless a command names them."
    )
    minimum: float | None = None
    maximum: float | None = None
    command: str = Field("set_knob", description="The command that sets it.")
    redefines: Redefines = Field("nothing", description="Losses that mean something else once it was changed.")

    @property
    def is_registered(self) -> bool:
        """Whether it is a value of the script's own, offered with `register_knob`."""
        return self.command == SetKnob.kind_name()


class ParameterInfo(Record):
    """A hyperparameter of a layer that `model_layer_parameter_update` can change."""

    name: str
    value: Any
    type: str = Field(description="`float`, `int`, `bool`, `str` or `tensor`.")
    minimum: float | None = Field(None, description="Lowest that the trainer takes, where its name tells one.")
    maximum: float | None = Field(None, description="Highest, likewise.")
    above: float | None = Field(None, description="It is above this, likewise.")


class ModuleInfo(Record):
    """A layer and what is in it."""

    name: str = Field(description="Dotted path from the model; empty for the model itself.")
    type: str = Field(description="Class name.")
    parameters: int = Field(description="Parameters in it and below, each counted once.")
    trainable: int = Field(description="Those of them that are trained.")
    operations: list[str] = Field(default_factory=list, description="What `model_layer_operation` can run on it.")
    hyperparameters: list[ParameterInfo] = Field(default_factory=list)
    weight_norm: Metric | None = None
    grad_norm: Metric | None = None
    children: list[ModuleInfo] = Field(default_factory=list)


def knob_named(name: str, knobs: Iterable[KnobState]) -> KnobState | None:
    """The knob of that name."""
    return next((knob for knob in knobs if knob.name == name), None)


class RunInfo(Record):
    """A run's identity card, kept up to date beside its events."""

    run_id: str
    name: str
    status: RunStatus
    status_reason: str = ""
    paused_by: Author | None = Field(None, description="Who paused training, while it is paused by command.")
    created_at_s: float
    started_at_s: float | None = None
    ended_at_s: float | None = None
    step: int = 0
    max_steps: int | None = None
    evaluating_step: int | None = Field(None, description="The step whose evaluation is still to be finished.")
    branch: str = "main"
    pid: int | None = None
    pid_started_s: float | None = Field(None, description="Start of that process, in seconds after boot.")
    job: str = Field("", description="The job that it belongs to, by which its next attempt finds it.")
    launcher_job: str = Field("", description="The job of `agenttune run` itself, where that is started again.")
    job_part: int = Field(1, description="Which of the job's trainings in one process it is.")
    attempt: int = Field(1, description="How often it was started, as the job was started again.")
    path: str = ""
    capabilities: list[str] = Field(default_factory=list, description="Commands this trainer can apply.")
    knobs: list[KnobState] = Field(
        default_factory=list, description="As last read; learning rates as of the newest step, all groups at once."
    )
    knobs_point_id: int = Field(0, description="The newest row of metrics when they were read.")
    schedule: LrCourse | None = Field(None, description="The learning rate to come, as read with the knobs.")
    facts: RunFacts | None = Field(None, description="Model, data, batch and plan, as last read from the trainer.")
    rules: dict[str, Any] = Field(default_factory=dict, description="Settings that others obey, such as `gate`.")
    standing: list[StandingApproval] = Field(default_factory=list, description="What a person allowed from then on.")
    tags: list[str] = Field(default_factory=list, description="Words by which people find it again.")
    goal_metric: str = "eval_loss"
    goal_direction: Literal["minimize", "maximize"] = "minimize"

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    def knob(self, name: str) -> KnobState | None:
        return knob_named(name, self.knobs)
