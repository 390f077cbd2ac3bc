"""Which pictures a report has, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from agenttune.bench.cell import NONE, ORACLE
from agenttune.bench.metrics import BEST_REGRET, WORST_REGRET, CellFigures
from agenttune.bench.report import plots
from agenttune.bench.report.content import Figure
from agenttune.bench.report.words import change, figure
from agenttune.bench.standings import Standing, Tile, by_contender, tiles
from agenttune.bench.statistics import profile
from agenttune.bench.training import EvalPoint
from agenttune.protocol.proposals import TOOK_EFFECT
from agenttune.protocol.text import clean

MOST_LINES = 8
"""Of contenders in one drawing; more cannot be told apart (a guess)."""
BEYOND = 0.5
"""What is further above the start than this part of the way from start to best is drawn there (a guess)."""
POINTS = 80
"""Of a curve."""
THRESHOLDS = [BEST_REGRET + i / 20 for i in range(round((WORST_REGRET - BEST_REGRET) * 20) + 1)]


def ranks(found: Sequence[Standing]) -> Figure | None:
    """Regrets with their intervals."""
    shown = [s for s in found if s.regret.values]
    if not shown:
        return None
    svg = plots.intervals(
        [s.contender for s in shown],
        [s.regret for s in shown],
        "normalized regret, interquartile mean with 95 % interval",
        [0, 1],
    )
    return Figure("regret", "Regret", svg, "Dashed: the best constant rate (0), and doing nothing (1).")


def heat_maps(figures: Sequence[CellFigures], names: Sequence[str]) -> list[Figure]:
    """Regret by group of faults and by scenario, and the difference to doing nothing."""
    by_group = tiles(figures, lambda f: f.kind.group)
    by_scenario = tiles(figures, lambda f: f.scenario)
    about = (
        "Mean regret: 0 (blue) is the best constant rate, 1 (white) doing nothing, red is worse. Empty: no damage done."
    )
    change_about = "Mean difference to doing nothing, over the larger of both values: blue is better, red is worse."
    wanted = [
        ("regret-by-group", "Regret by group of faults", by_group, True, about, False),
        ("change-by-group", "Difference to doing nothing by group", by_group, False, change_about, False),
        ("regret-by-scenario", "Regret by scenario", by_scenario, True, about, True),
        ("change-by-scenario", "Difference to doing nothing by scenario", by_scenario, False, change_about, True),
    ]
    drawn = [_heat_map(*given, names) for given in wanted]
    return [drawing for drawing in drawn if drawing is not None]


def _heat_map(
    name: str,
    title: str,
    found: Mapping[str, Mapping[str, Tile]],
    is_regret: bool,
    about: str,
    is_extra: bool,
    names: Sequence[str],
) -> Figure | None:
    nothing = Tile(math.nan, math.nan, 0)
    rows = sorted(found)
    columns = [n for n in names if n != NONE]
    cells = [[found[row].get(column, nothing) for column in columns] for row in rows]
    values = [[tile.regret if is_regret else tile.change for tile in row] for row in cells]
    # Where no damage was done there is no regret, and a dash in every tile would be noise.
    kept = [i for i, row in enumerate(values) if any(math.isfinite(v) for v in row)]
    if not kept:
        return None
    texts = [["" if math.isnan(v) else (figure(v) if is_regret else change(v)) for v in values[i]] for i in kept]
    span = (0.0, 1.0, 2.0) if is_regret else (-0.5, 0.0, 0.5)
    svg = plots.heat_map([rows[i] for i in kept], columns, [values[i] for i in kept], texts, span)
    return Figure(name, title, svg, about, is_extra=is_extra)


def learning_curves(figures: Sequence[CellFigures], names: Sequence[str], styles: Mapping[str, int]) -> list[Figure]:
    """A drawing a scenario: medians over seeds, with the marks of the first seed's decisions."""
    found = []
    groups: set[str] = set()
    for scenario in sorted({f.scenario for f in figures}):
        cells = by_contender(f for f in figures if f.scenario == scenario)
        any_cell = next(iter(cells.values()))[0]
        lines = [line for name in names if name in cells if (line := _line(name, cells[name])) is not None]
        if not lines:
            continue
        lines = _within(lines, any_cell)
        values = [v for line in lines for v in line.values if math.isfinite(v)]
        is_log = bool(values) and min(values) > 0 and max(values) / min(values) >= 20
        svg = plots.curves(lines, any_cell.facts.metric, styles, is_log)
        about = f"{any_cell.kind.about}; right move: {any_cell.kind.right_move}"
        slug = "".join(c if c.isalnum() else "-" for c in scenario)[:80]
        is_extra = any_cell.kind.group in groups
        groups.add(any_cell.kind.group)
        found.append(Figure(f"curve-{slug}", clean(scenario, 80), svg, about, is_wide=False, is_extra=is_extra))
    return found


def _within(lines: Sequence[plots.Line], f: CellFigures) -> list[plots.Line]:
    """What has diverged lies at the edge: nothing else could be seen beside it."""
    is_max = f.facts.direction == "maximize"
    start = f.shown(f.start)
    ends = [v for line in lines for v in line.values if math.isfinite(v)]
    best = max(ends) if is_max else min(ends)
    edge = start + BEYOND * (start - best)
    cut = max if is_max else min  # of NaN, which comes first, both make NaN
    return [replace(line, values=[cut(v, edge) for v in line.values]) for line in lines]


def _line(name: str, cells: Sequence[CellFigures]) -> plots.Line | None:
    """Where half of the seeds are better, at every evaluation of any of them; what is ruined is the worst."""
    known = {p.total_steps + f.result.outcome.steps_before for f in cells for p in _evaluations(f)}
    steps = np.asarray(sorted(known)[:: max(1, len(known) // POINTS)])
    rows = []
    for f in cells:
        points = _evaluations(f)
        if not points:
            rows.append(np.full(len(steps), math.inf))
            continue
        at = np.asarray([p.total_steps + f.result.outcome.steps_before for p in points])
        loss = np.asarray([-p.value if f.facts.direction == "maximize" else p.value for p in points])
        held = np.searchsorted(at, steps, side="right") - 1
        drawn = np.where(np.isfinite(loss), loss, math.inf)[np.maximum(held, 0)]
        rows.append(np.where(held < 0, math.nan, drawn))
    if not len(steps):
        return None
    with np.errstate(invalid="ignore"):
        middle = np.median(np.asarray(rows), axis=0)
    values = np.where(np.isfinite(middle), middle, math.nan)
    if not np.isfinite(values).any():
        return None
    sign = -1.0 if cells[0].facts.direction == "maximize" else 1.0
    first = min(cells, key=lambda f: f.seed)
    return plots.Line(name, steps.tolist(), (sign * values).tolist(), marks=[] if first.is_reference else _marks(first))


def _evaluations(f: CellFigures) -> Sequence[EvalPoint]:
    trained = f.result.outcome.trained
    return [] if trained is None or f.failed else trained.evaluations


def _marks(f: CellFigures) -> list[tuple[float, bool]]:
    return [
        (float(i.step if i.total_steps is None else i.total_steps), i.state in TOOK_EFFECT)
        for i in f.result.outcome.interventions
    ]


def shown_contenders(found: Sequence[Standing]) -> list[str]:
    """Those that curves and profiles show: what others are measured by, and the best."""
    references = [s.contender for s in found if s.contender in (NONE, ORACLE)]
    proper = [s.contender for s in found if not s.is_reference]
    return [*references, *proper[: MOST_LINES - len(references)]]


def profile_figure(figures: Sequence[CellFigures], names: Sequence[str], styles: Mapping[str, int]) -> Figure | None:
    """Performance profiles of regrets."""
    lines = []
    cells = by_contender(figures)
    for name in (n for n in names if not cells[n][0].is_reference):
        strata: dict[str, list[float]] = {}
        for f in cells[name]:
            if f.regret is not None:
                strata.setdefault(f.scenario, []).append(f.regret)
        if strata:
            found = profile(list(strata.values()), THRESHOLDS)
            columns = ([i.estimate for i in found], [i.low for i in found], [i.high for i in found])
            lines.append(plots.Line(name, THRESHOLDS, *columns))
    if not lines:
        return None
    about = "Share of cells with a regret of at most so much: the higher, the better. Bands: 95 % at each regret."
    return Figure("profiles", "Performance profiles", plots.profiles(lines, styles), about)


def cost_figures(found: Sequence[Standing], styles: Mapping[str, int]) -> list[Figure]:
    """Regret against what it takes: time, steps, money; what nobody took is not drawn."""
    proper = [s for s in found if s.regret.values and not s.is_reference]
    wanted = [
        ("time", "wall time over that of doing nothing", {s.contender: s.slowdown for s in proper}),
        ("extra-steps", "extra steps a cell, for trials", {s.contender: s.extra_steps for s in proper}),
        ("money", "dollars a cell", {s.contender: s.usd / s.cells for s in proper}),
    ]
    drawn = []
    for name, label, costs in wanted:
        known = {s.contender: (costs[s.contender], s.regret) for s in proper if math.isfinite(costs[s.contender])}
        if known and (name == "time" or fmean(cost for cost, _ in known.values()) > 0):
            svg = plots.costs(known, label, styles)
            drawn.append(Figure(f"cost-{name}", f"Regret against {label}", svg, "The lower left is best."))
    return drawn
