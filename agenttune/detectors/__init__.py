"""Detectors: each looks for one thing in an observation, and says its name, how grave it is and what it looks for.

All of them are scale-free: multiplying every loss by a constant changes nothing. Thresholds marked "tuned" were
chosen on recorded curves of a character GPT, convolutional networks on MNIST, a small regression with batches of
four and a digits classifier, learning rates from 1e-5 to 1, constant, linear and cosine.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from agenttune.detectors.bad_batches import BadBatch
from agenttune.detectors.base import Detector, PluginDetector, StandInDetector, undeclared
from agenttune.detectors.divergence import Divergence
from agenttune.detectors.evaluations import GoalPlateau, Overfitting
from agenttune.detectors.layer_faults import LayerFault
from agenttune.detectors.progress import Plateau, SlowStart
from agenttune.detectors.ranks import SilentRank, Straggler
from agenttune.detectors.rates import HighRate, LowRate
from agenttune.detectors.schedules import CollapsedSchedule
from agenttune.detectors.sudden_faults import GradientExplosion, NonFinite, Spike, Stall
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation

__all__ = [
    "DETECTORS",
    "DETECTOR_NAMES",
    "Detector",
    "Finding",
    "Observation",
    "PluginDetector",
    "StandInDetector",
    "detect",
    "undeclared",
]

DETECTORS: tuple[Detector, ...] = (
    NonFinite(),
    Spike(),
    Divergence(),
    Plateau(),
    Overfitting(),
    GradientExplosion(),
    Stall(),
    SlowStart(),
    GoalPlateau(),
    CollapsedSchedule(),
    LowRate(),
    HighRate(),
    LayerFault(),
    BadBatch(),
    SilentRank(),
    Straggler(),
)
"""The shipped ones."""
GOAL_MISSING = "goal_missing"
"""What the trainer finds by itself: the goal is not among the metrics of the first evaluation."""
DETECTOR_NAMES: tuple[str, ...] = (*(detector.name for detector in DETECTORS), GOAL_MISSING)


def detect(observation: Observation, stall_after_s: float = 120.0, own: Sequence[Detector] = ()) -> list[Finding]:
    """All findings of a run as it stands, most severe first.

    Args:
        observation: The run.
        stall_after_s: No step for so long is a stall, in seconds (`wake.stall_after_s`).
        own: The user's own detectors.
    """
    found = [*_shipped(observation, stall_after_s), *(found for each in own for found in each.detect(observation))]
    order = ("critical", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))


BESIDE = frozenset({"findings", "woken_by"})
"""Of an observation: what no shipped detector looks at, and what an agent adds before it asks its policy."""


class _Newest(threading.local):
    """What was found last in a thread, in an observation of these parts: rules ask again what the agent has asked."""

    def __init__(self) -> None:
        self.stall_after_s = 0.0
        self.parts: dict[str, object] = {}
        self.found: tuple[Finding, ...] = ()


_NEWEST = _Newest()


def _shipped(observation: Observation, stall_after_s: float) -> tuple[Finding, ...]:
    """Findings of the shipped detectors; looked for once in observations that differ in nothing that they look at."""
    parts = {name: part for name, part in vars(observation).items() if name not in BESIDE}
    known = _NEWEST.parts
    if known and stall_after_s == _NEWEST.stall_after_s and all(known[name] is part for name, part in parts.items()):
        return _NEWEST.found
    shipped = (Stall(stall_after_s) if isinstance(detector, Stall) else detector for detector in DETECTORS)
    found = tuple(finding for detector in shipped for finding in detector.detect(observation))
    _NEWEST.stall_after_s, _NEWEST.parts, _NEWEST.found = stall_after_s, parts, found
    return found
