"""Runs in which it is clear what to do: the same every time, for the compact form and for real models."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttune.protocol.commands import COMMAND_KINDS
from agenttune.protocol.observation import Observation
from tests.policy import conftest
from tests.policy.conftest import applied, decay


def observe(losses: Sequence[float] = (), **given: Any) -> Observation:
    """The observation of a run whose trainer can do everything."""
    return conftest.observe(losses, **given).model_copy(update={"capabilities": list(COMMAND_KINDS)})


@dataclass(frozen=True)
class Situation:
    """A run as it stands, the word that its digested line must hold, and the actions that are right there."""

    name: str
    observation: Observation
    word: str
    right: frozenset[str]


def _diverging() -> Observation:
    draw = random.Random(1)
    rise = [1.3 * math.exp(i / 25) * math.exp(draw.gauss(0, 0.05)) for i in range(80)]
    return observe([*decay(120, end=1.3), *rise], lr=0.3, evals=[(100, 1.5), (200, 30.0)])


def _healthy() -> Observation:
    return observe(decay(1000)[:400], lr=1e-3, evals=[(200, 2.3), (400, 1.5)])


def _too_slow() -> Observation:
    draw = random.Random(2)
    return observe([4.0 - 2e-4 * i + draw.gauss(0, 2e-4) for i in range(150)], lr=1e-6, evals=[(100, 3.98)])


def _plateau() -> Observation:
    draw = random.Random(3)
    fall = [4.0 - 1.6 * min(1.0, i / 20) for i in range(400)]
    return observe([v * math.exp(draw.gauss(0, 0.01)) for v in fall], lr=0.05, evals=[(200, 2.41), (400, 2.4)])


def _non_finite() -> Observation:
    return observe([*decay(120), *[math.nan] * 30], lr=0.5, evals=[(100, 1.4)], commands=[applied(110, 0.5)])


LOWER = frozenset({"halve", "tenfold_down"})
SITUATIONS = (
    Situation("diverging", _diverging(), "DIVERGING", LOWER),
    Situation("healthy", _healthy(), "HEALTHY", frozenset({"hold"})),
    Situation("too slow", _too_slow(), "TOO SLOW", frozenset({"double", "tenfold_up"})),
    Situation("plateau", _plateau(), "PLATEAU", LOWER),
    Situation("non-finite", _non_finite(), "NOT FINITE", LOWER | {"undo"}),
)
