"""An ensemble that goes on learning from a user's own runs, held near to what it was."""

from __future__ import annotations

import math
import time
from pathlib import Path

from agenttune.policy.learned.ensemble import Ensemble, load_ensemble
from agenttune.replay.learning.fit import Fitting, fit, table
from agenttune.replay.learning.own_runs import OwnRuns, moments_in

GENTLY = Fitting(steps=300, rows=32, lr=3e-4, decay=1.0, blind=0.1)
"""Few rows may move the weights only a little (guess)."""


class Refined:
    """What came of it.

    Attributes:
        found: What it was learned from.
        before, after: Root mean squared error of the mean gain on these rows, which the refined ensemble has seen.
    """

    def __init__(self, begin: Ensemble, found: OwnRuns, how: Fitting) -> None:
        made = {**begin.made, "refined_on": found.told, "refined_at": time.strftime("%Y-%m-%d")}
        self.found, self.ensemble = found, fit(found.moments, made, how, begin)
        self.before, self.after = self._error(begin), self._error(self.ensemble)

    def _error(self, ensemble: Ensemble) -> float:
        x, y = table(self.found.moments)
        return math.sqrt(float(((ensemble.gains(x).mean(axis=0) - y) ** 2).mean()))


def refine(runs_dir: Path, weights: Path, out: Path, how: Fitting = GENTLY) -> Refined:
    """Learn from the runs of a folder, and write the weights.

    Args:
        runs_dir: In it nothing is written.
        weights: To begin with.
        out: Where the new ones go.

    Raises:
        UserError: There is too little to learn from.
        ConfigError: The weights cannot be used.
    """
    refined = Refined(load_ensemble(weights), moments_in(runs_dir), how)
    refined.ensemble.save(out)
    return refined
