"""The report of a benchmark, put together from its results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median_low

from agenttune.bench.aims import aims
from agenttune.bench.catalog import TASKS, TaskFacts
from agenttune.bench.cell import NONE, ORACLE, CellResult
from agenttune.bench.contenders.shipped import gets_round
from agenttune.bench.faults import AS_IT_WAS, FAULTS, FaultKind
from agenttune.bench.metrics import CellFigures, cell_figures
from agenttune.bench.noise import NO_BAND, noise_bands
from agenttune.bench.pairs import by_key, pairing
from agenttune.bench.report import aims_tables, drawings, plots, tables
from agenttune.bench.report.content import Block, Page, Section, Table, Trace
from agenttune.bench.report.origin import mixed_code, origin
from agenttune.bench.report.words import interval, percent, share, traceback_ends
from agenttune.bench.standings import Standing, agreements, by_contender, standings
from agenttune.bench.statistics import FEWEST_SEEDS, Interval
from agenttune.errors import UserError
from agenttune.protocol.text import clean, plural

TRACES, TRACES_OF_ONE = 20, 3
"""Failed cells that are told with their traceback, and those of one contender; all are counted."""
NAMED_LOSERS = 5


def benchmark_page(
    results: Sequence[CellResult],
    title: str,
    command: str = "",
    tasks: Mapping[str, TaskFacts] = TASKS,
    kinds: Mapping[str, FaultKind] = FAULTS,
    link: tables.LinkOf = lambda f: None,
    notes: Sequence[str] = (),
) -> Page:
    """What some results say.

    Args:
        command: That made them, to be told.
        tasks: Of the results.
        kinds: Of faults.
        link: Where a cell's own report is, from the page; None: there is none.
        notes: To be told with the result.

    Raises:
        UserError: There are none, or they are of both ranges, or of two versions of one cell.
    """
    if not results:
        raise UserError("there are no results yet; make some with: agenttune bench suites/NAME.yaml")
    if len({result.cell.split for result in results}) > 1:
        raise UserError("these results are of the development and of the test range: report one of them at a time")
    _each_once(results)
    figures = cell_figures(results, tasks, kinds)
    found = standings(figures)
    names = [s.contender for s in found]
    styles = plots.series_of(drawings.shown_contenders(found) + [n for n in names if n not in _shown(found)])
    sections = [
        Section(
            "Leaderboard",
            _there(tables.leaderboard(found), _fewer_seeds(results), _rounds(figures), drawings.ranks(found)),
        ),
        Section("Aims", _aims(figures, names)),
        Section("Regret by scenario", drawings.heat_maps(figures, names)),
        Section("Losing cases", _losses(figures, link)),
        Section("Failures", _failures(figures)),
        Section("Learning curves", _curves(figures, found, styles)),
        Section(
            "Performance profiles",
            _there(drawings.profile_figure(figures, drawings.shown_contenders(found), styles)),
        ),
        Section("Costs", [tables.cost_table(found), *drawings.cost_figures(found, styles)]),
        Section("Detection", _there(tables.detection_table(found))),
        Section("The whole course", [tables.course(found)]),
        Section("Everyone against everyone", [_duels(figures, names)], is_folded=True),
        Section("Raw values", tables.raw_values(figures, names), is_folded=True),
        Section("Simulators against real networks", _agreement(figures)),
        Section("Noise", [_noise(results, figures, tasks, kinds)], is_folded=True),
    ]
    made_by = f"Made by: {command}" if command else ""
    return Page(
        title=title,
        says=[*_says(found, figures), *notes, *filter(None, [made_by])],
        sections=[section for section in sections if section.blocks],
        origin=origin(results),
        warnings=[*mixed_code(results), *_warnings(results, found)],
    )


def _aims(figures: Sequence[CellFigures], names: Sequence[str]) -> list[Block]:
    """Nothing of real runs: nobody knows what was wrong with them."""
    if all(f.kind.name == AS_IT_WAS.name for f in figures):
        return []
    found = aims(figures, names)
    return [aims_tables.glance_table(found), aims_tables.aims_table(found)]


def _each_once(results: Sequence[CellResult]) -> None:
    """Of two versions of a cell, nobody could say which one others are to be paired with."""
    seen: set[tuple[str, str, int]] = set()
    for result in results:
        cell = result.cell
        if (key := (cell.scenario.name, cell.contender, cell.seed)) in seen:
            raise UserError(
                f"{cell.contender} in {cell.scenario.name}, seed {cell.seed}, is in these results twice, made by "
                "another code or with other settings: report them one at a time, or put them side by side with: "
                "agenttune bench compare A B"
            )
        seen.add(key)


def _rounds(figures: Sequence[CellFigures]) -> str | None:
    """Which contenders do well in which faults because these never reach them."""
    found: dict[str, set[str]] = defaultdict(set)
    for f in figures:
        if gets_round(f.result.cell):
            found[f.contender].add(f.kind.name)
    faults = {name: ", ".join(sorted(kinds)) for name, kinds in found.items()}
    told = [f"{', '.join(n for n in faults if faults[n] == own)}: {own}" for own in dict.fromkeys(faults.values())]
    return (
        "Faults that never reach a contender, as it replaces the setting that is wrong; its figures there say nothing "
        f"of what it would make of them. {clean('; '.join(told), 1000)}."
        if told
        else None
    )


def _there(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]


def _shown(found: Sequence[Standing]) -> set[str]:
    return set(drawings.shown_contenders(found))


def _warnings(results: Sequence[CellResult], found: Sequence[Standing]) -> list[str]:
    told = []
    if results[0].cell.split == "test":
        told.append("TEST RANGE: these faults, seeds and data are for final claims. Nobody may tune a policy on them.")
    told += _too_few_seeds(results)
    for name in (NONE, ORACLE):
        if name not in {s.contender for s in found}:
            told.append(f"Without `{name}` among the contenders there is no regret.")
    return told


def _too_few_seeds(results: Sequence[CellResult]) -> list[str]:
    """About contenders that most of their scenarios have too few seeds of."""
    usual = _usual_seeds(results)
    few = {name: count for name, count in usual.items() if count < FEWEST_SEEDS}
    if not few:
        return []
    if len(few) == len(usual):
        return [f"Too few seeds for a claim: {max(few.values())}, where {FEWEST_SEEDS} are the least."]
    names = clean("; ".join(f"{name}: {count}" for name, count in few.items()), 300)
    return [f"Too few seeds for a claim about some, where {FEWEST_SEEDS} are the least: {names}."]


def _fewer_seeds(results: Sequence[CellResult]) -> str | None:
    """Whose figures are of fewer seeds than those of others, so that they are not of the same cells."""
    usual = _usual_seeds(results)
    most = max(usual.values())
    fewer = "; ".join(f"{name}: {count}" for name, count in usual.items() if count < most)
    if not fewer:
        return None
    words = f"With fewer seeds than the {most} of the others, and paired with them in these seeds alone"
    return f"{words}: {clean(fewer, 1000)}."


def _usual_seeds(results: Sequence[CellResult]) -> dict[str, int]:
    """By contender: so many seeds most of its scenarios have at least."""
    seeds: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for result in results:
        seeds[result.cell.contender][result.cell.scenario.name].add(result.cell.seed)
    return {name: median_low(map(len, own.values())) for name, own in seeds.items()}


def _says(found: Sequence[Standing], figures: Sequence[CellFigures]) -> list[str]:
    """The result in sentences: the best, who does harm, and the worst cells by their names."""
    proper = [s for s in found if not s.is_reference]
    told = [_about(s) for s in proper[:3]]
    if len(proper) > 3:
        told.append(f"Last of {len(proper)}: {_about(proper[-1])}")
    harmful = [f"{clean(s.contender, 40)} {share(s.harmed)}" for s in proper if s.harms]
    few = [f"{clean(s.contender, 40)} {share(s.harmed)}" for s in proper if s.harmed.held and not s.harms]
    if harmful:
        told.append(
            f"Healthy runs were harmed by: {'; '.join(harmful)}. They stand behind all who do no harm beyond chance."
        )
    if few:
        told.append(f"Healthy runs ended worse, which may be chance: {'; '.join(few)}.")
    if not harmful and not few and any(s.harmed.of for s in proper):
        told.append("No contender harmed a healthy run beyond the noise.")
    worst = tables.named_cells(figures)[:NAMED_LOSERS]
    if worst:
        told.append(f"Losing cases: {'; '.join(_cell(f) for f in worst)}.")
    return told


def _about(standing: Standing) -> str:
    words = f"{clean(standing.contender, 40)}: regret {interval(standing.regret)}"
    if standing.harmed.of:
        beyond = ", beyond chance" if standing.harms else ""
        words += f", harmed {share(standing.harmed)} healthy runs{beyond}"
    if standing.against_none is not None:
        words += f", better than doing nothing in {percent(standing.against_none.improvement)} of pairs"
    return f"{words}; against doing nothing: {standing.verdict}." if standing.verdict else f"{words}."


def _cell(f: CellFigures) -> str:
    return clean(f"{f.contender} in {f.scenario}, seed {f.seed}", 160)


def _curves(figures: Sequence[CellFigures], found: Sequence[Standing], styles: Mapping[str, int]) -> list[Block]:
    drawn = drawings.learning_curves(figures, drawings.shown_contenders(found), styles)
    words = (
        "Medians over seeds at each evaluation. Triangles: where a contender acted with the first seed, crosses: where "
        "it was not allowed to. What is far above the start is drawn at the edge."
    )
    return [words, *drawn] if drawn else []


def _losses(figures: Sequence[CellFigures], link: tables.LinkOf) -> list[Block]:
    found: list[Block] = list(tables.losing_cells(figures, link))
    return found or ["No contender ended a cell worse than doing nothing beyond the noise."]


def _failures(figures: Sequence[CellFigures]) -> list[Block]:
    failed = [f for f in figures if f.failed]
    if not failed:
        return []
    counts = [
        [clean(name, 60), str(len(own)), plural(len({f.scenario for f in own}), "scenario")]
        for name, own in by_contender(failed).items()
    ]
    blocks: list[Block] = [Table("Failed cells", ("contender", "failed", "in"), counts)]
    told = [f for own in by_contender(failed).values() for f in own[:TRACES_OF_ONE]][:TRACES]
    blocks += [Trace(_cell(f), traceback_ends(f.result.outcome.failure)) for f in told]
    left = len(failed) - len(told)
    return [*blocks, *([f"{left} more are not shown."] if left else [])]


def _duels(figures: Sequence[CellFigures], names: Sequence[str]) -> Table:
    cells = {name: by_key(own) for name, own in by_contender(figures).items()}
    found: dict[tuple[str, str], Interval] = {}
    for first, second in combinations(names, 2):
        found[first, second] = pairing(cells[first], cells[second]).improvement
        found[second, first] = found[first, second].turned(1.0)
    return tables.duels(found, names)


def _agreement(figures: Sequence[CellFigures]) -> list[Block]:
    found = agreements(figures)
    return [tables.agreement_table(found)] if found else []


def _noise(
    results: Sequence[CellResult],
    figures: Sequence[CellFigures],
    tasks: Mapping[str, TaskFacts],
    kinds: Mapping[str, FaultKind],
) -> Table:
    bands = noise_bands(results, tasks, kinds)
    return tables.noise_table({f.facts.name: bands.get(f.facts.name, NO_BAND) for f in figures})
