"""The curves of a report as data, also those of branches that were left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from agenttune.protocol.goal_names import is_goal
from agenttune.protocol.metrics import Curve
from agenttune.protocol.summary import BranchSummary
from agenttune.store.run_log import RunLog
from agenttune.views.report.journal import Journal

MAX_POINTS = 1000
"""Entries of one curve: about one a pixel of a wide screen."""
FEWEST_POINTS = 20
"""Of one branch, where there are many."""
MAX_BRANCHES = 60
"""Left-behind branches that are drawn, the newest; each costs a few kB."""
TRAINING_LOSSES = ("step_loss", "loss")
RATES = (("lr", "effective"), ("base_lr", "base"))


class CurveLine(NamedTuple):
    """One curve of a panel. `mean`, `low` and `high` may be non-finite; `nonfinite` counts such points."""

    label: str
    curve: Curve
    is_abandoned: bool


class Panel(NamedTuple):
    """One drawing."""

    key: str
    title: str
    lines: list[CurveLine]
    notes: list[str]


class _Piece(NamedTuple):
    branch: str
    first: int
    last: int | None
    is_abandoned: bool


def panels(log: RunLog, journal: Journal) -> list[Panel]:
    """Training loss, goal metric and learning rate, as far as they were logged."""
    pieces, left_out = _pieces(journal.summary.branches)
    series = {name: {s.name for s in log.series(name)} for name in {piece.branch for piece in pieces}}
    known = {metric for names in series.values() for metric in names}
    loss = next((name for name in TRAINING_LOSSES if name in known), None)
    score = journal.summary.score
    goal = score.metric if score is not None else None
    wanted: list[tuple[str, str, Sequence[tuple[str, str]]]] = []
    if loss is not None:
        wanted.append(("loss", f"Training loss ({loss}, every step)", [(loss, loss)]))
    is_asked = goal is not None and is_goal(goal, journal.summary.run.goal_metric)
    if goal is not None and goal != loss and (is_asked or goal not in TRAINING_LOSSES):
        wanted.append(("goal", goal if goal in TRAINING_LOSSES else f"{goal} at evaluations", [(goal, goal)]))
    wanted.append(("lr", "Learning rate", [(name, label) for name, label in RATES if name in known]))
    notes = [f"{left_out} more left-behind branches are not drawn"] if left_out else []
    found = [Panel(key, title, _lines(log, pieces, series, names), notes) for key, title, names in wanted]
    return [panel for panel in found if panel.lines]


def _pieces(branches: Sequence[BranchSummary]) -> tuple[list[_Piece], int]:
    """The parts of branches to draw, abandoned ones first so that they lie below."""
    gone = [_Piece(b.name, b.from_step, None, True) for b in branches if b.stands_to == -1]
    rest = [b for b in branches if b.stands_to is not None and 0 <= b.stands_to < b.last_step]
    gone += [_Piece(b.name, b.stands_to or 0, None, True) for b in rest]
    standing = [_Piece(b.name, b.from_step, b.stands_to, False) for b in branches if b.stands_to != -1]
    left_out = max(0, len(gone) - MAX_BRANCHES)
    return gone[left_out:] + standing, left_out


def _lines(
    log: RunLog, pieces: Sequence[_Piece], series: dict[str, set[str]], names: Sequence[tuple[str, str]]
) -> list[CurveLine]:
    budget = max(FEWEST_POINTS, MAX_POINTS // max(1, len(pieces)) * (2 if len(pieces) > 1 else 1))
    found = []
    for metric, label in names:
        standing = []
        for piece in pieces:
            if metric in series[piece.branch]:
                curve = log.curve(metric, piece.branch, piece.first, piece.last, min(MAX_POINTS, budget))
                if curve.steps and piece.is_abandoned:
                    found.append(CurveLine(label, curve, is_abandoned=True))
                elif curve.steps:
                    standing.append(curve)
        if standing:
            found.append(CurveLine(label, _joined(standing), is_abandoned=False))
    return found


def _joined(curves: Sequence[Curve]) -> Curve:
    """One curve over all branches that the run continued from."""
    lists = ("steps", "mean", "low", "high", "nonfinite")
    whole = {name: [value for curve in curves for value in getattr(curve, name)] for name in lists}
    return curves[-1].model_copy(update={**whole, "bucket_points": max(curve.bucket_points for curve in curves)})


def wants_log_scale(values: Sequence[float]) -> bool:
    """Whether a range demands a logarithmic scale: positive values over two decades or more (a guess)."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= 100
