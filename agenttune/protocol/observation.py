"""What a policy sees: a bounded view of a run at one step.

Its size does not grow with the run: the newest points are dense, older ones downsampled, histories are cut to the last
entries. Everything carries its unit in its name and the step it was taken at.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from agenttune.protocol.effects import Effect
from agenttune.protocol.events import KeptAs
from agenttune.protocol.findings import Finding
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.protocol.rank_reads import RanksRead
from agenttune.protocol.redefining import Redefinition
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState, RunStatus, knob_named
from agenttune.protocol.weight_looks import WeightLook

RECENT_POINTS = 512
"""Newest points of a series that an observation carries raw; detectors need a few hundred to tell noise from trend."""
FIRST_POINTS = 8
"""First points of a series that an observation carries raw, whatever came since: where it began."""
DOWNSAMPLED_POINTS = 128
"""Entries over the whole run beside them."""
WEIGHT_LOOKS = 16
"""Newest looks at the weights that an observation carries: enough to know what is usual for a layer (guess)."""
RANK_READINGS = 3
"""Newest readings of the ranks that an observation carries: one alone may be of an odd moment (guess)."""
HISTORY = 50
"""Newest commands, findings and evaluations that an observation carries."""


class SeriesView(Record):
    """One metric: the newest points raw, and the whole run downsampled to bucket means.

    Attributes:
        first_steps, first_values: The first points since the metric means what it does now, raw; empty where nobody
            kept them, as in what older versions sent.
    """

    name: str
    steps: list[int]
    values: list[Metric]
    downsampled_steps: list[int] = Field(default_factory=list)
    downsampled_values: list[Metric] = Field(default_factory=list)
    first_steps: list[int] = Field(default_factory=list)
    first_values: list[Metric] = Field(default_factory=list)


class Evaluation(Record):
    step: int
    metrics: dict[str, Metric]


class CheckpointView(Record):
    """A state that can be returned to, as `load_checkpoint` takes it."""

    checkpoint_id: str
    step: int
    branch: str = "main"
    tag: str | None = None
    metric: Metric | None = Field(None, description="The goal metric as last evaluated before it.")
    keep_in: Literal["disk", "memory"] = "disk"
    kept_as: KeptAs = Field("", description="Kept by the run itself: `start`, `best` or `good`.")


class Resolution(Record):
    """What a policy decided, and what became of that beside its commands."""

    policy: str
    step: int | None = Field(None, description="Of the observation that it rested on.")
    reason: str = Field(description="In the policy's words, and why what it asked for was not submitted.")


class Observation(Record):
    """The compact view of a run that a policy gets."""

    run_id: str
    status: RunStatus
    step: int = Field(description="Completed optimizer steps.")
    max_steps: int | None = None
    evaluating_step: int | None = Field(None, description="The step whose evaluation is still to be finished.")
    branch: str = "main"
    lineage: Lineage = Field(default_factory=Lineage, description="The branches that this one stands on.")
    at_s: float = Field(description="Unix time at which this was taken.")
    last_step_at_s: float | None = Field(None, description="Unix time of the newest step.")
    goal_metric: str
    goal_direction: Literal["minimize", "maximize"]
    knobs: list[KnobState] = Field(default_factory=list)
    series: dict[str, SeriesView] = Field(default_factory=dict)
    evaluations: list[Evaluation] = Field(default_factory=list)
    weights: list[WeightLook] = Field(
        default_factory=list,
        description="Looks at a few weights of each layer on the steps that led here, newest last.",
    )
    ranks: list[RanksRead] = Field(
        default_factory=list, description="Newest readings of the ranks of a distributed run, newest last."
    )
    findings: list[Finding] = Field(default_factory=list, description="Recorded so far, newest last.")
    commands: list[CommandRecord] = Field(default_factory=list, description="Submitted so far, newest last.")
    effects: dict[str, Effect] = Field(
        default_factory=dict, description="What those did that changed the run, by id, as far as it can be told."
    )
    redefinitions: list[Redefinition] = Field(
        default_factory=list,
        description="Commands since which the loss means something else, on the steps that led here, newest last: the "
        "newest of all, and the newest that redefined evaluated losses too.",
    )
    capabilities: list[str] = Field(default_factory=list, description="Commands this trainer can apply.")
    not_offered: dict[str, str] = Field(
        default_factory=dict, description="Of those, what this run or its gate leaves nothing to do for, and why."
    )
    commands_left: int | None = Field(None, description="What is left of the budget of agent commands.")
    returns_left: int | None = Field(None, description="How often agents may still go back to a checkpoint.")
    probe_steps_left: int | None = Field(None, description="What is left of the extra steps of agents' probes.")
    schedule: LrCourse | None = Field(None, description="The learning rate to come, as read with the knobs.")
    facts: RunFacts | None = Field(None, description="Model, data, batch and plan, as last read from the trainer.")
    started_at_s: float | None = Field(None, description="Unix time at which training began.")
    steps_per_s: float | None = Field(None, description="Pace of the newest steps, pauses and evaluations included.")
    checkpoints: list[CheckpointView] = Field(
        default_factory=list, description="Newest states that can be returned to, newest last."
    )
    last_decision: Resolution | None = Field(
        None, description="The newest of which something was not submitted, and why."
    )
    last_seq: int = Field(0, description="This view contains every event up to this one, and perhaps newer ones.")
    woken_by: list[str] = Field(default_factory=list, description="Why the policy is asked now.")
    notes: list[str] = Field(default_factory=list, description="Remarks of operators, newest last.")

    def redefined_step(self, metric: str) -> int:
        """The step after which a metric's values mean what they do now; 0: they always did."""
        return max((r.step for r in self.redefinitions if r.touches(metric)), default=0)

    def knob(self, name: str) -> KnobState | None:
        return knob_named(name, self.knobs)

    def best_evaluation(self) -> Evaluation | None:
        """The evaluation with the best finite goal metric, since that means what it does now."""
        sign, name = 1 if self.goal_direction == "minimize" else -1, self.goal_metric
        since = [e for e in self.evaluations if e.step > self.redefined_step(name)]
        finite = [e for e in since if math.isfinite(e.metrics.get(name, math.nan))]
        return min(finite, key=lambda e: sign * e.metrics[name], default=None)
