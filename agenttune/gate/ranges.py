"""Allowed ranges of numbers, and comparisons that forgive the last digits of a product."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agenttune.config import Bounds

ROUNDING_FRAC = 1e-9
"""By what part a number may be over a limit: it was multiplied and divided on its way here."""


def above(value: float, limit: float) -> bool:
    return value > limit + abs(limit) * ROUNDING_FRAC


def below(value: float, limit: float) -> bool:
    return value < limit - abs(limit) * ROUNDING_FRAC


@dataclass(frozen=True)
class Span:
    """From `low` to `high`, both allowed; false if nothing is."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, limit: Bounds) -> Span:
        low = -math.inf if limit.minimum is None else limit.minimum
        return cls(low, math.inf if limit.maximum is None else limit.maximum)

    def __bool__(self) -> bool:
        return not above(self.low, self.high)

    def has(self, value: float) -> bool:
        return not above(value, self.high) and not below(value, self.low)

    def within(self, other: Span) -> Span:
        return Span(max(self.low, other.low), min(self.high, other.high))

    def reaching(self, value: float | None) -> Span:
        """Stretched to a value that is outside already."""
        return self if value is None else Span(min(self.low, value), max(self.high, value))

    def over(self, value: float) -> Span:
        """The factors of a value above 0 that stay inside."""
        return Span(self.low / value, self.high / value)

    def times(self, value: float) -> Span:
        """The products of a value above 0 with the factors inside."""
        return Span(self.low * value, self.high * value)

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


EVERYTHING = Span()
