"""Thinning a metric to buckets: mean, low and high of every 16, 256, 4096, ... points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from agenttune.protocol.metrics import Curve

FAN = 16
"""Points (or finer buckets) per bucket. Larger: fewer rows to write; smaller: fewer rows to read for a curve."""
LEVELS = (1, 2, 3, 4)


@dataclass(slots=True)
class Bucket:
    """What is left of `count` points. `total`, `low` and `high` are over the finite ones."""

    level: int
    last_step: int
    first_step: int
    last_point: int
    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    nonfinite: int = 0

    @classmethod
    def of_one(cls, value: float, step: int, point_id: int) -> Bucket:
        if math.isfinite(value):
            return cls(0, step, step, point_id, 1, value, value, value)
        return cls(0, step, step, point_id, 1, nonfinite=1)

    def row(self) -> tuple[float | None, ...]:
        """Values in the order of the `buckets` table; SQLite has no place for an empty range but NULL."""
        empty = self.nonfinite == self.count
        low, high = (None, None) if empty else (self.low, self.high)
        return (
            self.level,
            self.last_step,
            self.first_step,
            self.last_point,
            self.count,
            self.total,
            low,
            high,
            self.nonfinite,
        )

    def merge(self, other: Bucket) -> None:
        """Take in a bucket that follows this one."""
        # Comparisons instead of min() and max(): a curve merges thousands of buckets while a client waits.
        if other.last_step > self.last_step:
            self.last_step = other.last_step
        if other.first_step < self.first_step:
            self.first_step = other.first_step
        if other.low < self.low:
            self.low = other.low
        if other.high > self.high:
            self.high = other.high
        self.last_point = other.last_point
        self.count += other.count
        self.total += other.total
        self.nonfinite += other.nonfinite


@dataclass
class Rollup:
    """The open buckets of one metric, one a level, and how many finer ones each has taken in."""

    open: list[Bucket | None] = field(default_factory=lambda: [None] * len(LEVELS))
    filled: list[int] = field(default_factory=lambda: [0] * len(LEVELS))

    def add(self, value: float, step: int, point_id: int) -> list[Bucket]:
        """Take in a point; returns the buckets that this closes, finest first."""
        return self.absorb(Bucket.of_one(value, step, point_id))

    def absorb(self, bucket: Bucket) -> list[Bucket]:
        """Take in a closed bucket of any level below the top; returns what this closes."""
        closed: list[Bucket] = []
        while bucket.level < LEVELS[-1]:
            slot = bucket.level
            current = self.open[slot]
            if current is None:
                current = self.open[slot] = Bucket(slot + 1, bucket.last_step, bucket.first_step, bucket.last_point)
            current.merge(bucket)
            self.filled[slot] += 1
            if self.filled[slot] < FAN:
                break
            self.open[slot], self.filled[slot] = None, 0
            closed.append(current)
            bucket = current
        return closed


def thin(name: str, branch: str, buckets: Sequence[Bucket], max_points: int) -> Curve:
    """Merge neighbours until at most `max_points` are left. Rounds to 7 digits: a curve is for eyes and forecasts."""
    stride = max(1, math.ceil(len(buckets) / max(1, max_points)))
    merged = list(buckets) if stride == 1 else _merged(buckets, stride)
    told = [_told(bucket) for bucket in merged]
    return Curve(
        name=name,
        branch=branch,
        bucket_points=max((b.count for b in merged), default=1),
        steps=[b.last_step for b in merged],
        mean=[mean for mean, _, _ in told],
        low=[low for _, low, _ in told],
        high=[high for _, _, high in told],
        nonfinite=[b.nonfinite for b in merged],
    )


def _merged(buckets: Sequence[Bucket], stride: int) -> list[Bucket]:
    """So many neighbours in one."""
    merged: list[Bucket] = []
    for i, bucket in enumerate(buckets):
        if i % stride == 0:
            merged.append(Bucket(0, bucket.last_step, bucket.first_step, bucket.last_point))
        merged[-1].merge(bucket)
    return merged


def _told(bucket: Bucket) -> tuple[float, float, float]:
    """Mean, low and high; of a single point, as most are, they are the same."""
    finite = bucket.count - bucket.nonfinite
    if not finite:
        return math.nan, math.nan, math.nan
    if finite == 1:
        return (_short(bucket.total),) * 3
    return _short(bucket.total / finite), _short(bucket.low), _short(bucket.high)


def _short(value: float) -> float:
    return float(f"{value:.7g}")
