"""What a replay shows, as data."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record


class RecordedAround(Record):
    """How the recorded run stood at a step, and after the window behind it. None: not recorded."""

    loss: Metric | None = Field(None, description="Median of the newest 16 training losses.")
    loss_after: Metric | None = None
    lr: Metric | None = None
    lr_after: Metric | None = None


class AppliedCommand(Record):
    """A command that was really applied in the recorded run."""

    step: int
    kind: str
    summary: str
    author: str
    rationale: str = ""
    proposed_at_step: int | None = Field(None, description="Where the replayed policy asked for that kind too.")


class Wanted(Record):
    """A command that the replayed policy would have asked for."""

    step: int = Field(description="Completed optimizer steps of what it had seen.")
    kind: str
    arguments: dict[str, Any]
    rationale: str
    woken_by: str = ""
    shadow: bool = Field(False, description="It was in shadow: it would have said so and done nothing.")
    refused: str = Field("", description="Why the recorded run's gate would have refused it.")
    around: RecordedAround = Field(default_factory=RecordedAround)
    done: list[AppliedCommand] = Field(default_factory=list, description="What was really done within the window.")


class ReplayOutcome(Record):
    """A policy over a recorded run."""

    recording: str
    source: str
    policy: str
    first_step: int
    last_step: int
    every_steps: int = Field(description="The policy was asked at least every so many steps.")
    window_steps: int
    decisions: int = Field(description="How often it was asked.")
    wanted: list[Wanted]
    done: list[AppliedCommand]
    findings: list[Finding] = Field(description="Found anew, from the recorded curves.")
    calls: int = Field(0, description="Calls of language models that this replay made.")
    usd: float | None = Field(0.0, description="What they cost; None: no price is known.")
    duration_s: float
    notes: list[str] = Field(default_factory=list)
