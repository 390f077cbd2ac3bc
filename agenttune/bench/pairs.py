"""Two contenders, seed by seed: who ends better, by how much, and whether that can be told from chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agenttune.bench.metrics import CellFigures, difference
from agenttune.bench.statistics import ALPHA, FEWEST_SEEDS, Interval, improvement, least_p, mean, paired_test

Verdict = Literal[
    "better",
    "worse",
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
        mean: Of them.
        improvement: Probability that the first is better.
        p: Of Wilcoxon's test, not corrected.
    """

    differences: Mapping[str, Sequence[float]]
    mean: Interval
    improvement: Interval
    p: float

    @property
    def pairs(self) -> int:
        return sum(map(len, self.differences.values()))

    def reversed(self) -> Pairing:
        """The second against the first."""
        return Pairing(
            {scenario: [-d for d in found] for scenario, found in self.differences.items()},
            self.mean.turned(0.0),
            self.improvement.turned(1.0),
            self.p,
        )

    def verdict(self, corrected_p: float, comparisons: int) -> Verdict:
        """What may be said of the first, in words.

        Args:
            corrected_p: For as many comparisons as are made beside this one.
            comparisons: That many.
        """
        every = [d for found in self.differences.values() for d in found]
        if not every:
            return "no pairs"
        if self.mean.seeds < FEWEST_SEEDS:
            return "too few seeds for a claim"
        if not any(every):
            return "the same in every pair"
        if least_p(len(every)) * comparisons > ALPHA:
            return "too few seeds for a claim"
        if corrected_p < ALPHA and self.mean.excludes(0):
            return "better" if self.mean.estimate < 0 else "worse"
        return "no difference shown"


def by_key(figures: Iterable[CellFigures]) -> ByKey:
    """One contender's cells by scenario and seed."""
    return {(f.scenario, f.seed): f for f in figures}


def pairing(first: ByKey, second: ByKey) -> Pairing:
    """Pair the cells of two contenders that are of the same scenario and seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for key in sorted(first.keys() & second.keys()):
        found[key[0]].append(difference(first[key], second[key]))
    strata = list(found.values())
    return Pairing(found, mean(strata), improvement(strata), paired_test([d for s in strata for d in s]))
