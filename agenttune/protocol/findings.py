"""Detectors: pure functions from recent metrics to findings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.proposals import Record

FindingKind = Literal[
    "non_finite",
    "spike",
    "divergence",
    "plateau",
    "overfitting",
    "gradient_explosion",
    "stall",
    "slow_start",
    "goal_plateau",
    "goal_missing",
]


class Finding(Record):
    """What a detector saw."""

    kind: FindingKind
    severity: Literal["info", "warning", "critical"]
    metric: str
    step: int = Field(description="Step at which the detector had seen enough.")
    summary: str = Field(description="One sentence with the figures it rests on.")
    evidence: dict[str, float | int | str] = Field(default_factory=dict)
