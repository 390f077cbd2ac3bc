"""What is aimed at: how contenders do by kind of trouble, and what they do to runs that are well."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from agenttune.bench.faults import FaultKind
from agenttune.bench.metrics import CellFigures
from agenttune.bench.standings import Share, by_contender
from agenttune.bench.statistics import Interval, interquartile_mean, mean

CLEARLY_FRAC = 0.01
"""A run that ends worse by more than this part counts as made worse (issue 13's; the noise band is wider)."""
TOO_HIGH, TOO_LOW, COLLAPSED, DATA, REST = (
    "rate too high",
    "rate too low",
    "collapsed schedule",
    "data or overfitting",
    "layers, plateau, earlier interventions",
)
_BY_GROUP = {
    "rate too high": TOO_HIGH,
    "non-finite": TOO_HIGH,
    "rate too low": TOO_LOW,
    "data": DATA,
    "overfitting": DATA,
}
_BY_NAME = {"no_warmup": TOO_HIGH, "collapsed_schedule": COLLAPSED}


def trouble(kind: FaultKind) -> str:
    """Under which of the aims a fault falls."""
    return _BY_NAME.get(kind.name) or _BY_GROUP.get(kind.group, REST)


@dataclass(frozen=True)
class Aims:
    """One contender's figures.

    Attributes:
        regret, mean_regret: Over all faults that did damage, as the leaderboard has them.
        by_trouble: Mean regret, by `trouble`.
        data_change: Mean difference to doing nothing where data are faulty or training overfits.
        data_worse: Of these runs, those that end worse than doing nothing by more than `CLEARLY_FRAC`.
        healthy_changes: Changes made to runs that are well, all together; `healthy_changed`: runs that had any.
        healthy_worse, healthy_change: As of the data.
        trial_frac, healthy_trial_frac: Steps of trials and pilots, as a part of the budget.
        repeated_frac: Steps that going back undid, likewise.
        found: By `trouble`: faults found before the training was lost.
        critical_per_10000: Critical findings in so many steps in which nothing was wrong.
        layers_named: Of the faults that strike one layer.
        tokens_per_call: Of language models, what is asked and what is answered; NaN without calls.
        log_regret: Mean of ln(loss / oracle's loss) over all runs, those that are well included.
    """

    contender: str
    is_reference: bool
    regret: Interval
    mean_regret: Interval
    by_trouble: Mapping[str, Interval]
    data_change: Interval
    data_worse: Share
    healthy_changes: int
    healthy_changed: Share
    healthy_worse: Share
    healthy_change: Interval
    trial_frac: float
    healthy_trial_frac: float
    repeated_frac: float
    found: Mapping[str, Share]
    critical_per_10000: float
    layers_named: Share
    tokens_per_call: float
    log_regret: Interval


def aims(figures: Sequence[CellFigures], order: Sequence[str]) -> list[Aims]:
    """Of each contender.

    Args:
        order: Their names, as they are to be told.
    """
    cells = by_contender(figures)
    return [_aims(name, cells[name]) for name in order]


def _aims(name: str, cells: Sequence[CellFigures]) -> Aims:
    healthy = [f for f in cells if f.kind.is_healthy]
    faulty: dict[str, list[CellFigures]] = defaultdict(list)
    for f in cells:
        if not f.kind.is_healthy:
            faulty[trouble(f.kind)].append(f)
    data = faulty.get(DATA, [])
    steps = sum(f.detection.healthy_steps for f in cells)
    outcomes = [f.result.outcome for f in cells]
    calls = sum(o.calls for o in outcomes)
    critical = sum(f.detection.false_critical for f in cells)
    regrets = _values(cells, lambda f: f.regret)
    return Aims(
        contender=name,
        is_reference=cells[0].is_reference,
        regret=interquartile_mean(regrets),
        mean_regret=mean(regrets),
        by_trouble={what: mean(_values(own, lambda f: f.regret)) for what, own in faulty.items()},
        data_change=mean(_values(data, lambda f: f.change)),
        data_worse=_worse(data),
        healthy_changes=sum(f.changes for f in healthy),
        healthy_changed=Share(sum(f.changes > 0 for f in healthy), len(healthy)),
        healthy_worse=_worse(healthy),
        healthy_change=mean(_values(healthy, lambda f: f.change)),
        trial_frac=_mean([f.trial_frac for f in cells]),
        healthy_trial_frac=_mean([f.trial_frac for f in healthy]),
        repeated_frac=_mean([f.repeated_frac for f in cells]),
        found={what: _in_time(own) for what, own in faulty.items()},
        critical_per_10000=10_000 * critical / steps if steps else math.nan,
        layers_named=_share([f.detection.layer_named for f in cells]),
        tokens_per_call=sum(o.tokens_in + o.tokens_out for o in outcomes) / calls if calls else math.nan,
        log_regret=mean(_values(cells, lambda f: f.log_regret)),
    )


def _values(cells: Sequence[CellFigures], of: Callable[[CellFigures], float | None]) -> list[list[float]]:
    """By scenario, those that are known."""
    found: dict[str, list[float]] = defaultdict(list)
    for f in cells:
        if (value := of(f)) is not None:
            found[f.scenario].append(value)
    return list(found.values())


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _share(held: Sequence[bool | None]) -> Share:
    asked = [one for one in held if one is not None]
    return Share(sum(asked), len(asked))


def _worse(cells: Sequence[CellFigures]) -> Share:
    return _share([None if f.change is None else f.change > CLEARLY_FRAC for f in cells])


def _in_time(cells: Sequence[CellFigures]) -> Share:
    return _share([f.detection.is_in_time if f.detection.is_asked else None for f in cells])
