"""How the contenders stand, over all scenarios and seeds: the leaderboard, and the same by groups of scenarios."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low
from typing import NamedTuple, TypeVar

from agenttune.bench.cell import NONE
from agenttune.bench.metrics import NO_DAMAGE, CellFigures
from agenttune.bench.noise import BAND_QUANTILE
from agenttune.bench.pairs import Pairing, Verdict, by_key, pairing
from agenttune.bench.statistics import (
    ALPHA,
    FEWEST_SEEDS,
    Interval,
    exceeds,
    holm,
    interquartile_mean,
    mean,
    rank_correlation,
)

T = TypeVar("T")


class Share(NamedTuple):
    """So many of so many."""

    held: int
    of: int

    @property
    def frac(self) -> float:
        return self.held / self.of if self.of else math.nan


@dataclass(frozen=True)
class Standing:
    """One contender's figures over all its cells.

    Attributes:
        regret, mean_regret: Interquartile mean and mean of normalized regrets; failures are in both.
        undamaged: Cells of faults that did no damage, which have no regret.
        against_none: Paired with doing nothing; None for `none` itself, or without it.
        p: Corrected for as many contenders as there are.
        equal_time: Mean difference to `none` when that one had ended by the clock.
        steps_to_target: Mean; what did not reach it counts as twice its budget.
        seconds_to_target: Mean of those that did.
        harmed: Of healthy cells. `worse`: of all.
        harms: Whether that is more than chance would have: one in twenty equal runs lies outside of the noise band. Of
            fewer seeds than a claim needs nothing is claimed.
        recovered: Of those that crashed.
        detected, false_per_1000: By alarms: findings of a warning or worse. `told`, `told_per_1000`: of any severity.
        slowdown: Wall time over that of `none`, mean.
    """

    contender: str
    is_reference: bool
    cells: int
    failed: Share
    regret: Interval
    mean_regret: Interval
    log_regret: Interval
    undamaged: int
    against_none: Pairing | None
    p: float
    verdict: Verdict | None
    area: Interval
    equal_time: Interval
    on_target: Share
    steps_to_target: float
    seconds_to_target: float
    harmed: Share
    harms: bool
    worse: Share
    crashed: Share
    recovered: Share
    detected: Share
    told: Share
    steps_to_find: float
    layers_named: Share
    false_per_1000: float
    told_per_1000: float
    asked: int
    taken: int
    refused: int
    expired: int
    reverted: int
    tokens: int
    calls: int
    usd: float
    extra_steps: float
    extra_evaluations: float
    slowdown: float


def by_contender(figures: Iterable[CellFigures]) -> dict[str, list[CellFigures]]:
    """In the order in which they come."""
    return _grouped(figures, lambda f: f.contender)


def standings(figures: Sequence[CellFigures]) -> list[Standing]:
    """The leaderboard, best first: by interquartile mean of regrets, then by the mean difference to `none`.

    Who harms healthy runs beyond chance stands behind all who do not, and references where their figures put them.
    """
    cells = by_contender(figures)
    untouched = by_key(cells.get(NONE, []))
    proper = [name for name, own in cells.items() if not own[0].is_reference]
    pairs = {name: pairing(by_key(own), untouched) for name, own in cells.items() if name != NONE and untouched}
    p_values = holm({name: pairs[name].p for name in proper if name in pairs and pairs[name].pairs})
    by_chance = holm({name: exceeds(_share(cells[name], lambda f: f.harmed), 1 - BAND_QUANTILE) for name in proper})
    found = [
        _standing(
            name,
            own,
            untouched,
            pairs.get(name),
            p_values.get(name, math.nan),
            len(p_values),
            by_chance.get(name, 1.0) < ALPHA and _healthy_seeds(own) >= FEWEST_SEEDS,
        )
        for name, own in cells.items()
    ]
    return sorted(found, key=_place)


def _healthy_seeds(cells: Sequence[CellFigures]) -> int:
    """Seeds that most of a contender's healthy scenarios have."""
    seeds = Counter(f.scenario for f in cells if f.harmed is not None)
    return median_low(seeds.values()) if seeds else 0


def _place(standing: Standing) -> tuple[bool, float, float, str]:
    change = standing.against_none.mean.estimate if standing.against_none is not None else 0.0
    ranked = [math.inf if math.isnan(value) else value for value in (standing.regret.estimate, change)]
    return (standing.harms, ranked[0], ranked[1], standing.contender)


def _standing(
    name: str,
    cells: Sequence[CellFigures],
    untouched: Mapping[tuple[str, int], CellFigures],
    against: Pairing | None,
    p: float,
    comparisons: int,
    harms: bool,
) -> Standing:
    strata = list(_grouped(cells, lambda f: f.scenario).values())
    outcomes = [f.result.outcome for f in cells]
    healthy_steps = sum(f.detection.healthy_steps for f in cells)
    found_after = [f.detection.steps for f in cells if f.detection.steps is not None]
    reached = [f.reached.seconds for f in cells if f.reached is not None]
    pairs = [(f, untouched[f.scenario, f.seed]) for f in cells if (f.scenario, f.seed) in untouched]
    none_s = [(f.seconds, none.seconds) for f, none in pairs if not f.failed and not none.failed]
    regrets = _values(strata, lambda f: f.regret)
    return Standing(
        contender=name,
        is_reference=cells[0].is_reference,
        cells=len(cells),
        failed=_share(cells, lambda f: f.failed),
        regret=interquartile_mean(regrets),
        mean_regret=mean(regrets),
        log_regret=mean(_values(strata, lambda f: f.log_regret)),
        undamaged=sum(f.no_regret == NO_DAMAGE and not f.kind.is_healthy for f in cells),
        against_none=against,
        p=p,
        verdict=against.verdict(p, comparisons) if against is not None and not cells[0].is_reference else None,
        area=mean(_values(strata, lambda f: f.area)),
        equal_time=mean(_values(strata, lambda f: f.equal_time_change)),
        on_target=_share(cells, lambda f: f.reached is not None if f.has_target else None),
        steps_to_target=_mean(f.steps_to_target for f in cells if f.has_target),
        seconds_to_target=_mean(reached),
        harmed=_share(cells, lambda f: f.harmed),
        harms=harms,
        worse=_share(cells, lambda f: f.is_worse),
        crashed=_share(cells, lambda f: f.crashed),
        recovered=_share(cells, lambda f: f.recovered if f.crashed else None),
        detected=_share(cells, lambda f: f.detection.steps is not None if f.detection.is_asked else None),
        told=_share(cells, lambda f: f.detection.is_told if f.detection.is_asked else None),
        steps_to_find=_mean(found_after),
        layers_named=_share(cells, lambda f: f.detection.layer_named),
        false_per_1000=_per_1000(sum(f.detection.false for f in cells), healthy_steps),
        told_per_1000=_per_1000(sum(f.detection.false_told for f in cells), healthy_steps),
        asked=sum(f.states.total() for f in cells),
        taken=sum(f.taken for f in cells),
        refused=sum(f.refused for f in cells),
        expired=sum(f.expired for f in cells),
        reverted=sum(f.states["reverted"] for f in cells),
        tokens=sum(o.tokens_in + o.tokens_out for o in outcomes),
        calls=sum(o.calls for o in outcomes),
        usd=sum(o.usd for o in outcomes),
        extra_steps=fmean(f.extra_steps for f in cells),
        extra_evaluations=fmean(f.extra_evaluations for f in cells),
        slowdown=_mean(own / none for own, none in none_s if none > 0),
    )


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else math.nan


def _share(cells: Iterable[CellFigures], holds: Callable[[CellFigures], bool | None]) -> Share:
    asked = [held for held in map(holds, cells) if held is not None]
    return Share(sum(asked), len(asked))


def _per_1000(count: int, steps: int) -> float:
    return 1000 * count / steps if steps else math.nan


def _values(strata: Iterable[Sequence[CellFigures]], of: Callable[[CellFigures], float | None]) -> list[list[float]]:
    found = [[value for value in map(of, cells) if value is not None] for cells in strata]
    return [values for values in found if values]


def _grouped(figures: Iterable[CellFigures], key: Callable[[CellFigures], str]) -> dict[str, list[CellFigures]]:
    found: dict[str, list[CellFigures]] = defaultdict(list)
    for f in figures:
        found[key(f)].append(f)
    return dict(found)


class Tile(NamedTuple):
    """What one contender made of some scenarios: mean regret where damage was done, mean difference to `none`."""

    regret: float
    change: float
    cells: int


def tiles(figures: Iterable[CellFigures], key: Callable[[CellFigures], str]) -> dict[str, dict[str, Tile]]:
    """By group of scenarios, and contender.

    Args:
        key: The group that a cell belongs to.
    """
    return {
        group: {name: _tile(own) for name, own in by_contender(cells).items()}
        for group, cells in _grouped(figures, key).items()
    }


def _tile(cells: Sequence[CellFigures]) -> Tile:
    regrets = [f.regret for f in cells if f.regret is not None]
    changes = [f.change for f in cells if f.change is not None]
    return Tile(fmean(regrets) if regrets else math.nan, fmean(changes) if changes else math.nan, len(cells))


class Agreement(NamedTuple):
    """Whether simulators rank contenders as real networks do, for one fault.

    Attributes:
        correlation: Spearman's, of mean regrets; NaN for fewer than three contenders.
    """

    fault: str
    contenders: int
    correlation: float


def agreements(figures: Sequence[CellFigures]) -> list[Agreement]:
    """By fault that both simulators and real networks suffered, and last of all faults together."""
    faulty = [f for f in figures if f.regret is not None and not f.kind.is_healthy]
    proper = [f for f in faulty if not f.is_reference]
    found: list[Agreement] = []
    every: tuple[list[float], list[float]] = ([], [])
    for fault, cells in sorted(_grouped(proper, lambda f: f.kind.name).items()):
        simulated, real = (tiles((f for f in cells if f.facts.tier == tier), lambda f: "") for tier in (0, 1))
        names = sorted(simulated.get("", {}).keys() & real.get("", {}).keys())
        if names:
            pairs = [[side[""][name].regret for name in names] for side in (simulated, real)]
            found.append(Agreement(fault, len(names), rank_correlation(*pairs)))
            every[0].extend(pairs[0])
            every[1].extend(pairs[1])
    return [*found, Agreement("all of them", len(every[0]), rank_correlation(*every))] if found else []
