"""A study as its journal tells it: the runs by round, what was planned and learned, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field

from agenttune.launch.study import records
from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.model_calls import Cost, ModelCalled
from agenttune.protocol.proposals import Record
from agenttune.protocol.summary import Score

COMPLETE: frozenset[str] = frozenset({"finished", "stopped"})
"""Outcomes of a run that did what was asked."""
CUT_OFF: frozenset[str] = frozenset({"interrupted", "lost"})
"""Outcomes of a run that is repeated when its study is continued."""
StudyStatus = Literal["running", "cut off", "finished", "stopped", "interrupted"]


class RoundRun(Record):
    """A run of a study. `outcome` is None while it runs, or if its launcher died."""

    round: int
    arm: records.Arm
    policy: str
    run_id: str
    start: records.Start = Field(description="Chosen values; empty: the file's own arguments.")
    args: list[str]
    outcome: records.RunOutcome | None = None
    reason: str = ""
    steps: int = 0
    duration_s: float = 0.0
    score: Score | None = None
    change_percent: float | None = Field(
        None, description="Final score against round 0's, in percent of its size; None where that has no meaning."
    )
    commands: int = 0
    findings: int = 0
    calls: int = 0
    tokens: int = 0
    usd: float | None = Field(None, description="None: a price is not known.")

    @property
    def counts(self) -> bool:
        """Whether it stands for its place in the study: it was not cut off."""
        return self.outcome is not None and self.outcome not in CUT_OFF

    @property
    def final(self) -> float | None:
        return None if self.score is None else self.score.last.value


class RoundPlan(Record):
    round: int
    start: records.Start
    chosen_by: Literal["model", "best_so_far", "file"]
    reasoning: str = ""
    refused: list[str] = Field(default_factory=list)


class Reflection(Record):
    round: int
    text: str


class Study(Record):
    """All there is to show of a study."""

    study: str
    path: str
    status: StudyStatus
    reason: str = ""
    goal_metric: str
    goal_direction: Literal["minimize", "maximize"]
    count: int = Field(description="Rounds after round 0.")
    settings: dict[str, Any]
    runs: list[RoundRun]
    plans: list[RoundPlan]
    reflections: list[Reflection]
    notes: list[str]
    calls: int = Field(description="Calls of the language model for plans and reflections.")
    tokens: int
    usd: float | None = Field(description="Of those calls; None: a price is not known.")

    @property
    def reference(self) -> RoundRun | None:
        """Round 0, once it has ended by itself."""
        return next((r for r in self.runs if r.arm == "untouched" and r.outcome in COMPLETE), None)

    def plan(self, number: int) -> RoundPlan | None:
        return next((p for p in self.plans if p.round == number), None)

    def reflection(self, number: int) -> Reflection | None:
        return next((r for r in self.reflections if r.round == number), None)

    def done(self, number: int, arm: records.Arm, policy: str | None = None) -> RoundRun | None:
        """The run that stands for a place, if there is one. Round 0 must not have failed."""
        fits = [r for r in self.runs if (r.round, r.arm) == (number, arm) and policy in (None, r.policy) and r.counts]
        return next((r for r in fits if arm != "untouched" or r.outcome in COMPLETE), None)

    def better(self, one: float, other: float) -> bool:
        return one > other if self.goal_direction == "maximize" else one < other

    def best(self) -> RoundRun | None:
        """The complete run with the best finite final value of the goal metric."""
        found: RoundRun | None = None
        for run in self.runs:
            value = run.final
            if value is None or not math.isfinite(value) or run.outcome not in COMPLETE or not self.is_goal(run):
                continue
            if found is None or found.final is None or self.better(value, found.final):
                found = run
        return found

    def is_goal(self, run: RoundRun) -> bool:
        """Whether its score is of the goal metric, and not of some other loss in its place."""
        return run.score is not None and is_goal(run.score.metric, self.goal_metric)


def fold(entries: Sequence[records.StudyEntry], start: records.StudyStarted, path: str, worked_on: bool) -> Study:
    """Make a study of its journal.

    Args:
        entries: The whole journal.
        start: Its first entry's body.
        path: Its folder.
        worked_on: Whether a living process writes it.
    """
    runs = _runs(entries)
    cost = Cost.of(e.body for e in entries if isinstance(e.body, ModelCalled))
    status, reason = _status(entries, worked_on)
    return Study(
        study=start.study,
        path=path,
        status=status,
        reason=reason,
        goal_metric=start.goal_metric,
        goal_direction=start.goal_direction,
        count=[e.body.count for e in entries if isinstance(e.body, (records.StudyStarted, records.StudyResumed))][-1],
        settings=start.settings,
        runs=[run.model_copy(update={"change_percent": _change_percent(run, runs)}) for run in runs],
        plans=_plans(entries),
        reflections=[
            Reflection(round=e.round or 0, text=e.body.text) for e in entries if isinstance(e.body, records.Reflected)
        ],
        notes=[e.body.text for e in entries if isinstance(e.body, records.StudyNote)],
        calls=cost.calls,
        tokens=cost.tokens,
        usd=cost.whole_usd,
    )


def _runs(entries: Iterable[records.StudyEntry]) -> list[RoundRun]:
    runs: dict[str, RoundRun] = {}
    for entry in entries:
        body = entry.body
        if isinstance(body, records.RunLaunched):
            place = body.place
            runs[body.run_id] = RoundRun(
                round=place.round,
                arm=place.arm,
                policy=place.policy,
                run_id=body.run_id,
                start=place.start,
                args=body.args,
            )
        elif isinstance(body, records.RunConcluded) and body.run_id in runs:
            runs[body.run_id] = runs[body.run_id].model_copy(update=_outcome(body))
    return list(runs.values())


def _outcome(body: records.RunConcluded) -> dict[str, Any]:
    return {name: getattr(body, name) for name in records.RunConcluded.model_fields if name not in ("kind", "run_id")}


def _change_percent(run: RoundRun, runs: Sequence[RoundRun]) -> float | None:
    base = next((r for r in runs if r.arm == "untouched" and r.outcome in COMPLETE), None)
    if base is None or base.score is None or run.score is None or run.score.metric != base.score.metric:
        return None
    was, now = base.score.last.value, run.score.last.value
    if run.run_id == base.run_id or not math.isfinite(was) or not math.isfinite(now) or was == 0:
        return None
    return 100 * (now - was) / abs(was)


def _plans(entries: Iterable[records.StudyEntry]) -> list[RoundPlan]:
    return [
        RoundPlan(
            round=e.round or 0,
            start=e.body.start,
            chosen_by=e.body.chosen_by,
            reasoning=e.body.reasoning,
            refused=e.body.refused,
        )
        for e in entries
        if isinstance(e.body, records.PlannedRound)
    ]


def _status(entries: Sequence[records.StudyEntry], worked_on: bool) -> tuple[StudyStatus, str]:
    if worked_on:
        return "running", ""
    last = next(
        (e.body for e in reversed(entries) if isinstance(e.body, (records.StudyEnded, records.StudyResumed))), None
    )
    if isinstance(last, records.StudyEnded):
        return last.status, last.reason
    return "cut off", "its process ended without a word"
