"""Figures that are known from here to there."""

from __future__ import annotations

from agenttune.protocol.proposals import Record


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
"""Decisions and probes of a busy run, against one in which nothing happens, where no former run tells (guess)."""
