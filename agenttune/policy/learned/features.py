"""A snapshot and a change as numbers: relative, bounded, with a mark where a value is not known.

Every figure is an expression of the kind that rules are written in, so that it says what it is, holds in any run, and
knows nothing of a task. Bounds are of what training data show, rounded (guess).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agenttune.config.expressions import evaluate
from agenttune.errors import UserError
from agenttune.policy.learned.possible_changes import CHANGES, PossibleChange, state_of
from agenttune.policy.learned.snapshot import Snapshot

Numbers = NDArray[np.float32]


class Feature(NamedTuple):
    """One number of a run.

    Attributes:
        text: The expression.
        low, high: It is cut to these, and told from -1 to 1.
    """

    text: str
    low: float
    high: float


SEVERITIES = "3 if {0} == 'critical' else 2 if {0} == 'warning' else 1 if {0} != '' else 0"
FOUND = (
    "non_finite",
    "spike",
    "divergence",
    "plateau",
    "overfitting",
    "gradient_explosion",
    "slow_start",
    "goal_plateau",
    "collapsed_schedule",
    "low_rate",
    "high_rate",
    "layer_fault",
    "bad_batch",
)
FIGURES: Mapping[str, Feature] = {
    "progress": Feature("progress", 0, 1),
    "warming_up": Feature("1 if schedule.is_warming_up else 0", 0, 1),
    "loss_of_start": Feature("log(loss.level / loss.start)", -4, 3),
    "best_of_start": Feature("log(loss.best / loss.start)", -4, 0),
    "above_best": Feature("log(loss.level / loss.best)", 0, 3),
    "peak": Feature("log(loss.peak / loss.level)", 0, 3),
    "last": Feature("log(loss.last / loss.level)", -1, 2),
    "noise": Feature("log(loss.noise / abs(loss.level))", -6, 1),
    "slope": Feature("loss.slope * steps_left / abs(loss.level)", -2, 2),
    "recent_slope": Feature("loss.recent_slope * steps_left / abs(loss.level)", -2, 2),
    "slope_before": Feature("loss.slope_before * steps_left / abs(loss.level)", -2, 2),
    "slope_of_noise": Feature("64 * loss.slope / loss.noise", -8, 8),
    "of_chance": Feature("log(loss.level / loss.chance)", -4, 2),
    "start_of_chance": Feature("log(loss.start / loss.chance)", -2, 1),
    "not_finite": Feature("loss.nonfinite", 0, 10),
    "grad_of_best": Feature("log(grad.level / grad.best)", 0, 6),
    "grad_last": Feature("log(grad.last / grad.level)", -2, 4),
    "rate_of_base": Feature("log(lr / base_lr)", -4, 0),
    "rate_of_highest": Feature("log(base_lr / schedule.highest)", -7, 2),
    "left_frac": Feature("schedule.left_frac", 0, 1),
    "left_of_highest": Feature("log(schedule.left_frac * base_lr / schedule.highest)", -7, 2),
    "clips": Feature("1 if max_grad_norm > 0 else 0", 0, 1),
    "changes": Feature("changes", 0, 6),
    "since_change": Feature("steps_since_change / max_steps", 0, 1),
    "returns": Feature("changed('load_checkpoint')", 0, 3),
    "rates_changed": Feature("changed('update_optimizer')", 0, 3),
    "plans": Feature("changed('update_schedule')", 0, 2),
    **{f"found_{kind}": Feature(SEVERITIES.format(f"found.{kind}"), 0, 3) for kind in FOUND},
    **{f"since_{kind}": Feature(f"min(since.{kind} / max_steps, 1)", 0, 1) for kind in FOUND},
    "straightness": Feature("path.straightness", -0.5, 1),
    "update": Feature("log(path.update_ratio)", -10, 1),
    "early_update": Feature("log(path.early_update_ratio)", -10, 1),
    "update_of_usual": Feature("log(path.update_ratio / path.usual_update_ratio)", -3, 3),
    "stretch": Feature("path.steps / max_steps", 0, 1),
    "layer": Feature("1 if path.layer != '' else 0", 0, 1),
    "good_ago": Feature("(step - state.good_step) / max_steps", 0, 1),
    "best_ago": Feature("(step - state.best_step) / max_steps", 0, 1),
    "good_is_start": Feature("1 if state.good == state.start else 0", 0, 1),
    "evaluations": Feature("log(1 + evals.count)", 0, 4),
    "since_best": Feature("evals.since_best", 0, 8),
    "behind": Feature("evals.behind", 0, 2),
    "behind_before": Feature("evals.behind_before", 0, 2),
    "evals_noise": Feature("evals.noise", 0, 0.5),
    "behind_of_noise": Feature("evals.behind / evals.noise", 0, 20),
}
"""Of a run, by name."""
OF_CHANGE = (
    "stays",
    "to_start",
    "to_best",
    "to_good",
    "plans_anew",
    "factor",
    "steps_lost",
    "rate_then",
    "early_update_then",
    "update_then",
)
"""Of a change in that run."""
NAMES: Sequence[str] = (*FIGURES, *(f"{name}?" for name in FIGURES), *OF_CHANGE)
"""All columns; one with a question mark is 1 where its figure is not known."""


def version() -> str:
    """The same for weights that mean the same: of figures, their bounds, and changes."""
    told = [list(FIGURES.items()), OF_CHANGE, [asdict(change) for change in CHANGES]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def of_run(snapshot: Snapshot) -> Numbers:
    """The figures of a run, and which of them are not known."""
    functions = snapshot.functions
    values = np.array([_value(figure, snapshot, functions) for figure in FIGURES.values()], dtype=np.float64)
    unknown = np.isnan(values)
    return np.concatenate([np.where(unknown, 0.0, values), unknown]).astype(np.float32)


def of_change(snapshot: Snapshot, change: PossibleChange) -> Numbers:
    """The figures of a change in that run."""
    path, schedule, log_factor = snapshot.group("path"), snapshot.group("schedule"), math.log(change.factor)
    to = change.back_to
    base = schedule["highest"] if change.plans_anew else snapshot.names["base_lr"] * change.factor
    values = (
        float(to is None and not change.plans_anew),
        *(float(to == state) for state in ("start", "best", "good")),
        float(change.plans_anew),
        log_factor / math.log(10),
        0.0 if to is None else _known(_steps_lost(snapshot, to), 0, 1),
        _known(_log(base) - _log(schedule["highest"]), -7, 3),
        _known(_log(path["early_update_ratio"]) + log_factor, -10, 1),
        _known(_log(path["update_ratio"]) + log_factor, -10, 1),
    )
    return np.array(values, dtype=np.float32)


def inputs(snapshot: Snapshot, changes: Sequence[PossibleChange]) -> Numbers:
    """A row for each change, its columns as `NAMES` has them."""
    run = of_run(snapshot)
    return np.stack([np.concatenate([run, of_change(snapshot, change)]) for change in changes])


def _value(figure: Feature, snapshot: Snapshot, functions: Mapping[str, Callable[..., Any]]) -> float:
    """From -1 to 1; NaN where it is not known, such as the logarithm of a loss below 0."""
    try:
        value = float(evaluate(figure.text, snapshot.names, functions))
    except UserError:  # of such a run it cannot be said, which is a figure too
        return math.nan
    return _scaled(value, figure.low, figure.high)


def _scaled(value: float, low: float, high: float) -> float:
    return math.nan if math.isnan(value) else 2 * (min(max(value, low), high) - low) / (high - low) - 1


def _known(value: float, low: float, high: float) -> float:
    scaled = _scaled(value, low, high)
    return 0.0 if math.isnan(scaled) else scaled


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _steps_lost(snapshot: Snapshot, to: Any) -> float:
    if not state_of(snapshot, to):
        return math.nan
    return float((snapshot.names["step"] - snapshot.group("state")[f"{to}_step"]) / snapshot.names["max_steps"])
