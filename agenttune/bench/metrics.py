"""The figures of each cell, measured against doing nothing and against the best constant rate of the same seed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import CellResult
from agenttune.bench.curves import Reached, Scale, anytime_area, at_seconds, crashed_at, first_within, has_recovered
from agenttune.bench.detection import Detection, detection
from agenttune.bench.faults import FAULTS, FaultKind
from agenttune.errors import ConfigError

NONE, ORACLE, JITTER = "none", "oracle", "jitter"
"""Contenders that others are measured by."""
WORST_REGRET, BEST_REGRET = 3.0, -1.0
"""Normalized regrets beyond are cut, so that one cell does not decide a mean; a failed cell has the worst (a guess)."""
GUESSED_BAND = 0.1
"""Noise between runs that should be equal, as a part of the value, where `jitter` has not measured it (the issue's)."""
BAND_QUANTILE, LEAST_BAND = 0.95, 0.01
"""The band holds so many of the differences measured; less than one in a hundred nobody would call harm (a guess)."""
CEILING = 1.0
"""Losses count as no more than the start and so many times the way from it to the best end: how far beyond a training
has diverged says nothing, and one of 1e300 would decide every mean, and make any other end look good (a guess)."""
MISSED = 2
"""A target that is not reached counts as so many budgets, as in PAR2 of algorithm configuration."""
WAITED = frozenset({"expired", "superseded"})
TAKEN = frozenset({"applied", "kept", "reverted"})


@dataclass(frozen=True)
class CellFigures:
    """A cell's figures. Whatever compares is by loss: of a metric that is to be maximized, the negative.

    Attributes:
        kind: Of its fault.
        facts: Of its task.
        value: The metric in the end, as it is; NaN where the cell failed.
        loss: The same as a loss that is always finite: what failed or diverged counts as the worst of the scenario, and
            none as more than `CEILING` says.
        start: Loss before anything is learnt.
        none, oracle: That of doing nothing, and of the best constant rate, of the same seed.
        band: Differences of losses up to this mean nothing, for this task at the value of `none`.
        regret: (loss - oracle) / (none - oracle), cut: 0 is the oracle, 1 doing nothing. A cell that failed, or
            diverged where `none` did not, has the worst. None: `no_regret` says why.
        log_regret: ln(value / oracle's), of a positive loss.
        change: Against `none`, as `difference` has it.
        area: Mean place over the budget, 1 as at the start, 0 as the oracle's end.
        reached: The first evaluation at the task's target.
        equal_time: Loss when `none` had ended, by the clock.
        crashed, recovered: Whether it lost what it had gained, and had it again in the end.
        is_worse: Whether it ends worse than `none` beyond the band; None without `none`.
        states: Interventions by their states.
        extra_steps: Paid for and not part of the training that was delivered: trials, pilots, repeated steps.
    """

    result: CellResult
    kind: FaultKind
    facts: TaskFacts
    value: float
    loss: float
    start: float
    none: float | None
    oracle: float | None
    band: float
    regret: float | None
    no_regret: str
    log_regret: float | None
    change: float | None
    area: float | None
    reached: Reached | None
    equal_time: float | None
    crashed: bool
    recovered: bool
    is_worse: bool | None
    detection: Detection
    states: Counter[str]
    extra_steps: int
    seconds: float

    @property
    def contender(self) -> str:
        return self.result.cell.contender

    @property
    def scenario(self) -> str:
        return self.result.cell.scenario.name

    @property
    def seed(self) -> int:
        return self.result.cell.seed

    @property
    def budget(self) -> int:
        return self.result.cell.scenario.recipe.steps

    @property
    def failed(self) -> bool:
        return self.result.state == "failed"

    @property
    def is_ruined(self) -> bool:
        """Whether it failed, or ended in NaN or infinity."""
        return not math.isfinite(self.value)

    @property
    def harmed(self) -> bool | None:
        """Worse than `none` where the right move was none; None elsewhere."""
        return self.is_worse if self.kind.is_healthy else None

    @property
    def refused(self) -> int:
        return self.states["rejected"]

    @property
    def expired(self) -> int:
        return sum(self.states[state] for state in WAITED)

    @property
    def taken(self) -> int:
        """Interventions that took effect, also those that were undone later."""
        return sum(self.states[state] for state in TAKEN)

    @property
    def equal_time_change(self) -> float | None:
        """The difference to `none` by the time that one had ended."""
        return None if self.none is None or self.equal_time is None else relative(self.equal_time, self.none)

    @property
    def has_target(self) -> bool:
        return not math.isnan(self.facts.target)

    @property
    def steps_to_target(self) -> int:
        return self.reached.total_steps if self.reached is not None else MISSED * self.budget

    def shown(self, loss: float) -> float:
        """A loss as the task's metric."""
        return -loss if self.facts.direction == "maximize" else loss


def difference(first: CellFigures, second: CellFigures) -> float:
    """How the first ends against the second, from -2 (better) to 2: the difference over the larger of both.

    What is ruined is worse by 2 than what is not, and no better or worse than what is ruined too.
    """
    if first.is_ruined or second.is_ruined:
        return 2.0 * (first.is_ruined - second.is_ruined)
    return relative(first.loss, second.loss)


def cell_figures(
    results: Sequence[CellResult],
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
) -> list[CellFigures]:
    """The figures of all cells of a benchmark, in their order.

    Args:
        tasks: Those of the results, by name.
        kinds: Of faults, by name.

    Raises:
        ConfigError: A result is of a task or fault that is not known.
    """
    groups: dict[str, list[CellResult]] = defaultdict(list)
    for result in results:
        groups[result.cell.scenario.name].append(result)
    bands = noise_bands(results, tasks, kinds)
    lookers = {result.cell.contender for result in results if _looks(result)}
    scenarios = {
        name: _Scenario(
            found,
            _known(tasks, found[0].cell.scenario.task, "task"),
            _known(kinds, found[0].cell.scenario.fault, "fault"),
            bands.get(found[0].cell.scenario.task, GUESSED_BAND),
            lookers,
        )
        for name, found in groups.items()
    }
    found = [scenarios[result.cell.scenario.name].figures(result) for result in results]
    untouched = {(f.scenario, f.seed): f for f in found if f.contender == NONE}
    return [_against(f, untouched.get((f.scenario, f.seed))) for f in found]


def _against(figures: CellFigures, none: CellFigures | None) -> CellFigures:
    """With what compares it to doing nothing."""
    if none is None:
        return figures
    is_worse = figures.loss - none.loss > figures.band or figures.failed or (figures.is_ruined and not none.is_ruined)
    return replace(figures, change=difference(figures, none), is_worse=is_worse)


def _looks(result: CellResult) -> bool:
    """Whether its contender has detectors, as policies have; one that fails in another cell has them all the same."""
    trained = result.outcome.trained
    return bool(result.outcome.findings) or (trained is not None and trained.run_id is not None)


def noise_bands(
    results: Sequence[CellResult],
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
) -> dict[str, float]:
    """By task, how much healthy runs differ that should be equal, as a part of the value: `jitter` beside `none`."""
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
    return {task: max(LEAST_BAND, float(np.quantile(values, BAND_QUANTILE))) for task, values in found.items()}


def relative(value: float, other: float) -> float:
    """The difference over the larger of both, from -2 to 2; the other way round it is the negative."""
    largest = max(abs(value), abs(other))
    return (value - other) / largest if largest else 0.0


def _known(found: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in found:
        raise ConfigError(
            f"the results are of the {what} {name!r}, which this agenttune does not have; there are: "
            f"{', '.join(sorted(found))}. Report them with the version that made them.",
            allowed=sorted(found),
        )
    return found[name]


class _Scenario:
    """What the cells of one scenario are measured by."""

    def __init__(
        self, results: Sequence[CellResult], facts: TaskFacts, kind: FaultKind, band: float, lookers: Set[str]
    ) -> None:
        self.facts, self.kind, self._band, self._lookers = facts, kind, band, lookers
        self._sign = -1.0 if facts.direction == "maximize" else 1.0
        curves = {id(result): self._curve(result) for result in results}
        known = [] if facts.chance is None else [self._sign * facts.chance]
        finite = [curve[-1].loss for curve in curves.values() if curve and math.isfinite(curve[-1].loss)]
        firsts = [curve[0].loss for curve in curves.values() if curve and math.isfinite(curve[0].loss)]
        self._start = median(known or firsts or [0.0])
        way = max(self._start - min(finite, default=self._start), 0.1 * abs(self._start))
        self._ceiling = self._start + CEILING * way
        self._worst = max([self._start, *(min(loss, self._ceiling) for loss in finite)])
        self._curves = curves
        self._references = {
            (result.cell.contender, result.cell.seed): result
            for result in results
            if result.cell.contender in (NONE, ORACLE)
        }

    def figures(self, result: CellResult) -> CellFigures:
        """Those of one of its cells."""
        cell, outcome, curve = result.cell, result.outcome, self._curves[id(result)]
        loss = self._loss(result)
        none, oracle = self._reference(NONE, cell.seed), self._reference(ORACLE, cell.seed)
        band = self._band * abs(loss if none is None else none)
        regret, no_regret = self._regret(result, loss, none, oracle)
        budget = cell.scenario.recipe.steps
        crash = crashed_at(curve, self._start, self._band * abs(self._start))
        trained = outcome.trained
        return CellFigures(
            result=result,
            kind=self.kind,
            facts=self.facts,
            value=math.nan if trained is None or result.state == "failed" else trained.final,
            loss=loss,
            start=self._start,
            none=none,
            oracle=oracle,
            band=band,
            regret=regret,
            no_regret=no_regret,
            log_regret=self._log_regret(loss, oracle),
            change=None,
            area=None if oracle is None else anytime_area(curve, budget, Scale(self._start, oracle)),
            reached=first_within(curve, self._sign * self.facts.target),
            equal_time=self._at_equal_time(result, curve),
            crashed=not curve or crash is not None,
            recovered=bool(curve) and crash is not None and has_recovered(curve, crash, self._start, band),
            is_worse=None,
            detection=detection(outcome, self.kind, budget, cell.contender in self._lookers),
            states=Counter(i.state for i in outcome.interventions),
            extra_steps=_extra_steps(result),
            seconds=outcome.seconds_before + (trained.seconds if trained is not None else 0.0),
        )

    def _curve(self, result: CellResult) -> list[Reached]:
        trained, outcome = result.outcome.trained, result.outcome
        if trained is None or result.state == "failed":
            return []
        found = [
            Reached(p.total_steps + outcome.steps_before, p.seconds + outcome.seconds_before, self._sign * p.value)
            for p in trained.evaluations
        ]
        end = Reached(
            trained.total_steps + outcome.steps_before,
            trained.seconds + outcome.seconds_before,
            self._sign * trained.final,
        )
        return found if found and found[-1].loss == end.loss else [*found, end]

    def _loss(self, result: CellResult) -> float:
        curve = self._curves[id(result)]
        return min(curve[-1].loss, self._ceiling) if self._is_finite(result) else self._worst

    def _reference(self, name: str, seed: int) -> float | None:
        found = self._references.get((name, seed))
        return None if found is None else self._loss(found)

    def _regret(
        self, result: CellResult, loss: float, none: float | None, oracle: float | None
    ) -> tuple[float | None, str]:
        if result.state == "failed":
            return WORST_REGRET, ""
        if none is None or oracle is None:
            return None, f"no `{NONE if none is None else ORACLE}` of this seed to measure by"
        if not self._is_finite(result) and self._is_finite(self._references[NONE, result.cell.seed]):
            return WORST_REGRET, ""
        # Nor in healthy runs: what little a constant rate found by grid gains there would make every figure large.
        if self.kind.is_healthy or none - oracle <= self._band * abs(oracle):
            return None, "no damage done"
        return min(WORST_REGRET, max(BEST_REGRET, (loss - oracle) / (none - oracle))), ""

    def _is_finite(self, result: CellResult) -> bool:
        curve = self._curves[id(result)]
        return bool(curve) and math.isfinite(curve[-1].loss)

    def _log_regret(self, loss: float, oracle: float | None) -> float | None:
        if oracle is None or self.facts.direction == "maximize" or loss <= 0 or oracle <= 0:
            return None
        return math.log(loss / oracle)

    def _at_equal_time(self, result: CellResult, curve: Sequence[Reached]) -> float | None:
        none = self._references.get((NONE, result.cell.seed))
        if none is None or none.outcome.trained is None:
            return None
        if result is none or not curve:
            return self._loss(result)
        return min(at_seconds(curve, none.outcome.trained.seconds, self._start, self._worst), self._ceiling)


def _extra_steps(result: CellResult) -> int:
    trained = result.outcome.trained
    if trained is None:
        return result.outcome.steps_before
    delivered = trained.evaluations[-1].step if trained.evaluations else trained.total_steps
    return result.outcome.steps_before + max(0, trained.total_steps - delivered)
