"""How weights move: what a look at a few coordinates of each layer tells, as the trainer takes it every some steps."""

from __future__ import annotations

import math

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
    update_ratio: Metric = Field(description="Median over the layers of |update| / |weights| of one step.")
    early_update_ratio: Metric = Field(
        math.nan, description="The highest of the stretch's first 20 steps, after which it falls as weights grow."
    )
    ratios: dict[str, Metric] = Field(description="|update| / |weights| of one step, by layer.")
    rms: dict[str, Metric] = Field(description="Root mean square of the weights, by layer.")
