"""What a change did to a run. `detectors/effects.py` computes it; rules, probation, reports and models are told it."""

from __future__ import annotations

from typing import Literal

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record
from agenttune.protocol.text import number


class MetricAt(Record):
    """A value of a metric and the step it belongs to."""

    step: int
    value: Metric


EffectVerdict = Literal["better", "worse", "no clear effect", "not known"]


class Effect(Record):
    """What a change did, against what was to be expected without it.

    Attributes:
        metric: By which it is told; empty if none tells.
        found: Where the metric was within the window, by its level.
        expected: Where it was going without the change: by the points before it, or as it went on the steps that a
            restore has undone.
        low: How low it may well have come without the change; with `high` the band of the forecast.
        points: Values after the change that it rests on.
        until_step: Step of the last of them: the window never reaches further than the next change.
        reason: Why it is not known.
        is_measured: All was measured that this metric can tell of it; or it can never be told.
        is_final: Nor can a metric that counts more still tell, so that it stays as it is.
    """

    verdict: EffectVerdict
    metric: str = ""
    found: Metric | None = None
    expected: Metric | None = None
    low: Metric | None = None
    high: Metric | None = None
    points: int = 0
    until_step: int | None = None
    reason: str = ""
    is_measured: bool = False
    is_final: bool = False

    @property
    def helped(self) -> int:
        """1 if it did good, -1 if it did harm, 0 if neither shows (yet)."""
        return {"better": 1, "worse": -1}.get(self.verdict, 0)

    @property
    def words(self) -> str:
        """In one line, the same wherever it is told."""
        if self.verdict == "not known":
            return f"not known: {self.reason}"
        if self.expected is None or self.found is None:
            return f"{self.verdict}: {self.metric} {self.reason}"
        without = f"{number(self.expected)} expected without it ({number(self.low)} to {number(self.high)})"
        verdict = (
            "not clear" if self.verdict == "no clear effect" else self.verdict
        )  # it stands after the word "effect"
        until = "" if self.until_step is None else f", up to step {self.until_step}"
        return f"{verdict}: {self.metric} {number(self.found)}, {without}{until}"
