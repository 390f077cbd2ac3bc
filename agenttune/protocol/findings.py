"""What a detector saw."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agenttune.protocol.invalid_values import shape
from agenttune.protocol.proposals import Record

FINDING_NAME = shape(r"^[a-z][a-z0-9_]{0,47}$", "at most 48 of a to z, 0 to 9 and _, and begin with a letter")
Severity = Literal["info", "warning", "critical"]


class Finding(Record):
    """What a detector saw."""

    kind: Annotated[str, Field(pattern=FINDING_NAME)] = Field(description="The detector's name.")
    severity: Severity
    metric: str
    step: int = Field(description="Step at which the detector had seen enough.")
    summary: str = Field(description="One sentence with the figures it rests on.")
    evidence: dict[str, float | int | str] = Field(default_factory=dict)
