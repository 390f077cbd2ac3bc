"""Which branches a run stands on, and up to which step of each."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from agenttune.protocol.events import BranchStarted
from agenttune.protocol.proposals import Record


class Segment(Record):
    """A branch that a run stands on, up to a step."""

    branch: str
    last_step: int | None = Field(None, description="The step at which the next segment left it; none for the last.")


class Lineage(Record):
    """The branches that a run stands on, oldest first; empty says nothing, and has everything."""

    segments: list[Segment] = Field(default_factory=list)

    @classmethod
    def of(cls, branch: str, started: Iterable[BranchStarted]) -> Lineage:
        """What a branch stands on: it takes over its parent's history up to the step of the checkpoint restored."""
        by_name = {start.name: start for start in started}
        segments = [Segment(branch=branch)]
        while (start := by_name.get(segments[-1].branch)) is not None and start.parent is not None:
            until = earlier(segments[-1].last_step, start.from_step)
            segments.append(Segment(branch=start.parent, last_step=until))
        return cls(segments=segments[::-1])

    def has(self, branch: str, step: int) -> bool:
        """Whether a step of a branch is among those that led here."""
        for segment in self.segments:
            if segment.branch == branch:
                return segment.last_step is None or step <= segment.last_step
        return not self.segments


def earlier(one: int | None, other: int | None) -> int | None:
    """The earlier of two last steps, of which None sets no limit."""
    return min((step for step in (one, other) if step is not None), default=None)
