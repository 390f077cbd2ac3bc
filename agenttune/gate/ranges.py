"""Allowed ranges of numbers, compared with a tolerance for rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agenttune.config import Bounds

ROUNDING_FRAC = 1e-9
"""Relative tolerance: numbers and limits are products of others, whose last digits are rounded."""


def above(value: float, limit: float) -> bool:
    return value > limit + abs(limit) * ROUNDING_FRAC


def below(value: float, limit: float) -> bool:
    return value < limit - abs(limit) * ROUNDING_FRAC


@dataclass(frozen=True)
class ClosedRange:
    """The closed range from `low` to `high`; false if it is empty."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, limit: Bounds) -> ClosedRange:
        low = -math.inf if limit.minimum is None else limit.minimum
        return cls(low, math.inf if limit.maximum is None else limit.maximum)

    def __bool__(self) -> bool:
        return not above(self.low, self.high)

    def has(self, value: float) -> bool:
        return not above(value, self.high) and not below(value, self.low)

    def within(self, other: ClosedRange) -> ClosedRange:
        return ClosedRange(max(self.low, other.low), min(self.high, other.high))

    def reaching(self, value: float | None) -> ClosedRange:
        """The range, extended to include a value."""
        return self if value is None else ClosedRange(min(self.low, value), max(self.high, value))

    def over(self, value: float) -> ClosedRange:
        """The factors by which a value above 0 may be multiplied to stay inside."""
        return ClosedRange(self.low / value, self.high / value)

    def times(self, value: float) -> ClosedRange:
        """The range, multiplied by a value above 0."""
        return ClosedRange(self.low * value, self.high * value)

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


EVERYTHING = ClosedRange()
