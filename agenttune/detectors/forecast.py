"""Where a metric was going before a change, and whether it came out worse than that.

What is compared: the level of the later half of the points after the change, with the level that a curve through the
points before it has there. The curve is a fall that flattens, `a + b exp(-t / tau)`, for several `tau` from a small
part of the points before to all of them. Of the curves that those points do not contradict the highest
counts: a fall is only expected to go on where nothing else explains the points. So a run that comes down from a spike,
or has arrived, is expected to stay, and one that falls steadily is expected to go on falling: if it stops, it stalls.
A rise is not carried on, so that a run which was getting worse is not taken as the measure.

Its error: points are taken together in blocks by their medians, so that single spikes decide nothing and what
neighbours share is in the spread of the blocks; what blocks still share widens it (their lag-1 correlation). The error
of the difference is that of the curve so far out, by the rule of least squares, and that of the level found. Since both
rest on few blocks, a tolerance in standard errors of a normal distribution is widened as Student's is. Values that are
all positive are compared as logarithms, in which a fall to a small part of a loss is no straight line through zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median

from agenttune.detectors.trend import spread

BLOCKS = 16
"""Blocks that the points before a change are taken together in (guess: enough for a spread, long enough to average)."""
FEWEST = 4
"""Points before a change below which nothing is said: a curve has two unknowns, and its spread needs some more."""
TAUS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Times in which a fall flattens, over that of the points before. With 2.0 a loss that flattens as a power of time is
taken for a stall: up to 7 of 100 untouched stretches, against 1 (measured on digits)."""
LONG_TAUS = (2.0, 8.0)
"""More of them for what would have been at best: a fall that hardly flattens, as of a run in full course."""
REGIME = 16
"""Points on either side that tell of a jump (guess: as for a level)."""
JUMP, JUMP_NOISES = math.log(1.3), 4.0
"""A jump to a new regime is at least this high, as a logarithm and in deviations of a point (guess)."""
SETTLED = 8
"""After so many points above, a jump is no spike that passes by itself (guess)."""
SHAPE_FRAC = 0.4
"""Part of the fall still expected by which the shape of the curve itself may be wrong (tuned on exponential, power
and straight falls with noise of 1 to 30 %: at most 5 of 100 untouched stretches are then credited)."""
CONTRADICTED = 1.0
"""By how many of its own variances the sum of squared residuals may be above the best before a curve is dropped: one
standard error, as of a parameter (textbook)."""
MOST_NOISE = 3.0
"""A change may make the loss noisier, but a loss that explodes is no noise: so many times that of before (guess)."""
LATEST = 4
"""Blocks whose mean is where a metric stood, if that is below the curve (guess: of a quarter of the points)."""
SURELY = 2.0
"""How many times the margin a stall must come to, so that chance hardly hides it (textbook: at once, one in two is)."""
MOST_CORRELATION = 0.6
"""Of neighbouring blocks; more is a curve that does not fit, not noise (guess)."""


@dataclass(frozen=True)
class Comparison:
    """A metric after a change against its forecast, less is better.

    Attributes:
        level: Where it stood at the change, in the metric's own units, as the next three.
        forecast: Where it was going: the highest that the points before do not contradict.
        likely: The same by the curve that fits best.
        found: Where it went: the level of the later half of the points after the change.
        error: Standard error of the difference between forecast and found, as a part of the forecast if `is_log`.
        freedom: Degrees of freedom that the error rests on.
        points: Points before and after.
        is_log: All are positive, and were compared as logarithms.
    """

    level: float
    forecast: float
    likely: float
    found: float
    error: float
    freedom: int
    points: tuple[int, int]
    is_log: bool = False

    @property
    def noise(self) -> float:
        """The standard error in the metric's own units."""
        return self.error * self.forecast if self.is_log else self.error

    def above(self, value: float, other: float) -> float:
        """By how much one value is above another."""
        return math.log(value / other) if self.is_log else value - other

    def margin(self, tolerance: float, min_rise_frac: float, times: float = 1.0) -> float:
        """The smallest rise that is none of chance: so many standard errors, and that part of the forecast at least."""
        least = math.log1p(min_rise_frac) if self.is_log else min_rise_frac * abs(self.forecast)
        return max(times * student(tolerance, self.freedom) * self.error, least)

    def is_worse(self, tolerance: float, min_rise_frac: float, times: float = 1.0) -> bool:
        """Whether it came out above the forecast, beyond chance; or beyond a multiple of its errors."""
        return self.above(self.found, self.forecast) > self.margin(tolerance, min_rise_frac, times)

    def shows_a_stall(self, tolerance: float, min_rise_frac: float) -> bool:
        """Whether it would be worse had it stayed where it was."""
        return self.above(self.level, self.forecast) > SURELY * self.margin(tolerance, min_rise_frac)

    def keeps_up(self, tolerance: float, min_rise_frac: float) -> bool:
        """Whether it has fallen, beyond chance, about as far as was likely: no stall."""
        fell = self.above(self.level, self.found) > self.margin(tolerance, min_rise_frac)
        return fell and self.above(self.found, self.likely) <= self.error


@dataclass(frozen=True)
class Band:
    """Where a metric would have been expected without a change, and where it was found; less is better.

    Attributes:
        low: As low as chance and the lowest curve that the points before do not contradict let it be.
        likely: By the curve that fits best.
        high: As high as chance and the highest such curve let it be.
        found: Where it was: the level of the later half of the points after the change.
    """

    low: float
    likely: float
    high: float
    found: float


def student(tolerance: float, freedom: int) -> float:
    """What a number of normal standard errors is for an error that was itself estimated (Cornish-Fisher, textbook)."""
    z, v = tolerance, max(freedom, 1)
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


@dataclass(frozen=True)
class _Curve:
    """`a + b g(t)` with `g` an exponential that is 1 at the change, fitted to blocks; times are steps after it."""

    tau: float
    a: float
    b: float
    squares: float
    mean_g: float
    spread_g: float
    count: int

    def g(self, t: float) -> float:
        return math.exp(-t / self.tau)

    def at(self, t: float) -> float:
        """Its value; a rise ends at the change."""
        return self.a + self.b * self.g(t if self.b > 0 else 0.0)

    def variance(self, t: float) -> float:
        """Of its value, over that of a block."""
        off = self.g(t if self.b > 0 else 0.0) - self.mean_g
        return 1 / self.count + off * off / self.spread_g


def _fit(times: Sequence[float], levels: Sequence[float], tau: float) -> _Curve:
    gs = [math.exp(-t / tau) for t in times]
    mean_g, mean = fmean(gs), fmean(levels)
    spread_g = sum((g - mean_g) ** 2 for g in gs)
    b = sum((g - mean_g) * (y - mean) for g, y in zip(gs, levels, strict=True)) / spread_g
    a = mean - b * mean_g
    squares = sum((y - a - b * g) ** 2 for g, y in zip(gs, levels, strict=True))
    return _Curve(tau, a, b, squares, mean_g, spread_g, len(gs))


def newest_regime(values: Sequence[float]) -> int:
    """Index of the first value since the newest jump upwards that stays; 0 if there is none.

    What was before a blow-up says nothing of where the run was going since: a level between both would make a change
    that halves the loss look like harm, and one that does nothing like help.
    """
    is_positive = min(values, default=0.0) > 0
    heights = [math.log(v) for v in values] if is_positive else list(values)
    least = JUMP if is_positive else 0.0
    best, found = 0.0, 0
    for i in range(FEWEST, len(heights) - 1):
        old, new = heights[max(0, i - REGIME) : i], heights[i : i + REGIME]
        if is_positive and heights[i] - min(old) < JUMP / 3:  # told cheaply
            continue
        before = median(old)
        jump = median(new) - before
        if not jump > max(best, least):  # told before what takes longer: it is asked at every step of a curve
            continue
        # All since lie above all but a few of before: what comes down again is no new regime.
        if jump > JUMP_NOISES * max(spread(old), spread(new)) and min(heights[i:]) > before + jump / 3:
            best, found = jump, i
    return found


def compare(before: Sequence[float], after: Sequence[float], lowest: float | None = None) -> Comparison | None:
    """Compare the points after a change with where those before it were going.

    Args:
        before: Values at even intervals up to the change, newest last.
        after: Values after it at the same intervals, newest last.
        lowest: The lowest level of still earlier points; a run above it is on its way back, and expected to get no
            further than there.

    Returns:
        None if there are fewer than `FEWEST` finite points before or none after.
    """
    old = [v for v in before if math.isfinite(v)]
    new = [v for v in after if math.isfinite(v)]
    if len(old) < FEWEST or not new:
        return None
    first = newest_regime(old)
    if first:
        before_it = min(_blocks(old[:first], max(1, first // BLOCKS))[1])
        lowest = before_it if lowest is None else min(lowest, before_it)
        old = old[first:] if len(old) - first >= FEWEST else [median(old[first:])] * FEWEST
    is_log = min(*old, *new) > 0
    if is_log:
        old, new = [math.log(v) for v in old], [math.log(v) for v in new]
        lowest = math.log(lowest) if lowest is not None and lowest > 0 else None
    found = _compare(old, new, -math.inf if lowest is None else lowest)
    if not is_log:
        return found
    return replace(
        found,
        is_log=True,
        level=math.exp(found.level),
        forecast=math.exp(found.forecast),
        likely=math.exp(found.likely),
        found=math.exp(found.found),
    )


def band(before: Sequence[float], after: Sequence[float], tolerance: float) -> Band | None:
    """What would have been without a change, between the lowest and the highest that the points before allow.

    Unlike `compare`, which asks only whether a change did harm, this one also keeps ordinary training from being
    taken for a gain: curves that hardly flatten are among those looked at.

    Args:
        before: Values at even intervals up to the change, newest last.
        after: Values after it at the same intervals, newest last.
        tolerance: Standard errors that chance may do.

    Returns:
        None if there are fewer than `FEWEST` finite points before, or any after is not finite, or none is.
    """
    old = [v for v in before if math.isfinite(v)]
    if len(old) < FEWEST or not after or not all(map(math.isfinite, after)):
        return None
    first = newest_regime(old)
    if first:
        return _band_since(old[:first], old[first:], list(after), tolerance)
    if min(*old, *after) > 0:
        logs = _band([math.log(v) for v in old], [math.log(v) for v in after], tolerance)
        return Band(*(math.exp(v) for v in (logs.low, logs.likely, logs.high, logs.found)))
    return _band(old, list(after), tolerance)


def expected_course(before: Sequence[float], count: int, tolerance: float) -> list[Band]:
    """What would have been without a change, value by value: the same curves as those of `band`, to be drawn.

    Args:
        before: Values at even intervals up to the change, newest last.
        count: For so many values after it.
        tolerance: Standard errors that chance may do.

    Returns:
        A band for each value, `found` being what is likely too; empty if there are fewer than `FEWEST` finite points.
    """
    old = [v for v in before if math.isfinite(v)]
    if len(old) < FEWEST or count < 1:
        return []
    first = newest_regime(old)
    if first:
        old = old[first:] if len(old) - first >= FEWEST else [median(old[first:])] * FEWEST
    if min(old) <= 0:
        return _course(old, count, tolerance)
    bands = _course([math.log(v) for v in old], count, tolerance)
    return [Band(*(math.exp(v) for v in (b.low, b.likely, b.high, b.found))) for b in bands]


def _course(old: list[float], count: int, tolerance: float) -> list[Band]:
    fits = _Fits.of(old, old[-1:], (*TAUS, *LONG_TAUS))
    best, wide = fits.curves[0], student(tolerance, fits.freedom) * fits.noise
    found = []
    for t in range(1, count + 1):
        shape = SHAPE_FRAC * abs(best.at(t) - best.at(0))
        errors = [(curve.at(t), wide * math.sqrt(curve.variance(t))) for curve in fits.curves]
        low = min(value - error for value, error in errors) - shape
        low = min(low, _straight_on(fits.times, fits.levels, t / fits.size) - errors[0][1])
        high = max(value + error for value, error in errors) + shape
        likely = min(max(best.at(t), low), high)
        found.append(Band(low, likely, high, likely))
    return found


def _band_since(calm: list[float], risen: list[float], after: list[float], tolerance: float) -> Band:
    """The band of a run that has jumped upwards: what it came from is as low as it may get by itself."""
    known = risen if len(risen) >= FEWEST else [*risen, *[median(risen)] * (FEWEST - len(risen))]
    since = band(known, after, tolerance)
    if since is None:
        raise AssertionError("both sides are finite")
    if len(risen) >= SETTLED:
        return since
    # It may still be a spike that passes, so that a fall to where the run was going is none of the change's doing.
    as_before = band(calm, after, tolerance)
    return since if as_before is None else replace(since, low=min(since.low, as_before.low))


def paired(pairs: Sequence[tuple[float, float]], tolerance: float) -> Band:
    """What would have been without a change where that is known step by step, as for steps that were done twice.

    Args:
        pairs: Values of the same step without and with it, less is better; at least 3, in order.
        tolerance: Standard errors that chance may do.
    """
    is_log = min(min(pair) for pair in pairs) > 0
    heights = [(math.log(a), math.log(b)) if is_log else (a, b) for a, b in pairs]
    differences = [b - a for a, b in heights]
    error = mean_error(differences)
    likely = fmean(a for a, _ in heights)
    wide = student(tolerance, len(pairs) - 1) * error
    values = (likely - wide, likely, likely + wide, likely + fmean(differences))
    return Band(*(math.exp(v) if is_log else v for v in values))


def mean_error(values: Sequence[float]) -> float:
    """Standard error of the mean of values in order, widened if neighbours resemble each other."""
    mean = fmean(values)
    left = [value - mean for value in values]
    squares = sum(v * v for v in left)
    if not squares:
        return 0.0
    return math.sqrt(squares / (len(values) - 1) / len(values) * _widening(left, squares))


def _widening(left: Sequence[float], squares: float) -> float:
    """By how much residuals that resemble their neighbours widen a variance."""
    shared = sum(p * q for p, q in pairwise(left)) / squares
    shared = min(max(shared, 0.0), MOST_CORRELATION)
    return (1 + shared) / (1 - shared)


@dataclass(frozen=True)
class _Fits:
    """Curves through the blocks before a change, and the level found after it.

    Attributes:
        size: Points in a block.
        ahead: Points from the change to the middle of what it is judged by.
        curves: Those that the blocks do not contradict, that which fits best first.
        noise: Standard deviation of a block around that.
        found: The level of the later half of the points after the change.
        variance: Of that.
    """

    times: list[float]
    levels: list[float]
    size: int
    ahead: float
    curves: list[_Curve]
    noise: float
    found: float
    variance: float

    @classmethod
    def of(cls, old: Sequence[float], new: Sequence[float], taus: Sequence[float]) -> _Fits:
        size = max(1, len(old) // BLOCKS)
        times, levels = _blocks(old, size)
        later = new[len(new) // 2 :]
        curves = _curves(times, levels, len(old), taus)
        noise = _noise(curves[0], times, levels)
        found, variance = _level(later, size, noise)
        return cls(times, levels, size, len(new) - len(later) / 2, curves, noise, found, variance)

    @property
    def freedom(self) -> int:
        return len(self.levels) - 2

    def error(self, curve: _Curve) -> float:
        """Standard error of the difference between a curve and what was found."""
        return math.sqrt(self.noise**2 * curve.variance(self.ahead) + self.variance)


def _band(old: list[float], new: list[float], tolerance: float) -> Band:
    fits = _Fits.of(old, new, (*TAUS, *LONG_TAUS))
    best, ahead = fits.curves[0], fits.ahead
    wide = student(tolerance, fits.freedom)
    # Real curves are none of these; how much of a fall they leave to come is known to a part of it only.
    shape = SHAPE_FRAC * abs(best.at(ahead) - best.at(0))
    low = min(curve.at(ahead) - wide * fits.error(curve) for curve in fits.curves) - shape
    low = min(low, _straight_on(fits.times, fits.levels, ahead / fits.size) - wide * fits.error(best))
    high = max(curve.at(ahead) + wide * fits.error(curve) for curve in fits.curves) + shape
    return Band(low, min(max(best.at(ahead), low), high), high, fits.found)


def _straight_on(times: Sequence[float], levels: Sequence[float], ahead: float) -> float:
    """Where a run would be that falls on as it did over as many steps before: to fall on like that is no gain.

    Args:
        times: Of the blocks, in points from the change.
        levels: Theirs.
        ahead: How far from the change, in blocks.
    """
    count = min(max(LATEST, math.ceil(ahead)), len(levels))
    xs, ys = times[-count:], levels[-count:]
    mean_x, mean_y = fmean(xs), fmean(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
    reach = ahead * (xs[-1] - xs[0]) / (count - 1)
    return mean_y + min(slope, 0.0) * (reach - mean_x)


def _compare(old: list[float], new: list[float], lowest: float) -> Comparison:
    fits = _Fits.of(old, new, TAUS)
    best, highest = fits.curves[0], max(fits.curves, key=lambda c: c.at(fits.ahead))
    # A curve that does not fit at its end would let a run fall that stands still.
    level = min(highest.at(0), fmean(fits.levels[-LATEST:]))
    floor = lowest if level > lowest else -math.inf
    return Comparison(
        level=level,
        forecast=max(highest.at(fits.ahead), floor),
        likely=max(best.at(fits.ahead), floor),
        found=fits.found,
        error=fits.error(highest),
        freedom=fits.freedom,
        points=(len(old), len(new)),
    )


def _curves(times: Sequence[float], levels: Sequence[float], count: int, taus: Sequence[float]) -> list[_Curve]:
    """The curves that the points do not contradict, that which fits best first."""
    curves = sorted((_fit(times, levels, part * count) for part in taus), key=lambda c: c.squares)
    most = curves[0].squares * (1 + CONTRADICTED / (len(levels) - 2))
    return [curve for curve in curves if curve.squares <= most]


def _level(values: Sequence[float], size: int, noise: float) -> tuple[float, float]:
    """The level of points after a change and its variance; `noise` is that of blocks before it."""
    _, levels = _blocks(values, min(size, len(values)))
    seen = spread(levels)  # 0 where there are too few to tell
    wide = min(max(noise, seen), MOST_NOISE * noise)
    return fmean(levels), wide**2 * size / len(values)


def _blocks(values: Sequence[float], size: int) -> tuple[list[float], list[float]]:
    """Times and medians of the newest whole blocks; times count from the end."""
    first = len(values) % size
    starts = range(first, len(values), size)
    return [s + size / 2 - len(values) for s in starts], [median(values[s : s + size]) for s in starts]


def _noise(curve: _Curve, times: Sequence[float], levels: Sequence[float]) -> float:
    """Standard deviation of a block around the curve, widened if blocks resemble their neighbours."""
    if not curve.squares:
        return 0.0
    left = [y - curve.a - curve.b * curve.g(t) for t, y in zip(times, levels, strict=True)]
    return math.sqrt(curve.squares / (len(levels) - 2) * _widening(left, curve.squares))
