"""Which trial of a probe is worth adopting: by how much further it came than changing nothing, on the same batches.

All trials begin at one state and see the same batches and random numbers, so that their losses are compared step by
step, and what a batch does to all of them cancels. How far one came is measured by how far changing nothing came down
within its trial, not by a part of the loss: near a floor that no rate goes below, little is much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agenttune.detectors.effects import LEAST_FRAC
from agenttune.detectors.forecast import student
from agenttune.detectors.trend import spread
from agenttune.protocol.commands import Probe
from agenttune.trainer.probes.trials import Attempt

TOLERANCE = 2.0
"""By how many standard errors of the paired difference a trial has to be better (guess)."""
FEWEST_PAIRS = 3
"""Fewer pairs tell nothing of the noise."""
SAME_FRAC = 1e-2
"""By which part the first losses of trials on the same batch differ at most, on devices that do not repeat to the bit
(guess). They are of the weights of before; only a knob may change them."""


@dataclass(frozen=True)
class Lead:
    """How far a trial is ahead of changing nothing, in the metric's units; more is better.

    Attributes:
        gain: By how much better its value is.
        error: Standard error of that; None for single values.
        needed: What it has to come to.
        why_not: Why it cannot be adopted all the same; empty if it can.
    """

    gain: float
    error: float | None
    needed: float
    why_not: str = ""

    @property
    def is_enough(self) -> bool:
        return not self.why_not and self.gain > self.needed


def choose(attempts: Sequence[Attempt], command: Probe, prefers_low: bool) -> tuple[Attempt | None, str]:
    """The trial to adopt, or None to change nothing, and why; each trial is told its lead.

    Args:
        attempts: Trials over the same steps, compared by the same metric.
        command: The probe.
        prefers_low: Whether less is better.
    """
    sign = 1.0 if prefers_low else -1.0
    fit = [a for a in attempts if not a.problem and a.value is not None and math.isfinite(a.value)]
    tried = [a for a in fit if a.command is not None]
    if not tried:
        return None, "no candidate came through"
    best = min(tried, key=lambda attempt: sign * (attempt.value or 0.0))
    base = next((a for a in fit if a.command is None), None)
    nothing = "changing nothing" if command.going_back is None else "going back alone"
    if base is None or base.value is None:
        wanted = command.include_current
        said = f"{best.value:.5g}; {nothing} did not come through" if wanted else _best_of(tried, best)
        return best, said
    leads = {id(a): _lead(a, base, command, sign) for a in tried}
    for attempt in tried:
        attempt.gain, attempt.error = leads[id(attempt)].gain, leads[id(attempt)].error
    good = [a for a in tried if leads[id(a)].is_enough]
    best = max(good or tried, key=lambda attempt: leads[id(attempt)].gain)
    said = f"{best.value:.5g} against {base.value:.5g} for {nothing}"
    return (best, said) if good else (None, f"{said}: {_why_not(leads[id(best)])}")


def _best_of(tried: Sequence[Attempt], best: Attempt) -> str:
    return f"the best of {len(tried)}: {best.value:.5g}"


def _why_not(lead: Lead) -> str:
    if lead.why_not:
        return lead.why_not
    if lead.gain <= 0:
        return "none was better"
    noise = "" if lead.error is None else f" (standard error {lead.error:.2g})"
    return f"better by {lead.gain:.2g}{noise}, and {lead.needed:.2g} are needed"


def _lead(attempt: Attempt, base: Attempt, command: Probe, sign: float) -> Lead:
    gain = sign * ((base.value or 0.0) - (attempt.value or 0.0))
    least = command.min_gain_frac * abs(base.value or 0.0)
    if attempt.metric == "goal":
        return Lead(gain, None, max(least, LEAST_FRAC * abs(base.value or 0.0)))
    pairs = list(zip(base.compared, attempt.compared, strict=False))
    if len(pairs) < FEWEST_PAIRS:
        return Lead(gain, None, least)
    leads = [a - b for a, b in zip(base.losses, attempt.losses, strict=False)]
    error = _error(leads, len(pairs)) if _are_paired(attempt, base) else _error_of_means(attempt, base)
    progress = command.min_progress_frac * progress_of(base.losses)
    needed = max(least, progress, student(TOLERANCE, len(leads) - 1) * error)
    return Lead(gain, error, needed, _too_short(attempt, base, command))


def progress_of(losses: Sequence[float]) -> float:
    """How far a trial surely came down, from its first quarter to its second half; batches differ, and that is off."""
    first, last = losses[: max(1, len(losses) // 4)], losses[len(losses) // 2 :]
    error = spread(losses) * math.sqrt(1 / len(first) + 1 / len(last))
    return max(fmean(first) - fmean(last) - error, 0.0)


def _error(leads: Sequence[float], count: int) -> float:
    """Standard error of the mean of the newest leads: of their spread around a line from 0, where all trials begin."""
    squares = sum(t * t for t in range(len(leads)))
    slope = sum(t * lead for t, lead in enumerate(leads)) / squares
    spread_squared = sum((lead - slope * t) ** 2 for t, lead in enumerate(leads)) / (len(leads) - 1)
    return math.sqrt(spread_squared / count)


def _are_paired(attempt: Attempt, base: Attempt) -> bool:
    """Whether both saw the same batches: their first losses, which no rate has changed yet, tell."""
    if not attempt.keeps_the_first_loss:
        return True
    one, other = base.losses[0], attempt.losses[0]
    return math.isclose(one, other, rel_tol=SAME_FRAC, abs_tol=1e-12)


def _error_of_means(attempt: Attempt, base: Attempt) -> float:
    """Standard error of the difference between losses of different batches."""
    return math.sqrt(sum(spread(side.losses) ** 2 / len(side.compared) for side in (attempt, base)))


def _too_short(attempt: Attempt, base: Attempt, command: Probe) -> str:
    """Why a lower rate's lead may be one of few steps only; empty for every other trial."""
    if command.lower_rates == "any" or not attempt.lowers_the_rate:
        return ""
    if command.lower_rates == "never":
        return "a lower rate is not adopted for so few steps"
    leads = [a - b for a, b in zip(base.losses, attempt.losses, strict=False)]
    quarter = max(1, len(leads) // 4)
    if fmean(leads[-quarter:]) > fmean(leads[-2 * quarter : -quarter]):
        return ""
    return "a lower rate is better at first, and its lead no longer grows"
