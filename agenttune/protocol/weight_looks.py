"""How weights move: what a look at a few coordinates of each layer tells, as the trainer takes it every some steps."""

from __future__ import annotations

from pydantic import Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record


class WeightLook(Record):
    """A look at the sampled weights of each layer, against earlier ones of the same stretch.

    A stretch begins with the run, and anew with each change that a command makes; NaN: not known yet.
    """

    step: int = Field(description="Completed optimizer steps.")
    since_step: int = Field(description="At which the stretch was first looked at.")
    steps: int = Field(description="Since the look before; 0: this is the stretch's first.")
    straightness: Metric = Field(
        description="Cosine between the way of the stretch's earlier half and that of its later half, all layers "
        "counting alike: near 1, steps go the same way; near 0 or below, they undo each other."
    )
    update_ratio: Metric = Field(description="Median over the layers of |update| / |weights| of one step.")
    ratios: dict[str, Metric] = Field(description="|update| / |weights| of one step, by layer.")
    rms: dict[str, Metric] = Field(description="Root mean square of the weights, by layer.")
