"""The tables of what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agenttune.bench.aims import CLEARLY_FRAC, COLLAPSED, DATA, REST, TOO_HIGH, TOO_LOW, Aims
from agenttune.bench.cell import NONE
from agenttune.bench.detection import LOST_FACTOR, LOST_STEPS
from agenttune.bench.report.content import Table
from agenttune.bench.report.words import (
    NOT_THERE,
    change,
    change_interval,
    figure,
    frac,
    interval,
    share,
    share_percent,
)
from agenttune.bench.standings import Share
from agenttune.bench.statistics import NOTHING
from agenttune.protocol.text import clean

UNKNOWN = Share(0, 0)


class _Row(NamedTuple):
    """A figure.

    Attributes:
        aim: What a policy without a language model is to reach on the test range (issue 13); empty: there is none.
    """

    name: str
    aim: str
    of: Callable[[Aims], str]


def _regret_of(trouble: str) -> Callable[[Aims], str]:
    return lambda a: interval(a.by_trouble.get(trouble, NOTHING))


def _found_of(trouble: str) -> Callable[[Aims], str]:
    return lambda a: share_percent(a.found.get(trouble, UNKNOWN))


def _changes(a: Aims) -> str:
    runs = a.healthy_changed
    return f"{a.healthy_changes} in {share(runs)}" if runs.of else NOT_THERE


_CLEARLY = f"more than {100 * CLEARLY_FRAC:.0f} %"
_ROWS = (
    _Row("regret, all faults (IQM)", "0.15", lambda a: interval(a.regret)),
    _Row("regret, all faults (mean)", "0.25", lambda a: interval(a.mean_regret)),
    _Row("rate too high, no warm-up, NaN: regret", "0.2", _regret_of(TOO_HIGH)),
    _Row("rate too low: regret", "0.2", _regret_of(TOO_LOW)),
    _Row("collapsed schedule: regret", "0.2", _regret_of(COLLAPSED)),
    _Row(f"{REST}: regret", "", _regret_of(REST)),
    _Row("data or overfitting: difference to doing nothing", "-25 %", lambda a: change_interval(a.data_change)),
    _Row(f"data or overfitting: worse by {_CLEARLY}", "2 %", lambda a: share_percent(a.data_worse)),
    _Row("healthy: changes made, in runs", "0", _changes),
    _Row(f"healthy: worse by {_CLEARLY}", "2 %", lambda a: share_percent(a.healthy_worse)),
    _Row("healthy: difference to doing nothing", "0 %", lambda a: change_interval(a.healthy_change)),
    _Row("extra steps for trials", "5 %", lambda a: frac(a.trial_frac)),
    _Row("extra steps for trials, healthy", "2 %", lambda a: frac(a.healthy_trial_frac)),
    _Row("steps undone by going back", "", lambda a: frac(a.repeated_frac)),
    _Row("too high, no warm-up, NaN: found in time", "95 %", _found_of(TOO_HIGH)),
    _Row("too low: found in time", "95 %", _found_of(TOO_LOW)),
    _Row("collapsed schedule: found in time", "95 %", _found_of(COLLAPSED)),
    _Row("data or overfitting: found in time", "95 %", _found_of(DATA)),
    _Row("critical findings in 10,000 healthy steps", "0.1", lambda a: figure(a.critical_per_10000)),
    _Row("layer at fault named", "80 %", lambda a: share_percent(a.layers_named)),
    _Row("log-regret", "0.05, with a model", lambda a: interval(a.log_regret)),
    _Row("tokens a call of a model", "3,500", lambda a: figure(a.tokens_per_call, 0)),
)


def _shown(found: Sequence[Aims]) -> list[Aims]:
    """Contenders proper, and doing nothing to see them by."""
    return [a for a in found if not a.is_reference or a.contender == NONE]


def aims_table(found: Sequence[Aims]) -> Table:
    """All figures, a contender a column."""
    shown = _shown(found)
    rows = [[row.name, row.aim or NOT_THERE, *(row.of(a) for a in shown)] for row in _ROWS]
    about = (
        "Beside each figure what a policy without a language model is to reach at most (differences: at most; found "
        "and named: at least). Regret: mean of normalized regrets where the fault did damage, 0 as the best constant "
        "rate, 1 as doing nothing. Difference: to doing nothing, over the larger of both, less is better. Changes: "
        "commands that training went by something else after; trials that adopt nothing, looks and checkpoints are "
        f"none. Found in time: an alarm of a kind that counts, before the loss had stood at {LOST_FACTOR:.0f} times "
        f"its start for {LOST_STEPS} steps; where it never does, before the end. Log-regret: mean of ln(loss / "
        "oracle's loss) over all runs, healthy ones included, so that 0.69 is twice the loss. Extra steps: as parts of "
        "the budget."
    )
    return Table("Aims", ("figure", "aim", *(clean(a.contender, 60) for a in shown)), rows, about)


def glance_table(found: Sequence[Aims]) -> Table:
    """The shortest account of who helps where, and who hurts."""
    rows = [
        [
            clean(a.contender, 60),
            interval(a.mean_regret),
            *(figure(a.by_trouble.get(trouble, NOTHING).estimate) for trouble in (TOO_HIGH, TOO_LOW, COLLAPSED)),
            change(a.data_change.estimate),
            share(a.healthy_worse),
            frac(a.trial_frac),
        ]
        for a in _shown(found)
    ]
    columns = (
        "contender",
        "regret, all faults",
        "too high",
        "too low",
        "collapsed schedule",
        "data, overfitting",
        f"healthy worse by {_CLEARLY}",
        "extra steps for trials",
    )
    about = (
        "Mean regrets: 0 is the best constant rate without the fault, 1 is doing nothing. Data and overfitting: "
        "difference to doing nothing, less is better."
    )
    return Table("At a glance", columns, rows, about)
