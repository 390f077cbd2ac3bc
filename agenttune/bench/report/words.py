"""Figures as they are read."""

from __future__ import annotations

import math
from pathlib import Path

import agenttune
from agenttune.bench.cell import Intervention, Outcome
from agenttune.bench.standings import Share
from agenttune.bench.statistics import Interval
from agenttune.protocol.text import clean, number, pairs, plural

NOT_THERE = "–"
_ROOT = Path(agenttune.__file__).resolve().parents[1]
"""Where agenttune lies on this machine is no part of a report."""
SHOWN_INTERVENTIONS = 4


def figure(value: float | None, digits: int = 2) -> str:
    """Such as `0.31`; a dash for what there is not."""
    return NOT_THERE if value is None or math.isnan(value) else _signed(f"{value:.{digits}f}")


def _signed(text: str) -> str:
    """Nothing has no sign."""
    return text.lstrip("+-") if not text.strip("+-0.") else text


def interval(found: Interval, digits: int = 2) -> str:
    """Such as `0.31 [0.22, 0.40]`; says where there are no seeds for an interval."""
    if not found.values:
        return NOT_THERE
    if math.isnan(found.low):
        return f"{figure(found.estimate, digits)} [one seed]"
    return f"{figure(found.estimate, digits)} [{figure(found.low, digits)}, {figure(found.high, digits)}]"


def percent(found: Interval) -> str:
    """A part of one, such as `83 % [70, 91]`."""
    if not found.values:
        return NOT_THERE
    span = "" if math.isnan(found.low) else f" [{100 * found.low:.0f}, {100 * found.high:.0f}]"
    return f"{100 * found.estimate:.0f} %{span}"


def p_value(p: float) -> str:
    """Such as `0.012`."""
    return "<0.001" if p < 0.001 else figure(p, 3)


def share(found: Share) -> str:
    """Such as `2 of 24`."""
    return f"{found.held} of {found.of}" if found.of else NOT_THERE


def share_percent(found: Share) -> str:
    """Such as `83 % of 24`."""
    return f"{100 * found.frac:.0f} % of {found.of}" if found.of else NOT_THERE


def change(value: float | None) -> str:
    """A difference to `none`, such as `-12 %`."""
    return NOT_THERE if value is None or math.isnan(value) else f"{_signed(f'{100 * value:+.0f}')} %"


def change_interval(found: Interval) -> str:
    """A mean difference to `none`, such as `-12 % [-20, -3]`."""
    if not found.values or math.isnan(found.low):
        return change(found.estimate)
    low, high = (_signed(f"{100 * end:+.0f}") for end in (found.low, found.high))
    return f"{change(found.estimate)} [{low}, {high}]"


def frac(value: float) -> str:
    """A part of one, such as `4.2 %`."""
    return NOT_THERE if math.isnan(value) else f"{100 * value:.1f} %"


def fault_words(outcome: Outcome) -> str:
    """Such as `from step 60: severity 3.2, in blocks.1`."""
    fault = outcome.fault
    if fault is None:
        return NOT_THERE
    layer = outcome.trained.fault_layer if outcome.trained is not None else None
    parts = [*([f"from step {fault.step}"] if fault.step else []), *([f"in {layer}"] if layer else [])]
    values = pairs({name: number(value) for name, value in fault.values.items()})
    return clean("; ".join(filter(None, [values, *parts])), 200) or NOT_THERE


def interventions_words(outcome: Outcome) -> str:
    """The first few, one after the other."""
    told = [_intervention(i) for i in outcome.interventions[:SHOWN_INTERVENTIONS]]
    more = len(outcome.interventions) - len(told)
    return "; ".join([*told, *([f"and {more} more"] if more else [])]) or "none"


def _intervention(intervention: Intervention) -> str:
    words = clean(intervention.words, 80)
    return clean(
        f"step {intervention.step} {intervention.kind} {intervention.state}{': ' if words else ''}{words}", 160
    )


def traceback_ends(failure: str, lines: int = 12) -> str:
    """The first line of a failure, which may say what it was, and its end, where a traceback's error stands."""
    kept = clean(failure.replace(f"{_ROOT}/", ""), 20_000, lines=True).splitlines()
    if len(kept) <= lines + 1:
        return "\n".join(kept)
    return "\n".join([kept[0], f"... {plural(len(kept) - lines - 1, 'line')} left out", *kept[-lines:]])
