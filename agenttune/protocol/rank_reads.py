"""How the ranks of a distributed run are doing: one column a figure, one entry a rank."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record

Place = Literal["starting", "data", "forward", "backward", "ended"]
"""Where a rank is: between two steps, which is mostly the wait for a batch; in a forward pass; or after it, in its
backward pass and update, where ranks wait for each other."""
PLACES: tuple[Place, ...] = ("starting", "data", "forward", "backward", "ended")


class RanksRead(Record):
    """All ranks as rank 0 has heard of them, without a collective: a rank that is stuck or gone is seen too."""

    kind: Literal["ranks_read"] = "ranks_read"
    steps: list[int] = Field(description="Completed optimizer steps.")
    places: list[Place] = Field(description="Where each is.")
    step_time_s: list[Metric] = Field(description="Mean time of a step since the last such reading, in seconds.")
    data_wait_s: list[Metric] = Field(
        description="Of that, from the end of a step to its first forward pass: mostly the wait for a batch."
    )
    forward_s: list[Metric] = Field(description="Of that, in forward passes, in which no rank waits for another.")
    memory_bytes: list[int] = Field(description="Of the device where there is one, else of the process.")
    heard_s: list[Metric] = Field(description="Time since its last sign of life; from a thread beside training.")
    stands_s: list[Metric] = Field(description="Time since it last got on: to another step or place.")
    interval_s: float = Field(description="Between two signs of life.")
    limit_s: float | None = Field(None, description="After which a collective operation gives up and ends the run.")
