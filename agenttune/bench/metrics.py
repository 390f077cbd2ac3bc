"""The figures of each cell, measured against doing nothing and against the best constant rate of the same seed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import NONE, ORACLE, CellResult
from agenttune.bench.contenders.shipped import is_reference
from agenttune.bench.curve_figures import (
    Reached,
    Scale,
    anytime_area,
    at_seconds,
    crashed_at,
    first_within,
    has_recovered,
)
from agenttune.bench.detection import Detection, detection
from agenttune.bench.faults import FAULTS, FaultKind
from agenttune.bench.noise import NO_BAND, noise_bands, relative
from agenttune.errors import ConfigError
from agenttune.protocol.proposals import TOOK_EFFECT, State

WORST_REGRET, BEST_REGRET = 3.0, -1.0
"""Normalized regrets beyond are cut, so that one cell does not decide a mean; a failed cell has the worst (a guess)."""
CEILING = 1.0
"""Losses count as no more than the start and so many times the way from it to a good end: how far beyond a training
has diverged says nothing, and one of 1e300 would decide every mean, and make any other end look good (a guess)."""
NO_DAMAGE = "no damage done"
LEAST_WAY = 0.1
"""Of the start's own size: so far it is at least from there to a good end (a guess)."""
SMALL_GAP = 0.5
"""A seed in which the damage was less than this part of the scenario's median is measured by the median (a guess)."""
MISSED = 2
"""A target that is not reached counts as so many budgets, as in PAR2 of algorithm configuration."""
LOSS = "eval_loss"
"""The metric that is the training loss on other rows."""
WAITED = frozenset({State.EXPIRED, State.SUPERSEDED})


@dataclass(frozen=True)
class CellFigures:
    """A cell's figures. Whatever compares is by loss: of a metric that is to be maximized, the negative.

    Attributes:
        kind: Of its fault.
        facts: Of its task.
        value: The metric in the end, as it is; NaN where the cell failed.
        loss: The same as a loss that is always finite: no more than `CEILING` says, as what failed or diverged counts.
        start: Loss before anything is learnt.
        none, oracle: That of doing nothing, and of the best constant rate, of the same seed.
        band: Differences of losses up to this mean nothing, for this task at the value of `none`.
        regret: (loss - oracle) / (none - oracle), cut: 0 is the oracle, 1 doing nothing. Where the fault damaged this
            seed much less than most of its scenario, the median of their damage divides. A cell that failed, or
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
        trial_steps: Those of trials and pilots.
        extra_evaluations: Beside those of the script's own plan: for looks and trials, and all that pilots made.
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
    trial_steps: int
    extra_evaluations: int
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
    def is_reference(self) -> bool:
        return is_reference(self.result.cell)

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
        return self.states[State.REJECTED]

    @property
    def expired(self) -> int:
        return sum(self.states[state] for state in WAITED)

    @property
    def taken(self) -> int:
        """Interventions that took effect, also those that were undone later."""
        return sum(self.states[state] for state in TOOK_EFFECT)

    @property
    def changes(self) -> int:
        """Interventions that training went by something else after."""
        return sum(i.is_change for i in self.result.outcome.interventions)

    @property
    def trial_frac(self) -> float:
        """Steps of trials as a part of the budget."""
        return self.trial_steps / self.budget

    @property
    def repeated_frac(self) -> float:
        """Steps that going back undid, as a part of the budget."""
        return max(0, self.extra_steps - self.trial_steps) / self.budget

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
            bands.get(found[0].cell.scenario.task, NO_BAND).frac,
            lookers,
        )
        for name, found in groups.items()
    }
    found = [scenarios[result.cell.scenario.name].figures(result) for result in results]
    untouched = {(f.scenario, f.seed): f for f in found if f.contender == NONE}
    return [
        _against(f, untouched.get((f.scenario, f.seed)), bands.get(f.result.cell.scenario.task, NO_BAND).frac)
        for f in found
    ]


def _against(figures: CellFigures, none: CellFigures | None, band_frac: float) -> CellFigures:
    """With what compares it to doing nothing."""
    if none is None:
        return figures
    # By the measure that the band was taken with: else pairs that made the band would lie outside of it.
    is_beyond = relative(figures.loss, none.loss) > band_frac
    is_worse = is_beyond or figures.failed or (figures.is_ruined and not none.is_ruined)
    return replace(figures, change=difference(figures, none), is_worse=is_worse)


def _looks(result: CellResult) -> bool:
    """Whether its contender has detectors, as policies have; one that fails in another cell has them all the same."""
    trained = result.outcome.trained
    return bool(result.outcome.findings) or (trained is not None and trained.run_id is not None)


def _known(found: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in found:
        raise ConfigError(
            f"the results are of the {what} {name!r}, which this agenttune does not have; there are: "
            f"{', '.join(sorted(found))}. Report them with the version that made them.",
            allowed=sorted(found),
        )
    return found[name]


class _Scenario:
    """What the cells of one scenario are measured by: `none` and `oracle` alone, whoever else takes part.

    Attributes:
        gap: How much worse `none` ends than `oracle`, the median over seeds; None: not known.
        is_damaged: Whether that is more than noise: decided once for all seeds, as one seed's `none` is noisy itself.
    """

    def __init__(
        self, results: Sequence[CellResult], facts: TaskFacts, kind: FaultKind, band: float, lookers: Set[str]
    ) -> None:
        self.facts, self.kind, self._band, self._lookers = facts, kind, band, lookers
        self._sign = -1.0 if facts.direction == "maximize" else 1.0
        self._curves = {id(result): self._curve(result) for result in results}
        self._references = {
            (result.cell.contender, result.cell.seed): result
            for result in results
            if result.cell.contender in (NONE, ORACLE)
        }
        firsts = [first for result in self._references.values() if (first := self._first(result)) is not None]
        self._usual_start = median(firsts or [0.0])
        seeds = {seed for _, seed in self._references}
        ends = [(self._reference(NONE, seed), self._reference(ORACLE, seed)) for seed in seeds]
        pairs = [(none, oracle) for none, oracle in ends if none is not None and oracle is not None]
        self.gap = median(none - oracle for none, oracle in pairs) if pairs else None
        # Nor in healthy runs: what little a constant rate found by grid gains there would make every figure large.
        self.is_damaged = (
            not kind.is_healthy
            and self.gap is not None
            and self.gap > band * median(abs(oracle) for _, oracle in pairs)
        )

    def figures(self, result: CellResult) -> CellFigures:
        """Those of one of its cells."""
        cell, outcome, curve = result.cell, result.outcome, self._curves[id(result)]
        loss, start = self._loss(result), self._start(result)
        none, oracle = self._reference(NONE, cell.seed), self._reference(ORACLE, cell.seed)
        band = self._band * abs(loss if none is None else none)
        regret, no_regret = self._regret(result, loss, none, oracle)
        budget = cell.scenario.recipe.steps
        crash = crashed_at(curve, start, self._band * abs(start))
        trained = outcome.trained
        return CellFigures(
            result=result,
            kind=self.kind,
            facts=self.facts,
            value=math.nan if trained is None or result.state == "failed" else trained.final,
            loss=loss,
            start=start,
            none=none,
            oracle=oracle,
            band=band,
            regret=regret,
            no_regret=no_regret,
            log_regret=self._log_regret(loss, oracle),
            change=None,
            area=None if oracle is None else anytime_area(curve, budget, Scale(start, oracle)),
            reached=first_within(curve, self._sign * self.facts.target),
            equal_time=self._at_equal_time(result, curve),
            crashed=not curve or crash is not None,
            recovered=bool(curve) and crash is not None and has_recovered(curve, crash, start, band),
            is_worse=None,
            detection=detection(
                outcome,
                _with_own(self.kind, cell.settings),
                budget,
                cell.contender in self._lookers,
                self._training_start(result, start),
            ),
            states=Counter(i.state for i in outcome.interventions),
            extra_steps=_extra_steps(result),
            trial_steps=_trial_steps(result),
            extra_evaluations=outcome.evaluations_before + (trained.extra_evaluations if trained is not None else 0),
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

    def _start(self, result: CellResult) -> float:
        """Before anything is learnt: of a seed's first weights, which are the same whoever trains them."""
        none = self._references.get((NONE, result.cell.seed))
        before = None if none is None or none.outcome.trained is None else none.outcome.trained.start
        if before is not None and math.isfinite(before):
            return self._sign * before
        if self.facts.chance is not None:
            return self._sign * self.facts.chance
        known = [None if none is None else self._first(none), self._first(result), self._usual_start]
        return next(first for first in known if first is not None)

    def _training_start(self, result: CellResult, start: float) -> float | None:
        """Of the training loss: what is evaluated, where that is a loss too, else the first one that was recorded."""
        if self.facts.direction == "maximize" or result.outcome.trained is None:
            return None
        losses = result.outcome.trained.losses
        first = start if self.facts.metric == LOSS else losses[0][2] if losses else math.nan
        return first if first > 0 and math.isfinite(first) else None

    def _first(self, result: CellResult) -> float | None:
        """The first evaluation of a run, for want of one before it."""
        curve = self._curves[id(result)]
        return curve[0].loss if curve and math.isfinite(curve[0].loss) else None

    def _ceiling(self, result: CellResult) -> float:
        start, target = self._start(result), self._sign * self.facts.target
        ends = [
            self._end(found) for name in (NONE, ORACLE) if (found := self._references.get((name, result.cell.seed)))
        ]
        good = min([end for end in [target, *ends] if math.isfinite(end)], default=start)
        return start + CEILING * max(start - good, LEAST_WAY * abs(start))

    def _end(self, result: CellResult) -> float:
        curve = self._curves[id(result)]
        return curve[-1].loss if curve else math.nan

    def _loss(self, result: CellResult) -> float:
        ceiling = self._ceiling(result)
        return min(self._end(result), ceiling) if self._is_finite(result) else ceiling

    def _reference(self, name: str, seed: int) -> float | None:
        found = self._references.get((name, seed))
        return None if found is None else self._loss(found)

    def _regret(
        self, result: CellResult, loss: float, none: float | None, oracle: float | None
    ) -> tuple[float | None, str]:
        if self.gap is not None and not self.is_damaged:
            return None, NO_DAMAGE
        if self.is_damaged and result.state == "failed":
            return WORST_REGRET, ""
        if self.gap is None or none is None or oracle is None:
            return None, f"no `{NONE if none is None else ORACLE}` of this seed to measure by"
        if not self._is_finite(result) and self._is_finite(self._references[NONE, result.cell.seed]):
            return WORST_REGRET, ""
        gap = none - oracle if none - oracle >= SMALL_GAP * self.gap else self.gap
        return min(WORST_REGRET, max(BEST_REGRET, (loss - oracle) / gap)), ""

    def _is_finite(self, result: CellResult) -> bool:
        return math.isfinite(self._end(result))

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
        ceiling = self._ceiling(result)
        return min(at_seconds(curve, none.outcome.trained.seconds, self._start(result), ceiling), ceiling)


def _extra_steps(result: CellResult) -> int:
    trained = result.outcome.trained
    if trained is None:
        return result.outcome.steps_before
    delivered = trained.evaluations[-1].step if trained.evaluations else trained.total_steps
    return result.outcome.steps_before + max(0, trained.total_steps - delivered)


def _trial_steps(result: CellResult) -> int:
    trained = result.outcome.trained
    in_training = 0 if trained is None else trained.probe_steps
    # Results of before do not tell trials from repeated steps: all count as trials.
    return _extra_steps(result) if in_training is None else result.outcome.steps_before + in_training


def _with_own(kind: FaultKind, settings: Mapping[str, Any]) -> FaultKind:
    """A fault's kind that findings of the user's own detectors count for too, as the suite says."""
    own = [name for name, faults in settings.get("finds", {}).items() if kind.name in faults]
    return kind.model_copy(update={"findings": [*kind.findings, *own]}) if own else kind
