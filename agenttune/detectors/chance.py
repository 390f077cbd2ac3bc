"""Where learning begins: the loss of a guess that knows nothing, and whether weights were trained before the run."""

from __future__ import annotations

import math

from agenttune.detectors.trend import LOSS_NAMES, Trend, series
from agenttune.protocol.observation import Observation

NEAR_FRAC = 0.25
"""So near to a guessed chance level, as a part of it, the first loss confirms it (guess: seven fresh classifiers begin
at 0.99 to 1.08 of it, measured). Another loss may happen to begin there too: as fresh weights do, which is all that
matters."""
TRAINED_FRAC = 0.7
"""A start at less than that part of the loss of chance is of weights that were trained before (guess)."""


def chance_loss(observation: Observation) -> float | None:
    """The loss of a guess that knows nothing; None where that is not known.

    What the width of a last layer hints counts only where the very first loss, before anything moved, is near it: of a
    loss that is no cross-entropy over those outputs it says nothing.
    """
    facts = observation.facts
    if facts is None or facts.chance_loss is None or not facts.chance_is_guess:
        return facts.chance_loss if facts is not None else None
    first = _first_loss(observation)
    is_near = abs(first - facts.chance_loss) <= NEAR_FRAC * facts.chance_loss
    return facts.chance_loss if is_near else None


def was_trained_before(observation: Observation) -> bool:
    """Whether training went on from weights that had learnt: by the loss that it began with, else by the weights."""
    chance, trend = chance_loss(observation), Trend.of(observation)
    if chance is not None and trend is not None:
        return trend.start < TRAINED_FRAC * chance
    return observation.facts is not None and bool(observation.facts.trained_before)


def _first_loss(observation: Observation) -> float:
    """The run's first one, whatever it has meant since; NaN while there is none."""
    view = series(observation, LOSS_NAMES)
    if view is None:
        return math.nan
    return next((v for v in (*view.first_values, *view.downsampled_values, *view.values) if math.isfinite(v)), math.nan)
