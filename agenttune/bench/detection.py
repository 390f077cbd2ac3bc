"""Whether a contender saw what was wrong, how soon, where, and how often it cried wolf."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agenttune.bench.cell import Outcome
from agenttune.bench.faults import FaultKind

ALARMS = frozenset({"warning", "critical"})
"""Severities of findings that are an alarm; `info` tells and does not warn."""


LOST_FACTOR, LOST_STEPS = 2.0, 10
"""A training is lost when its loss has been so many times that of its start for so many steps (issue 13's)."""


class Detection(NamedTuple):
    """What was found in a cell.

    Attributes:
        is_asked: Whether there was something to be found, and somebody who looked.
        steps: From the fault's onset until an alarm of a kind that counts; None: not found.
        is_told: Whether a finding of a kind that counts came since the onset, be it no alarm.
        layer_named: Whether the layer at fault was named, in a finding or a command; None: no layer was at fault.
        false: Alarms while nothing was wrong, as severe as those that count as found.
        false_told: Findings of any severity then.
        healthy_steps: Steps in which nothing was wrong.
        is_in_time: Whether it was found before the loss had stood at twice its start for `LOST_STEPS` steps.
        false_critical: Critical findings while nothing was wrong.
    """

    is_asked: bool
    steps: int | None
    is_told: bool
    layer_named: bool | None
    false: int
    false_told: int
    healthy_steps: int
    is_in_time: bool = False
    false_critical: int = 0


def detection(outcome: Outcome, kind: FaultKind, budget: int, looks: bool, start: float | None = None) -> Detection:
    """Judge the findings of a cell by its fault.

    Args:
        looks: Whether the contender looks for findings at all, as policies do; a plain recipe cannot find anything.
        start: Training loss before anything is learnt; None: there is no such measure, and no time is too late.
    """
    onset = outcome.fault.step if outcome.fault is not None else 0
    if outcome.trained is not None:
        onset = outcome.trained.total_at(onset)  # findings are counted by total steps too
    steps = outcome.trained.total_steps if outcome.trained is not None else budget
    healthy_steps = steps if kind.is_healthy else min(onset, steps)
    found = list(zip(outcome.findings, outcome.found_steps, strict=False)) if looks else []
    hits = [(finding, at) for finding, at in found if finding.kind in kind.findings and at >= onset]
    false = [finding for finding, at in found if kind.is_healthy or at < onset]
    alarms = [at for finding, at in hits if finding.severity in ALARMS]
    layer = outcome.trained.fault_layer if outcome.trained is not None else None
    is_asked = looks and bool(kind.findings)
    too_late = lost_at(outcome.trained.losses, onset, start) if outcome.trained is not None and start else None
    return Detection(
        is_asked,
        min(alarms) - onset if is_asked and alarms else None,
        is_asked and bool(hits),
        _names(outcome, layer or "", onset) if looks and kind.strikes_layer else None,
        sum(finding.severity in ALARMS for finding in false),
        len(false),
        healthy_steps if looks else 0,
        is_asked and bool(alarms) and (too_late is None or min(alarms) <= too_late),
        sum(finding.severity == "critical" for finding in false),
    )


def lost_at(losses: Sequence[tuple[int, int, float]], since: int, start: float) -> int | None:
    """Total steps when the loss had stood at `LOST_FACTOR` times its start, or was none, for `LOST_STEPS`; None: never.

    Args:
        losses: As `Trained` has them.
        since: Total steps before which nothing was wrong.
    """
    began: int | None = None
    for total, _, loss in losses:
        if total <= since or loss < LOST_FACTOR * start:  # what is NaN is not less
            began = None
            continue
        began = total if began is None else began
        if total - began + 1 >= LOST_STEPS:
            return total
    return None


def _names(outcome: Outcome, layer: str, onset: int) -> bool:
    """Whether a text since the onset has the layer's name, as a whole: `blocks.1` is not in `blocks.10`."""
    name = re.compile(rf"(?<!\w){re.escape(layer)}(?!\w)")
    return bool(layer) and any(name.search(text) for text in _texts(outcome, onset))


def _texts(outcome: Outcome, onset: int) -> Iterator[str]:
    for finding, at in zip(outcome.findings, outcome.found_steps, strict=False):
        if at >= onset:
            yield finding.summary
            yield from map(str, finding.evidence.values())
    for intervention in outcome.interventions:
        made = intervention.step if intervention.total_steps is None else intervention.total_steps
        if made >= onset:
            yield intervention.words
