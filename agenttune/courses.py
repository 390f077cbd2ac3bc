"""The course of the learning rate: what the schedule in force will do from here to the end, in plain numbers.

The trainer reads it from its schedule; gate, prompts and pages need no torch for it.
"""

from __future__ import annotations

from pydantic import Field

from agenttune.proposals import JsonFloat, Record


class Track(Record):
    """Parameter groups whose rates go in proportion.

    Attributes:
        groups: Their indices.
        shares: Per group, its rate as a multiple of the first one's.
        rates: The first one's rate after each of `Course.steps`.
        lowest: Its lowest rate since the entry before.
        highest: Its highest rate since the entry before.
    """

    groups: list[int]
    shares: list[float]
    rates: list[JsonFloat]
    lowest: list[JsonFloat]
    highest: list[JsonFloat]


class Course(Record):
    """Rates to come, as long as nobody changes anything."""

    kind: str = Field(description="The schedule's own name, or the shape of the plan in force.")
    text: str = Field("", description="One sentence for people.")
    steps: list[int] = Field(description="Completed steps; the first is now. What follows is used by the next update.")
    tracks: list[Track]
    is_foretold: bool = Field(
        True, description="Whether it is known up to the last of `steps`; else only what it may do at most."
    )
    can_be_planned: bool = Field(False, description="Whether `update_schedule` can replace it.")
    is_own: bool = Field(True, description="Whether it is the schedule that the run was started with.")
    before: Course | None = Field(None, description="What `update_schedule` with shape 'previous' would bring back.")

    @property
    def groups(self) -> list[int]:
        """All parameter groups."""
        return sorted(group for track in self.tracks for group in track.groups)

    def rates(self, group: int) -> list[float]:
        """The rate of a group after each of `steps`."""
        track, share = self._track(group)
        return [rate * share for rate in track.rates]

    def lowest(self, group: int) -> list[float]:
        """Its lowest rate since the step before, for each of `steps`."""
        track, share = self._track(group)
        return [rate * share for rate in track.lowest]

    def highest(self, group: int) -> list[float]:
        """Its highest rate since the step before, for each of `steps`."""
        track, share = self._track(group)
        return [rate * share for rate in track.highest]

    def _track(self, group: int) -> tuple[Track, float]:
        track = next(track for track in self.tracks if group in track.groups)
        return track, track.shares[track.groups.index(group)]
