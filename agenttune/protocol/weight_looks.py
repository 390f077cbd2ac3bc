"""How weights move: what a look at a few coordinates of each layer tells, as the trainer takes it every some steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from pydantic import Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record


class WeightLook(Record):
    """A look at the sampled weights of each layer, against earlier ones of the same stretch.

    A stretch begins with the run, and anew with each change that a command makes; NaN: not known yet.
    """

    step: int = Field(description="Completed optimizer steps.")
    since_step: int = Field(description="At which the stretch was first looked at.")
    steps: int = Field(description="Over which the size of updates was measured; 0: not yet.")
    straightness: Metric = Field(
        description="Cosine between the way of the stretch's earlier half and that of its later half, mean over the "
        "layers: near 1, steps go the same way; near 0 or below, they undo each other."
    )
    update_ratio: Metric = Field(
        description="Median over the layers of |update| / |weights| of one step; of the parameter group where it is "
        "highest, where groups have rates of their own."
    )
    early_update_ratio: Metric = Field(
        math.nan,
        description="The highest of the stretch's first 20 steps, after which it falls as weights grow; "
        "and of later ones while the rate rises, as in a warm-up. Those of RMSprop and Adagrad, which begin with "
        "larger steps, as they are later.",
    )
    ratios: dict[str, Metric] = Field(description="|update| / |weights| of one step, by layer.")
    rms: dict[str, Metric] = Field(description="Root mean square of the weights, by layer.")


NEWEST_LOOKS = 3
"""Looks that are not yet usual (guess)."""


def usual_update_ratio(looks: Sequence[WeightLook]) -> float:
    """Median of the newest stretch's update ratios but for the newest looks, which are what is compared with it.

    Returns:
        |update| / |weights| of one step; NaN without any.
    """
    known = [look.update_ratio for look in looks[:-NEWEST_LOOKS] if look.since_step == looks[-1].since_step]
    finite = [ratio for ratio in known if math.isfinite(ratio)]
    return median(finite) if finite else math.nan
