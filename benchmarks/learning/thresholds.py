"""What the members agree on, and what came of it: on rows of tasks that they did not see, for each threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agenttune.bench.report.content import Table
from agenttune.replay.learning.fit import Fitting, fit, table
from agenttune.replay.learning.moments import TrainingExample

AGREEMENTS, GAINS = (0.9, 0.8, 0.6, 0.5), (0.05, 0.15, 0.3)
MUCH, HARM = 0.3, -0.05
"""A gain that one would not miss, and a loss beyond what chance does (guess)."""


def thresholds_table(moments: Sequence[TrainingExample], how: Fitting) -> Table:
    """By `min_agreement` and `min_gain`: how many of the changes it would have proposed, and what they were worth."""
    foretold, gains = _held_out(moments, how)
    members = foretold.shape[0]
    rows = []
    for agreement in AGREEMENTS:
        sure = foretold[int((1 - agreement) * members + 1e-9)]
        for least in GAINS:
            chosen = gains[sure >= least]
            much = int((chosen > MUCH).sum())
            mean = f"{chosen.mean():+.0%}" if len(chosen) else "–"
            found = f"{much} of {(gains > MUCH).sum()}"
            rows.append([f"{agreement:g}", f"{least:g}", f"{len(chosen)}", mean, found, f"{(chosen < HARM).sum()}"])
    columns = ("min_agreement", "min_gain", "proposed", "mean gain", f"of those that gain {MUCH:.0%}", "that lose 5 %")
    return Table("Thresholds", columns, rows, "")


def _held_out(moments: Sequence[TrainingExample], how: Fitting) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What members foretell of the rows of tasks that they did not see, in order, [members, rows], and what came."""
    foretold: list[NDArray[np.float64]] = []
    gains: list[NDArray[np.float64]] = []
    for task in sorted({moment.task for moment in moments}):
        x, y = table([moment for moment in moments if moment.task == task])
        ensemble = fit([moment for moment in moments if moment.task != task], {}, how)
        foretold.append(np.sort(ensemble.gains(x), axis=0))
        gains.append(y.astype(np.float64))
    return np.concatenate(foretold, axis=1), np.concatenate(gains)
