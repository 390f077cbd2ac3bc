"""What commands act on, and what is kept of them between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agenttune.protocol.commands import LoadCheckpoint
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.proposals import Author, CommandRecord
from agenttune.protocol.run_info import KnobState, RunInfo
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.checkpoints.checkpoint_catalog import CheckpointCatalog, SavedCheckpoint
from agenttune.trainer.knobs import KnobRegistry, read_knobs
from agenttune.trainer.layers.layer_changes import LayerChanges
from agenttune.trainer.layers.model_tree import GradientMonitor
from agenttune.trainer.lr.lr_course import PUBLISHED_POINTS, course_of
from agenttune.trainer.lr.optimizers import exempt_groups
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule

JUDGED_POINTS = 256
"""Steps at which a course is told where a command is judged by it, just before it is applied."""
NOBODYS = RunInfo(run_id="", name="", status="running", created_at_s=0.0)

REASON_CHARACTERS = 500
"""Longest text kept of an error."""


@dataclass(frozen=True)
class ToldByLeader:
    """What rank 0 has found out for a command, so that no rank looks at files of its own.

    Attributes:
        checkpoint: That a return goes to, without its state.
        branch: That training is on from there.
    """

    checkpoint: SavedCheckpoint
    branch: str


@dataclass
class RunState:
    """What commands act on in one run.

    Attributes:
        step: Completed optimizer steps.
        paused_by: Whose pause holds training at a boundary; None: nobody's.
        awaits_agent: Whether it stands there until the agent has decided.
        is_held: Whether a request for approval wants it to stand there; known to rank 0, which tells the others.
        stop_reason: Why training ends early, once that was asked for.
        exempt: Parameter groups meant to have no weight decay.
        ratios: Last known ratio of each group's base rate to the first group's.
        checkpoints: The checkpoints, and the run's branches.
        gradients: Monitors the next update's gradients, while their norms are wanted.
        layers: What commands have changed about layers.
        trial: The branch of the present trial, if there is one; its steps will be undone.
        changes: How often anything that training goes by was changed by command, or restored.
        agree: Called by a handler when all is checked and nothing written: in a run of several processes it returns
            where every one of them can, and raises where one cannot.
        told: Of the command at hand, what rank 0 alone can know; None in a run of one process.
        refusal_there: Why the guardrails refuse what a return changes, by the run's card of now and as it will stand
            there; empty if they do not.
    """

    adapter: Adapter
    registry: KnobRegistry
    step: int = 0
    paused_by: Author | None = None
    awaits_agent: bool = False
    is_held: Callable[[], bool] = lambda: False
    stop_reason: str | None = None
    exempt: frozenset[int] = frozenset()
    ratios: list[float] | None = None
    checkpoints: CheckpointCatalog = field(default_factory=CheckpointCatalog)
    gradients: GradientMonitor | None = None
    layers: LayerChanges = field(init=False)
    trial: str | None = None
    changes: int = 0
    agree: Callable[[], None] = lambda: None
    told: ToldByLeader | None = None
    refusal_there: Callable[[CommandRecord, LoadCheckpoint, RunInfo, RunInfo], str] = (
        lambda record, command, now, there: ""
    )

    def __post_init__(self) -> None:
        self.layers = LayerChanges(self.adapter)

    @property
    def paused(self) -> bool:
        """Whether a pause holds training at a boundary."""
        return self.paused_by is not None

    @property
    def branch(self) -> str:
        """The branch that training is on."""
        return self.checkpoints.branch if self.trial is None else self.trial

    @property
    def standstill(self) -> str:
        """Why training makes no step for now, in words; empty if it does."""
        if self.paused:
            return "training is paused"
        if self.is_held():
            return "training is held for an approval"
        return "training waits for the agent" if self.awaits_agent else ""

    def learn_groups(self) -> None:
        """Note at the start which groups are exempt from decay, and the groups' ratios."""
        self.exempt = exempt_groups(self.adapter.optimizer())
        self.schedule()

    def schedule(self) -> Schedule:
        """The schedule with its rates; keeps the last known ratios, for a change from a rate of 0."""
        schedule = Schedule(self.adapter.optimizer(), self.adapter.scheduler(), self.ratios)
        if schedule.kind is not ScheduleKind.OWN:
            self.ratios = schedule.current_ratios()
            schedule.ratios = self.ratios
        return schedule

    def knobs(self) -> list[KnobState]:
        """Every live-tunable value, as read now."""
        return read_knobs(self.adapter, self.registry, self.ratios, self.exempt)

    def course(self, points: int = PUBLISHED_POINTS) -> LrCourse | None:
        """The learning rate to come."""
        return course_of(self.schedule(), self.step, self.adapter.max_steps(), points)

    def as_info(self, info: RunInfo = NOBODYS) -> RunInfo:
        """A run's card, brought up to this moment in all that guardrails go by."""
        fresh = {"step": self.step, "knobs": self.knobs(), "schedule": self.course(JUDGED_POINTS)}
        loop = {"max_steps": self.adapter.max_steps(), "capabilities": list(self.adapter.capabilities)}
        return info.model_copy(update={**fresh, **loop, "knobs_point_id": 0, "paused_by": self.paused_by})
