"""Detectors: pure functions from an observation to findings.

All of them are scale-free: multiplying every loss by a constant changes nothing. Thresholds marked "tuned" were
chosen on recorded curves of a character GPT, convolutional networks on MNIST, a small regression with batches of
four and a digits classifier, learning rates from 1e-5 to 1, constant, linear and cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agenttune.detectors.divergence import divergence
from agenttune.detectors.evaluations import goal_plateau, overfitting
from agenttune.detectors.faults import gradient_explosion, non_finite, spike, stall
from agenttune.detectors.progress import plateau, slow_start
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation

__all__ = [
    "DETECTORS",
    "Detector",
    "detect",
    "divergence",
    "goal_plateau",
    "gradient_explosion",
    "non_finite",
    "overfitting",
    "plateau",
    "slow_start",
    "spike",
    "stall",
]

Detector = Callable[[Observation], Iterator[Finding]]
DETECTORS: tuple[Detector, ...] = (
    non_finite,
    divergence,
    gradient_explosion,
    spike,
    plateau,
    overfitting,
    slow_start,
    goal_plateau,
)
"""All detectors that need nothing but the observation."""


def detect(observation: Observation, stall_after_s: float = 120.0) -> list[Finding]:
    """All findings of a run as it stands, most severe first.

    Args:
        observation: The run.
        stall_after_s: No step for so long is a stall, in seconds (`wake.stall_after_s`).
    """
    found = [finding for detector in DETECTORS for finding in detector(observation)]
    found += stall(observation, stall_after_s)
    order = ("critical", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))
