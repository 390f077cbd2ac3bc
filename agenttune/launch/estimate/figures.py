"""The figures that an estimate rests on: ranges from a quiet run to a busy one, and what past runs used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agenttune.protocol.events import Decided, Found
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Record
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.summary import ProbeCost
from agenttune.store.journal.costs import probe_cost
from agenttune.store.journal.run_summary import model_calls
from agenttune.store.run_log import RunLog


class Range(Record):
    """From a quiet run to a busy one."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, other: Range) -> Range:
        return Range(low=self.low * other.low, high=self.high * other.high)

    def scaled(self, factor: float) -> Range:
        return Range(low=self.low * factor, high=self.high * factor)


ZERO = Range(low=0, high=0)
BUSY_FACTOR = 1.5
"""Decisions and probes of a busy run, against one in which nothing happens, where no past run tells (guess)."""


TIMED_STEPS = 200
"""Newest steps of a run whose time is looked at."""


@dataclass(frozen=True)
class PastUsage:
    """What a past run tells.

    Attributes:
        steps: How many it took.
        decisions: Those for findings and evaluations.
        calls: Of language models.
        findings: How many, by kind.
        probing: What its probes took.
        step_s: Time of one step, in seconds; None if it has no records.
    """

    run_id: str
    steps: int
    decisions: int
    calls: list[ModelCalled]
    findings: Mapping[str, int]
    probing: ProbeCost
    step_s: float | None

    @classmethod
    def of(cls, folder: Path, info: RunInfo) -> PastUsage:
        log = RunLog.open(folder)
        try:
            decided = [e.body for e in log.events(kinds=["decided"], limit=100_000) if isinstance(e.body, Decided)]
            news = sum("finding" in body.woken_by or "evaluation" in body.woken_by for body in decided)
            found = [e.body for e in log.events(kinds=["found"], limit=100_000) if isinstance(e.body, Found)]
            kinds = Counter(str(body.finding.kind) for body in found)
            return cls(info.run_id, info.step, news, model_calls(log), kinds, probe_cost(log), _step_s(log))
        finally:
            log.close()


def _step_s(log: RunLog) -> float | None:
    times = [point.values.get("step_time_s") for point in log.recent_points(TIMED_STEPS)]
    known = [value for value in times if value is not None and value > 0]
    return median(known) if known else None
