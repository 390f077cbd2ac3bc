"""How much runs differ that should be equal: what counts as a difference at all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import JITTER, NONE, CellResult
from agenttune.bench.faults import FAULTS, FaultKind

GUESSED_BAND = 0.1
"""Noise as a part of the value where `jitter` has not measured it (the issue's)."""
BAND_QUANTILE, LEAST_BAND = 0.95, 0.01
"""The band holds so many of the differences measured; less than one in a hundred nobody would call harm (a guess)."""
ENOUGH_PAIRS = 20
"""So many are needed to see what one in twenty does; of fewer the band is no narrower than the guess."""


class NoiseBand(NamedTuple):
    """Differences up to a part of the value that mean nothing.

    Attributes:
        frac: That part.
        measured: What the pairs say alone; NaN without any.
        pairs: Of `jitter` and `none` that it rests on.
    """

    frac: float
    measured: float
    pairs: int


NO_BAND = NoiseBand(GUESSED_BAND, math.nan, 0)


def noise_bands(
    results: Sequence[CellResult],
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
) -> dict[str, NoiseBand]:
    """By task, how much healthy runs differ that should be equal: `jitter` beside `none`, of all scenarios together."""
    ends: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for result in results:
        cell, kind = result.cell, kinds.get(result.cell.scenario.fault)
        # A training that diverges is chaotic: noise there says nothing of runs that are well.
        is_healthy = kind is not None and kind.is_healthy
        if is_healthy and cell.contender in (NONE, JITTER) and result.outcome.trained is not None:
            ends[cell.scenario.task, cell.scenario.name, cell.seed][cell.contender] = result.outcome.trained.final
    found: dict[str, list[float]] = defaultdict(list)
    for (task, _, _), pair in ends.items():
        if task in tasks and len(pair) == 2 and all(map(math.isfinite, pair.values())):
            found[task].append(abs(relative(pair[JITTER], pair[NONE])))
    return {task: _band(values) for task, values in found.items()}


def _band(differences: Sequence[float]) -> NoiseBand:
    """An observed difference that so many do not exceed: between two of them, more would lie outside than is said."""
    measured = float(np.quantile(differences, BAND_QUANTILE, method="higher"))
    least = LEAST_BAND if len(differences) >= ENOUGH_PAIRS else GUESSED_BAND
    return NoiseBand(max(least, measured), measured, len(differences))


def relative(value: float, other: float) -> float:
    """The difference over the larger of both, from -2 to 2; the other way round it is the negative."""
    largest = max(abs(value), abs(other))
    return (value - other) / largest if largest else 0.0
