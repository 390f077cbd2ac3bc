"""The tables of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from statistics import median

from agenttune.bench.cell import NONE
from agenttune.bench.metrics import WORST_REGRET, CellFigures
from agenttune.bench.noise import ENOUGH_PAIRS, GUESSED_BAND, LEAST_BAND, NoiseBand
from agenttune.bench.report.content import Entry, FileLink, Table
from agenttune.bench.report.words import (
    NOT_THERE,
    change,
    fault_words,
    figure,
    interval,
    interventions_words,
    p_value,
    percent,
    share,
    share_percent,
)
from agenttune.bench.standings import Agreement, Standing
from agenttune.bench.statistics import Interval
from agenttune.protocol.text import clean, dollars, number, tokens

LOSSES, LOSSES_OF_ONE = 15, 4
"""Losing cells that are named, of each sort and of one contender (a guess at what anybody reads)."""
LinkOf = Callable[[CellFigures], str | None]


def leaderboard(found: Sequence[Standing]) -> Table:
    """Who stands where, references among them."""
    rows = [
        [
            _named(s),
            interval(s.regret),
            interval(s.mean_regret),
            NOT_THERE if s.against_none is None else percent(s.against_none.improvement),
            s.verdict or NOT_THERE,
            f"{share(s.harmed)}{', beyond chance' if s.harms else ''}",
            share(s.failed),
            p_value(s.p) if s.verdict is not None else NOT_THERE,
            str(s.cells),
        ]
        for s in found
    ]
    about = (
        "Best first, by the interquartile mean of normalized regret: 0 is the best constant rate without the fault, "
        "1 is doing nothing, more is worse than nothing. In brackets: 95 % intervals, by a bootstrap within scenarios. "
        f"A failed cell counts as a regret of {WORST_REGRET:.0f} where there is a regret, and no regret as more; a "
        "training that diverges has learnt nothing, however far it went: its loss counts as at most the start plus the "
        "way from it to a good end. Harm: healthy runs that end worse than doing nothing beyond the noise; who does "
        "that more often than the one in twenty that chance has (binomial test, corrected for as many contenders as "
        "there are) stands behind all others. p: of Wilcoxon's paired test "
        "against doing nothing, corrected for as many contenders as there are (Holm). With *: references, which are no "
        "contenders."
    )
    columns = (
        "contender",
        "regret (IQM)",
        "regret (mean)",
        "better than nothing",
        "verdict",
        "harm",
        "failed",
        "p",
        "cells",
    )
    return Table("Leaderboard", columns, rows, about, texts=frozenset({0, 4}))


def _named(standing: Standing) -> str:
    return f"{clean(standing.contender, 60)}{' *' if standing.is_reference else ''}"


def course(found: Sequence[Standing]) -> Table:
    """The whole course of training, not its end alone."""
    rows = [
        [
            _named(s),
            interval(s.area),
            interval(s.log_regret),
            share_percent(s.on_target),
            number(s.steps_to_target),
            figure(s.seconds_to_target, 1),
            change(s.equal_time.estimate),
            share(s.crashed),
            share(s.recovered),
            share(s.worse),
        ]
        for s in found
    ]
    about = (
        "Anytime area: mean place over the budget of steps, 1 as at the start and 0 as the oracle's end. Log-regret: "
        "ln(loss / oracle's loss), of positive losses. Steps to target: what never reaches it counts as twice its "
        "budget; seconds: of those that reach it, waiting included. At equal time: mean difference to doing nothing "
        "when that one had ended by the clock (seconds are of this machine; less is better). Crashed: an evaluation "
        "that is not finite, worse than the start, or gives back half of what was gained. Worse: than doing nothing "
        "beyond the noise, in any cell."
    )
    columns = (
        "contender",
        "anytime area",
        "log-regret",
        "on target",
        "steps to it",
        "seconds to it",
        "at equal time",
        "crashed",
        "recovered",
        "worse",
    )
    return Table("The whole course", columns, rows, about)


def cost_table(found: Sequence[Standing]) -> Table:
    """What was asked for and what it took."""
    rows = [
        [
            _named(s),
            str(s.asked),
            str(s.taken),
            str(s.refused),
            str(s.expired),
            str(s.reverted),
            number(s.extra_steps),
            number(s.extra_evaluations),
            NOT_THERE if s.slowdown != s.slowdown else f"x{s.slowdown:.2f}",
            str(s.calls),
            tokens(s.tokens),
            dollars(s.usd),
        ]
        for s in found
    ]
    about = (
        "Interventions of all cells: asked for, taken, refused by the gate, expired, reverted by probation. Extra "
        "steps: paid for in a cell and not part of the training that was delivered; extra evaluations: beside those of "
        "the script's own plan, for a look or a trial, and all that pilots made. Both are means of a cell. Time: wall "
        "time over that of doing nothing, waiting included."
    )
    columns = (
        "contender",
        "asked",
        "taken",
        "refused",
        "expired",
        "reverted",
        "extra steps",
        "extra evaluations",
        "time",
        "calls",
        "tokens",
        "cost",
    )
    return Table("Interventions and costs", columns, rows, about)


def detection_table(found: Sequence[Standing]) -> Table | None:
    """Who saw what was wrong; None where nobody looked. Whoever has no detectors, as recipes have none, has dashes."""
    rows = [
        [
            _named(s),
            share_percent(s.detected),
            figure(s.steps_to_find, 0),
            figure(s.false_per_1000),
            share_percent(s.told),
            figure(s.told_per_1000),
            share(s.layers_named),
        ]
        for s in found
    ]
    if all(entry == NOT_THERE for row in rows for entry in row[1:]):
        return None
    about = (
        "Found: faults with an alarm (a finding that is a warning or worse) of a kind that counts, after the onset. "
        "False: alarms while nothing was wrong, in 1,000 such steps. Told, and told in vain: the same for findings of "
        "any severity, `info` too. A dash: without detectors nothing can be found."
    )
    columns = (
        "contender",
        "faults found",
        "steps until found",
        "false in 1,000 steps",
        "faults told",
        "told in vain in 1,000 steps",
        "right layer named",
    )
    return Table("Detection", columns, rows, about)


def losing_cells(figures: Sequence[CellFigures], link: LinkOf) -> list[Table]:
    """The worst cells by harm, and by regret, each by its name."""
    proper = [f for f in figures if not f.is_reference]
    harmed = sorted((f for f in proper if f.harmed), key=lambda f: (-(f.change or 0.0), f.scenario, f.seed))
    regretted = sorted(
        (f for f in proper if f.is_worse and not f.kind.is_healthy),
        key=lambda f: (-(f.regret or 0.0), -(f.change or 0.0), f.scenario, f.seed),
    )
    found = [
        ("Healthy runs that were harmed", "Worse than doing nothing beyond the noise, the worst first.", harmed),
        ("Others that were made worse", "Worse than doing nothing beyond the noise, the worst first.", regretted),
    ]
    return [_losing(title, about, cells, link) for title, about, cells in found if cells]


def named_cells(figures: Sequence[CellFigures]) -> list[CellFigures]:
    """Those that `losing_cells` shows: their runs' own reports are worth writing."""
    shown: list[CellFigures] = []

    def note(f: CellFigures) -> None:
        shown.append(f)

    losing_cells(figures, note)
    return shown


def _worst(cells: Sequence[CellFigures]) -> list[CellFigures]:
    """The first ones, but no more than some of each contender."""
    shown: Counter[str] = Counter()
    found = []
    for f in cells:
        shown[f.contender] += 1
        if shown[f.contender] <= LOSSES_OF_ONE:
            found.append(f)
    return found[:LOSSES]


def _losing(title: str, about: str, cells: Sequence[CellFigures], link: LinkOf) -> Table:
    rows: list[list[Entry]] = []
    for f in _worst(cells):
        href = link(f)
        seed = str(f.seed)
        rows.append(
            [
                clean(f.contender, 60),
                clean(f.scenario, 80),
                FileLink(f"{seed}, its run", href) if href else seed,
                number(f.value),
                NOT_THERE if f.none is None else number(f.shown(f.none)),
                change(f.change),
                figure(f.regret),
                fault_words(f.result.outcome),
                interventions_words(f.result.outcome),
            ]
        )
    left = len(cells) - len(rows)
    more = f" {left} more are not shown." if left > 0 else ""
    columns = (
        "contender",
        "scenario",
        "seed",
        "its value",
        "of doing nothing",
        "difference",
        "regret",
        "fault",
        "interventions",
    )
    return Table(title, columns, rows, about + more, texts=frozenset({0, 1, 7, 8}))


def raw_values(figures: Sequence[CellFigures], names: Sequence[str]) -> list[Table]:
    """Median of the metric in the end, by scenario and contender, a table a task."""
    found = []
    for task, cells in groupby(sorted(figures, key=lambda f: (f.facts.name, f.scenario)), lambda f: f.facts.name):
        own = list(cells)
        scenarios = sorted({f.scenario for f in own})
        present = [name for name in names if any(f.contender == name for f in own)]
        means = _means(own)
        rows = [
            [clean(s.removeprefix(f"{task}/"), 60), *(_median(means, s, name) for name in present)] for s in scenarios
        ]
        facts = own[0].facts
        less = "less" if facts.direction == "minimize" else "more"
        about = (
            f"{facts.metric} in the end, median over seeds; {less} is better. What failed or diverged (counted "
            "in brackets) is in it as far beyond the start as a good end is before it."
        )
        found.append(Table(clean(task, 60), ("scenario", *(clean(n, 60) for n in present)), rows, about))
    return found


def _means(figures: Sequence[CellFigures]) -> dict[tuple[str, str], list[CellFigures]]:
    found: dict[tuple[str, str], list[CellFigures]] = {}
    for f in figures:
        found.setdefault((f.scenario, f.contender), []).append(f)
    return found


def _median(means: Mapping[tuple[str, str], Sequence[CellFigures]], scenario: str, name: str) -> str:
    cells = means.get((scenario, name), [])
    if not cells:
        return NOT_THERE
    ruined = sum(f.is_ruined for f in cells)
    return f"{number(median(f.shown(f.loss) for f in cells))}{f' ({ruined})' if ruined else ''}"


def duels(improvements: Mapping[tuple[str, str], Interval], names: Sequence[str]) -> Table:
    """Everyone against everyone."""
    rows = []
    for first in names:
        own = [percent(improvements[first, second]) if first != second else "" for second in names]
        rows.append([clean(first, 60), *own])
    about = (
        "Probability that the row's contender ends better than the column's, paired by seed, ties half; 95 % intervals."
    )
    return Table("Everyone against everyone", ("contender", *(clean(n, 60) for n in names)), rows, about)


def agreement_table(found: Sequence[Agreement]) -> Table:
    """How far the simulators can be believed."""
    rows = [[clean(a.fault, 60), str(a.contenders), figure(a.correlation)] for a in found]
    about = (
        "Spearman's rank correlation of contenders' mean regrets in simulators (tier 0) and on real networks (tier 1): "
        "1 ranks them alike, 0 has nothing to do with one another. A dash: fewer than three contenders."
    )
    return Table("Simulators against real networks", ("fault", "contenders", "correlation"), rows, about)


def noise_table(bands: Mapping[str, NoiseBand]) -> Table:
    """What counts as noise."""
    rows = [
        [
            clean(task, 60),
            f"{100 * band.frac:.1f} %",
            f"{100 * band.measured:.1f} %" if band.pairs else NOT_THERE,
            str(band.pairs),
        ]
        for task, band in sorted(bands.items())
    ]
    about = (
        "Differences up to this part of the value mean nothing: 95 % of healthy `jitter` runs, which should end as "
        f"`{NONE}` does, end this near to it; {100 * LEAST_BAND:.0f} % at least. On fewer than {ENOUGH_PAIRS} pairs it "
        f"is a guess: {100 * GUESSED_BAND:.0f} %, or what they say if that is more."
    )
    return Table("Noise bands", ("task", "band", "measured", "on pairs"), rows, about)
