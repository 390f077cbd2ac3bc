"""The list of runs as people look at it: of each what tells whether it is well, cheap enough for a thousand of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo, RunStatus

SPARK_POINTS = 40
"""Numbers of a small curve, at most."""
MOST_RUNS = 10_000
"""Of one answer."""


class GoalOverview(Record):
    """The goal metric, along the steps that a run stands on.

    Attributes:
        metric: Its name; that of a loss, where the goal was not measured yet.
        is_goal: Whether it is the goal; else what is shown in its place.
        best: None where only some of the values were looked at.
        spark: At most 40 of its values, evenly over the steps and the newest last.
    """

    metric: str
    direction: Literal["minimize", "maximize"]
    is_goal: bool = True
    newest: Metric | None = None
    newest_step: int | None = None
    best: Metric | None = None
    best_step: int | None = None
    spark: list[Metric] = Field(default_factory=list, max_length=SPARK_POINTS)
    spark_steps: list[int] = Field(default_factory=list, max_length=SPARK_POINTS)


class Spent(Record):
    """What calls of language models took so far. US dollars: None if the price of any call is not known."""

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0


class Measured(Record):
    """What of a run is read from its events and rows, beside its identity card."""

    goal: GoalOverview
    steps_per_s: float | None = None
    last_step_at_s: float | None = Field(None, description="Unix time of the newest row of metrics.")
    policy: str | None = Field(None, description="The policy beside it; of a run that has ended, the last one.")
    waiting: int = Field(0, description="Requests that wait for somebody's decision.")
    critical: int = Field(0, description="Critical findings, on whatever branch.")
    spent: Spent = Spent()


class RunOverview(Measured):
    """One run of the list."""

    run_id: str
    name: str
    status: RunStatus
    status_reason: str = ""
    is_live: bool
    step: int
    max_steps: int | None = None
    time_left_s: float | None = Field(None, description="Of training, at the pace of the newest steps.")
    branch: str = "main"
    tags: list[str] = Field(default_factory=list)
    created_at_s: float
    started_at_s: float | None = None
    ended_at_s: float | None = None

    @classmethod
    def of(cls, info: RunInfo, measured: Measured) -> RunOverview:
        """A run's card with what was read of it."""
        pace = measured.steps_per_s
        left_s = None
        if info.status == "running" and pace and info.max_steps is not None:
            left_s = max(0, info.max_steps - info.step) / pace
        return cls(
            **dict(measured),
            run_id=info.run_id,
            name=info.name,
            status=info.status,
            status_reason=info.status_reason,
            is_live=info.is_live,
            step=info.step,
            max_steps=info.max_steps,
            time_left_s=left_s,
            branch=info.branch,
            tags=info.tags,
            created_at_s=info.created_at_s,
            started_at_s=info.started_at_s,
            ended_at_s=info.ended_at_s,
        )


class RunsOverview(Record):
    """A page of the list, newest first."""

    runs: list[RunOverview]
    total: int = Field(description="Runs that fit the search.")
    statuses: dict[str, int] = Field(description="How many there are of each status, before any filter.")
    tags: dict[str, int] = Field(description="How many runs have each tag, before any filter.")


class OverviewQuery(BaseModel):
    """Which runs are asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    search: str = Field("", max_length=200, description="Only runs whose id, name or tags hold all of these words.")
    status: list[RunStatus] = Field([], description="Only runs of these statuses.")
    tag: list[str] = Field([], description="Only runs with all of these tags.")
    limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 1000
    offset: Annotated[int, Field(ge=0)] = 0

    def fits(self, info: RunInfo) -> bool:
        """Whether a run is asked for."""
        if self.status and info.status not in self.status:
            return False
        if not set(self.tag) <= set(info.tags):
            return False
        text = "\n".join([info.run_id, info.name, *info.tags]).casefold()
        return all(word in text for word in self.search.casefold().split())
