"""`agenttune bench compare A B`: two contenders, or one in two folders of results, scenario by scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import NONE, ORACLE, CellResult, Scenario
from agenttune.bench.faults import FAULTS, FaultKind
from agenttune.bench.metrics import CellFigures, cell_figures
from agenttune.bench.pairs import ByKey, Pairing, Verdict, by_key, pairing
from agenttune.bench.report.content import Page, Section, Table
from agenttune.bench.report.origin import origin
from agenttune.bench.report.words import change, interval, p_value, percent
from agenttune.bench.standings import by_contender
from agenttune.bench.statistics import Interval, holm, mean
from agenttune.errors import UserError
from agenttune.protocol.invalid_values import did_you_mean
from agenttune.protocol.text import clean, number, plural

Key = tuple[str, int]
"""Scenario and seed."""


@dataclass(frozen=True)
class ScenarioComparison:
    """Both in one scenario.

    Attributes:
        first, second: Mean of the metric in the end; what is ruined is in it as the worst.
        difference: Of the metric, first less second, in its own unit, by pairs.
        p: Corrected for as many scenarios as there are.
    """

    scenario: str
    first: float
    second: float
    difference: Interval
    pairing: Pairing
    p: float
    verdict: Verdict


@dataclass(frozen=True)
class SideBySide:
    """Both in all scenarios that both did; the first against the second."""

    first: str
    second: str
    scenarios: Sequence[ScenarioComparison]
    overall: Pairing
    verdict: Verdict
    unpaired: int
    results: Sequence[CellResult]


def compare(
    first: Sequence[CellResult],
    second: Sequence[CellResult],
    names: tuple[str, str],
    labels: tuple[str, str] | None = None,
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
) -> SideBySide:
    """Pair the cells of two contenders by scenario and seed.

    Args:
        first, second: Results in which they are; the same if both are in one folder.
        names: Of the contenders.
        labels: What they are called; default: by their names.

    Raises:
        UserError: There is no such contender.
    """
    own = [_cells_of(results, name) for results, name in zip((first, second), names, strict=True)]
    # Of another recipe a scenario of the same name is another one.
    common = {k for k in own[0].keys() & own[1].keys() if _scenario(own[0][k]) == _scenario(own[1][k])}
    unpaired = len(own[0].keys() | own[1].keys()) - len(common)
    own = [{k: result for k, result in side.items() if k in common} for side in own]
    keyed = _measured(own, [*first, *second], tasks, kinds)
    scenarios = sorted({scenario for scenario, _ in common})
    pairings = {s: pairing(*({k: f for k, f in side.items() if k[0] == s} for side in keyed)) for s in scenarios}
    p_values = holm({s: found.p for s, found in pairings.items()})
    overall = pairing(*keyed)
    return SideBySide(
        *(labels or names),
        [_of_scenario(s, keyed[0], keyed[1], pairings[s], p_values[s], len(scenarios)) for s in scenarios],
        overall,
        overall.verdict(overall.p, 1),
        unpaired,
        [result for side in own for result in side.values()],
    )


def _measured(
    sides: Sequence[Mapping[Key, CellResult]],
    results: Sequence[CellResult],
    tasks: Mapping[str, TaskFacts],
    kinds: Mapping[str, FaultKind],
) -> list[ByKey]:
    """Figures of both sides by the same measure: the references of the first folder that has them.

    Args:
        results: Of both folders, the first one's first.
    """
    scenarios = {key: _scenario(result) for side in sides for key, result in side.items()}
    references: dict[tuple[Key, str], CellResult] = {}
    for result in results:
        key, name = _key(result), result.cell.contender
        if name in (NONE, ORACLE) and scenarios.get(key) == _scenario(result):
            references.setdefault((key, name), result)
    labelled = [_labelled(result, f"side {i}") for i, side in enumerate(sides) for result in side.values()]
    figures = by_contender(cell_figures([*references.values(), *labelled], tasks, kinds))
    return [by_key(figures.get(f"side {i}", [])) for i in range(len(sides))]


def _labelled(result: CellResult, label: str) -> CellResult:
    return result.model_copy(update={"cell": result.cell.model_copy(update={"contender": label})})


def _key(result: CellResult) -> Key:
    return result.cell.scenario.name, result.cell.seed


def contenders_of_both(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[str]:
    """Names of those that are in both, of which there is one at least.

    Raises:
        UserError: There is none.
    """
    known = [{result.cell.contender: None for result in results} for results in (first, second)]
    both = [name for name in known[0] if name in known[1]]
    if not both:
        raise UserError(
            f"no contender is in both results: {', '.join(known[0]) or 'none'}; {', '.join(known[1]) or 'none'}"
        )
    return both


def _cells_of(results: Sequence[CellResult], name: str) -> dict[Key, CellResult]:
    known = sorted({result.cell.contender for result in results})
    if name not in known:
        raise UserError(
            f"no contender {name!r} in these results{did_you_mean(name, known)}; there are: "
            f"{', '.join(known) or 'none'}",
            allowed=known,
        )
    return {_key(result): result for result in results if result.cell.contender == name}


def _scenario(result: CellResult) -> Scenario:
    return result.cell.scenario


def _of_scenario(
    scenario: str,
    first: Mapping[tuple[str, int], CellFigures],
    second: Mapping[tuple[str, int], CellFigures],
    pairs: Pairing,
    p: float,
    comparisons: int,
) -> ScenarioComparison:
    keys = sorted(key for key in first.keys() & second.keys() if key[0] == scenario)
    ends = [(first[key].shown(first[key].loss), second[key].shown(second[key].loss)) for key in keys]
    return ScenarioComparison(
        scenario,
        fmean(a for a, _ in ends),
        fmean(b for _, b in ends),
        mean([[a - b for a, b in ends]]),
        pairs,
        p,
        pairs.verdict(p, comparisons),
    )


def comparison_page(found: SideBySide) -> Page:
    """The comparison as a report."""
    rows = [
        [
            clean(s.scenario, 80),
            str(s.pairing.pairs),
            number(s.first),
            number(s.second),
            _in_unit(s.difference),
            change(s.pairing.mean.estimate),
            percent(s.pairing.improvement),
            p_value(s.p),
            s.verdict,
        ]
        for s in found.scenarios
    ]
    about = (
        "Difference: first less second in the metric's own unit, mean over pairs of the same seed, with its 95 % "
        "interval; relative: over the larger of both, less is better. Probability that the first is better, ties half. "
        "p: Wilcoxon's, corrected for as many scenarios as there are (Holm). The verdict is of the first."
    )
    columns = ("scenario", "pairs", "first", "second", "difference", "relative", "first is better", "p", "verdict")
    table = Table("By scenario", columns, rows, about, texts=frozenset({0, 8}))
    return Page(
        title=f"{clean(found.first, 60)} against {clean(found.second, 60)}",
        says=list(sentences(found)),
        sections=[Section("By scenario", [table])] if rows else [],
        origin=origin(found.results),
        warnings=["TEST RANGE"] if any(r.cell.split == "test" for r in found.results) else [],
    )


def _in_unit(difference: Interval) -> str:
    if math.isnan(difference.low):
        return number(difference.estimate)
    return f"{number(difference.estimate)} [{number(difference.low)}, {number(difference.high)}]"


def sentences(found: SideBySide) -> list[str]:
    """The verdict in words, and what it rests on."""
    pairs, better = found.overall.pairs, [s.scenario for s in found.scenarios if s.verdict == "better"]
    worse = [s.scenario for s in found.scenarios if s.verdict == "worse"]
    first, second = clean(found.first, 40), clean(found.second, 40)
    told = [f"{first} against {second}: {found.verdict}."]
    if pairs:
        told.append(
            f"Over {plural(pairs, 'pair')} of {plural(len(found.scenarios), 'scenario')}: relative difference "
            f"{interval(found.overall.mean)} (less than 0: {first} is better), better in "
            f"{percent(found.overall.improvement)} of pairs, p {p_value(found.overall.p)}."
        )
    else:
        told.append("No scenario and seed was done by both.")
    for words, names in (("better", better), ("worse", worse)):
        if names:
            told.append(f"{first} is {words} in: {clean(', '.join(names), 400)}.")
    if found.unpaired:
        told.append(f"{plural(found.unpaired, 'cell')} of one of them alone are left out.")
    return told
