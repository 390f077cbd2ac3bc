"""How the weights move, as a model is told: how straight their way is, how large a step, and which layers stand out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from agenttune.llm.prompts import fenced
from agenttune.policy.llm.curve_text import NAME_LETTERS, brief
from agenttune.policy.llm.token_room import within
from agenttune.protocol.weight_looks import WeightLook, usual_update_ratio

MOST_LAYERS, NAME_TOKENS = 3, 12
"""Layers that are named, those that stand out most, and how long a name may be."""
STANDS_OUT, GREW = 10.0, 3.0
"""A layer stands out by an update so many times larger or smaller than usual, or by weights so many times as large or
small as at the first look (guess)."""


LARGER_AT_FIRST = 2.0
"""How many times larger the first steps of a stretch were, where that is told: a rate that is too high shows there."""
SHRUNK = 0.5
"""A part of what was usual, below which that is told: after a burst of huge gradients Adam's steps are tiny."""


def weights_told(looks: Sequence[WeightLook]) -> list[str]:
    """A line for all layers together, and one for each that stands out."""
    if not looks:
        return []
    whole = _whole(looks[-1], usual_update_ratio(looks))
    return [*([whole] if whole else []), *_layers(looks)]


def _whole(look: WeightLook, usual: float) -> str:
    parts = []
    if math.isfinite(look.straightness):
        steps = look.step - look.since_step
        parts.append(f"straightness of their way {look.straightness:.2f} over {steps} steps")
    if math.isfinite(look.update_ratio):
        early = look.early_update_ratio
        beside = [f"at first {early:.2g}"] if early > LARGER_AT_FIRST * look.update_ratio else []
        beside += [f"usually {usual:.2g}"] if look.update_ratio < SHRUNK * usual else []
        aside = f" ({', '.join(beside)})" if beside else ""
        parts.append(f"a step changes {look.update_ratio:.2g} of the weights{aside}")
    return ", ".join(parts)


def _layers(looks: Sequence[WeightLook]) -> Iterator[str]:
    first, last = looks[0], looks[-1]
    known = [ratio for ratio in last.ratios.values() if math.isfinite(ratio) and ratio > 0]
    usual = median(known) if known else math.nan
    found = []
    for name, rms in last.rms.items():
        ratio, was = last.ratios.get(name, math.nan), first.rms.get(name, math.nan)
        strange = max(_apart(ratio, usual) / STANDS_OUT, _apart(rms, was) / GREW)
        if strange >= 1:
            told = f"a step changes {brief(ratio)} of it, weights {brief(rms)} (at step {first.step}: {brief(was)})"
            found.append((strange, f"layer {fenced(within(name, NAME_TOKENS), NAME_LETTERS)}: {told}"))
    yield from (line for _, line in sorted(found, reverse=True)[:MOST_LAYERS])


def _apart(value: float, other: float) -> float:
    """By which factor two sizes differ; infinite where one is none at all, or not finite."""
    if math.isnan(other) or (math.isnan(value) and math.isnan(other)):
        return 1.0
    if not math.isfinite(value) or (value == 0) != (other == 0):
        return math.inf
    return 1.0 if value == other else max(value / other, other / value)
