"""Two contenders, seed by seed: who ends better, by how much, and whether that can be told from chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from agenttune.bench.metrics import CellFigures, difference
from agenttune.bench.statistics import ALPHA, FEWEST_SEEDS, Interval, improvement, least_p, mean, paired_test

Verdict = Literal[
    "better",
    "worse",
    "mixed",
    "the same in every pair",
    "no difference shown",
    "too few seeds for a claim",
    "no pairs",
]
ByKey = Mapping[tuple[str, int], CellFigures]


@dataclass(frozen=True)
class Pairing:
    """Differences of two contenders in the cells that both did; less than 0: the first is better.

    Attributes:
        differences: By scenario, one a seed, as `metrics.difference` has them.
    """

    differences: Mapping[str, Sequence[float]]

    @property
    def every(self) -> list[float]:
        return [d for found in self.differences.values() for d in found]

    @property
    def pairs(self) -> int:
        return len(self.every)

    @cached_property
    def mean(self) -> Interval:
        """Mean difference."""
        return mean(list(self.differences.values()))

    @cached_property
    def improvement(self) -> Interval:
        """Probability that the first is better."""
        return improvement(list(self.differences.values()))

    @cached_property
    def p(self) -> float:
        """Of Wilcoxon's test, not corrected."""
        return paired_test(self.every)

    def verdict(self, corrected_p: float, comparisons: int) -> Verdict:
        """What may be said of the first, in words.

        Both the seeds that most scenarios have and the pairs of all of them together must be enough: of many scenarios
        with few seeds, the pairs are many and the seeds are the same.

        Args:
            corrected_p: For as many comparisons as are made beside this one.
            comparisons: That many.
        """
        every = self.every
        if not every:
            return "no pairs"
        if self.mean.seeds < FEWEST_SEEDS:
            return "too few seeds for a claim"
        if not any(every):
            return "the same in every pair"
        if least_p(len(every)) * comparisons > ALPHA:
            return "too few seeds for a claim"
        if corrected_p >= ALPHA or not self.mean.excludes(0):
            return "no difference shown"
        is_better, often = self.mean.estimate < 0, self.improvement.estimate
        # A few large differences one way and many small ones the other: the test may speak for either.
        if often < 0.5 if is_better else often > 0.5:
            return "mixed"
        return "better" if is_better else "worse"


def by_key(figures: Iterable[CellFigures]) -> ByKey:
    """One contender's cells by scenario and seed."""
    return {(f.scenario, f.seed): f for f in figures}


def pairing(first: ByKey, second: ByKey) -> Pairing:
    """Pair the cells of two contenders that are of the same scenario and seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for key in sorted(first.keys() & second.keys()):
        found[key[0]].append(difference(first[key], second[key]))
    return Pairing(found)
