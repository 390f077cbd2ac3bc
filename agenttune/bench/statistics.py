"""Statistics over seeds and scenarios, by scipy: intervals, paired tests, profiles. The same data, the same figures.

As rliable has it (Agarwal et al., 2021, "Deep reinforcement learning at the edge of the statistical precipice"): means
over the middle half of all runs, with intervals by a bootstrap that draws anew within each scenario (a stratum).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Strata = Sequence[Sequence[float]]
"""Values by scenario, one a seed."""
Array = npt.NDArray[np.float64]
RESAMPLES = 2000
"""As rliable's examples have it; with 1,000 values it takes a tenth of a second (measured)."""
BATCH_VALUES = 2_000_000
"""Drawn at once: 16 MB."""
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
FEWEST_SEEDS = 5
"""Fewer say nothing about other seeds (a guess, which the issue of this benchmark asks for)."""
TRIMMED_FRAC = 0.25
"""At either end: what is left is the interquartile mean."""
SEED = 20_240_601
"""Of the bootstrap's random numbers."""


class Interval(NamedTuple):
    """A figure with its 95 % interval.

    Attributes:
        low, high: NaN where no stratum has two values.
        values: So many it rests on.
        seeds: That most strata have at least: their median, the lower one of two.
    """

    estimate: float
    low: float
    high: float
    values: int
    seeds: int

    @property
    def is_enough(self) -> bool:
        """Whether there are seeds enough for a claim."""
        return self.seeds >= FEWEST_SEEDS and math.isfinite(self.low)

    def turned(self, whole: float) -> Interval:
        """Of `whole` less the figure."""
        return self._replace(estimate=whole - self.estimate, low=whole - self.high, high=whole - self.low)

    def excludes(self, value: float) -> bool:
        """Whether the whole interval lies on one side of a value."""
        return self.low > value or self.high < value


NOTHING = Interval(math.nan, math.nan, math.nan, 0, 0)


def interquartile_mean(strata: Strata) -> Interval:
    """Mean of the middle half of all values."""
    return _intervals(strata, lambda values: stats.trim_mean(values, TRIMMED_FRAC, axis=-1)[None])[0]


def mean(strata: Strata) -> Interval:
    """Mean of all values: one bad value in a hundred is in it."""
    return _intervals(strata, lambda values: np.mean(values, axis=-1)[None])[0]


def improvement(differences: Strata) -> Interval:
    """Probability that a pair comes out better, ties half.

    Args:
        differences: First less second, of the same seed; less than 0 is better.
    """
    return mean([[0.5 if d == 0 else float(d < 0) for d in stratum] for stratum in differences])


def profile(strata: Strata, thresholds: Sequence[float]) -> list[Interval]:
    """Share of values at or below each threshold, with an interval at each."""
    if not any(strata):
        return [NOTHING] * len(thresholds)
    return _intervals(strata, lambda values: np.stack([np.mean(values <= t, axis=-1) for t in thresholds]))


def _intervals(strata: Strata, statistics: Callable[[Array], Any]) -> list[Interval]:
    """Statistics of all values, along the last axis, each with its interval.

    A stratum of one value stays as it is in every draw: scipy asks for two.
    """
    samples = [np.asarray(stratum, dtype=float) for stratum in strata if len(stratum)]
    if not samples:
        return [NOTHING]
    count, seeds = sum(map(len, samples)), median_low(map(len, samples))
    estimates = statistics(np.concatenate(samples))
    drawn = [sample for sample in samples if len(sample) > 1]
    if not drawn:
        return [Interval(float(e), math.nan, math.nan, count, seeds) for e in estimates]
    alone = np.asarray([sample[0] for sample in samples if len(sample) == 1])

    def pooled(*resampled: Array, axis: int) -> Any:
        fixed = np.broadcast_to(alone, (*resampled[0].shape[:-1], len(alone)))
        return statistics(np.concatenate([*resampled, fixed], axis=axis))

    found = stats.bootstrap(
        drawn,
        pooled,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // count),
        vectorized=True,
        axis=-1,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    # Sums round differently in another order of the values: an interval holds its own estimate all the same.
    return [
        Interval(float(e), min(float(low), float(e)), max(float(high), float(e)), count, seeds)
        for e, low, high in zip(estimates, found.low, found.high, strict=True)
    ]


def paired_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where no pair differs."""
    if not any(differences):
        return 1.0
    p = float(stats.wilcoxon(differences, zero_method="zsplit").pvalue)
    return p if math.isfinite(p) else 1.0


def least_p(pairs: int) -> float:
    """What Wilcoxon's test says when every pair points the same way: fewer pairs can never say less."""
    return 1.0 if pairs == 0 else min(1.0, 2.0 ** (1 - pairs))


def exceeds(share: tuple[int, int], expected: float) -> float:
    """One-sided p-value of a binomial test: that so many of so many are more than an expected part; 1 of none.

    Args:
        share: So many, and of how many.
    """
    held, of = share
    return float(stats.binomtest(held, of, expected, alternative="greater").pvalue) if of else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for how many there are, by name (Holm, 1979, Scandinavian Journal of Statistics 6, 65-70)."""
    ranked = sorted(p_values, key=lambda name: (p_values[name], name))
    raised = [min(1.0, p_values[name] * (len(ranked) - i)) for i, name in enumerate(ranked)]
    return {name: max(raised[: i + 1]) for i, name in enumerate(ranked)}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; NaN where there are fewer than three pairs, or one side is all the same."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)
