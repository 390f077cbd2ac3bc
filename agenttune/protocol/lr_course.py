"""The course of the learning rate: what the schedule in force will do from here to the end, in plain numbers.

The trainer reads it from its schedule; gate, prompts and pages need no torch for it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from pydantic import Field

from agenttune.protocol.proposals import JsonFloat, Record


class Track(Record):
    """Parameter groups whose rates go in proportion.

    Attributes:
        groups: Their indices.
        shares: Per group, its rate as a multiple of the first one's.
        rates: The first one's rate after each of `LrCourse.steps`.
        lowest: Its lowest rate since the entry before.
        highest: Its highest rate since the entry before.
    """

    groups: list[int]
    shares: list[float]
    rates: list[JsonFloat]
    lowest: list[JsonFloat]
    highest: list[JsonFloat]


class LrCourse(Record):
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
    before: LrCourse | None = Field(None, description="What `update_schedule` with shape 'previous' would bring back.")

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

    def from_now(self, step: int, rates: Sequence[float] | None = None) -> LrCourse:
        """What of it lies ahead of a later step, told from there.

        Args:
            step: Completed steps.
            rates: Per parameter group, the rate that is in force now; None: between those that were foretold.
        """
        if step <= self.steps[0]:
            return self
        later = bisect_right(self.steps, step)
        tracks = [self._from(track, later, step, rates) for track in self.tracks]
        before = None if self.before is None else self.before.from_now(step)
        ahead = self.model_copy(update={"steps": [step, *self.steps[later:]], "tracks": tracks, "before": before})
        return ahead.model_copy(update={"text": _retold(ahead)})

    def _from(self, track: Track, later: int, step: int, rates: Sequence[float] | None) -> Track:
        group = track.groups[0]
        now = rates[group] if rates is not None and group < len(rates) else self._between(track, later, step)
        if not self.is_foretold:  # only what is measured moves it: what is now stays until then
            return track.model_copy(
                update={
                    "rates": [now, *(now for _ in self.steps[later:])],
                    "lowest": [now, *(min(now, low) for low in track.lowest[later:])],
                    "highest": [now, *(max(now, high) for high in track.highest[later:])],
                }
            )
        lowest, highest = [now, *track.lowest[later:]], [now, *track.highest[later:]]
        if later < len(self.steps) and self.steps[later - 1] < step:  # a part of that stretch is past
            ends = track.rates[later - 1 : later + 1]
            if lowest[1] >= min(ends):  # it does not turn in between
                lowest[1] = min(now, ends[1])
            if highest[1] <= max(ends):
                highest[1] = max(now, ends[1])
        return track.model_copy(update={"rates": [now, *track.rates[later:]], "lowest": lowest, "highest": highest})

    def _between(self, track: Track, later: int, step: int) -> float:
        """The rate at a step, on the line between the two that were told around it."""
        first = track.rates[later - 1]
        if later == len(self.steps):
            return first
        start, end = self.steps[later - 1], self.steps[later]
        return first + (track.rates[later] - first) * (step - start) / (end - start)

    def _track(self, group: int) -> tuple[Track, float]:
        track = next(track for track in self.tracks if group in track.groups)
        return track, track.shares[track.groups.index(group)]


def course_text(kind: str, rates: Sequence[float], last_step: int, turns: Sequence[str] = ()) -> str:
    """One sentence for people about rates from now on.

    Args:
        kind: The schedule's name.
        rates: That of now first, that of the last step last.
        last_step: Up to which it is told.
        turns: The highest and the lowest rate in between, in words.
    """
    if min(rates) == max(rates) and not turns:
        return f"{kind}: {rates[0]:g} to the end"
    return ", ".join([f"{kind}: {rates[0]:g} now", *turns, f"{rates[-1]:g} at step {last_step}"])


def _retold(course: LrCourse) -> str:
    """The sentence about a course, as it goes on from its first step; its text may be of an earlier one."""
    opening, track = f"{course.kind}: ", course.tracks[0]
    if not course.text.startswith(opening):  # a plan's: it names the step of each of its rates
        return course.text
    now = track.rates[0]
    if not course.is_foretold or " stays as it is" in course.text:
        rest = re.sub(r"^[^\s;]+", "", course.text.removeprefix(opening))
        return f"{opening}{now:g}{rest}"
    if len(course.steps) == 1:
        return f"{opening}{now:g} now"
    turns = [_turn("highest", max, track.highest, course), _turn("lowest", min, track.lowest, course)]
    return course_text(course.kind, track.rates, course.steps[-1], [turn for turn in turns if turn])


def _turn(name: str, of: Callable[[list[float]], float], extremes: list[float], course: LrCourse) -> str:
    """An extreme that lies ahead, in words; empty if it is the rate of now or of the end."""
    told = re.search(rf"{name} \S+ at step (\d+)", course.text)
    if told and int(told[1]) > course.steps[0]:
        return told[0]
    extreme, rates = of(extremes), course.tracks[0].rates
    if any(math.isclose(extreme, end, rel_tol=1e-6) for end in (rates[0], rates[-1])):
        return ""
    place = extremes.index(extreme)
    return f"{name} {extreme:g} {'at' if rates[place] == extreme else 'by'} step {course.steps[place]}"
