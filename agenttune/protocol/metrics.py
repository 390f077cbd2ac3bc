"""Metrics: honest numbers, the row of a step, and a curve as it is read.

A loss of NaN is stored, and sent over the wire, as the string "NaN" (JSON has no such number).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeGuard

from pydantic import Field, PlainSerializer

from agenttune.protocol.proposals import Record

JsonNumber = float | int | str


def encode_number(value: float) -> JsonNumber:
    """A float as JSON can carry it: finite as it is, else "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode_number(value: JsonNumber) -> float:
    """The inverse of `encode_number`."""
    return float(value)


Metric = Annotated[float, PlainSerializer(encode_number, when_used="json")]
"""A float that may be NaN or infinite and says so in JSON, whose words pydantic reads by itself."""


class Point(Record):
    """The metrics of one step. `source`: `step` (every step), `log` (the trainer's own row), `eval`."""

    step: int
    at_s: float
    values: dict[str, Metric]
    source: Literal["step", "log", "eval"] = "step"
    branch: str = "main"


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or a float; `True` is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rate_name(name: str, group: int) -> str:
    """What the rate of a parameter group is called in a row; only those that differ from the first one's are in it."""
    return name if group == 0 else f"{name}_{group}"


class StoredPoint(Point):
    point_id: int = Field(description="Cursor: increases with every row of the run.")


class SeriesInfo(Record):
    """What is known of one metric without reading it."""

    name: str
    branch: str
    count: int
    first_step: int
    last_step: int


class Curve(Record):
    """A metric over steps, downsampled to buckets; every list has the same length.

    `bucket_steps` 1 means raw points: mean, low and high are then the same. Non-finite points count in `nonfinite`
    and not in mean, low and high; a bucket of nothing but such points has mean NaN.
    """

    name: str
    branch: str
    bucket_points: int = Field(description="Largest number of points that one entry stands for.")
    steps: list[int] = Field(description="Last step of each bucket.")
    mean: list[Metric]
    low: list[Metric]
    high: list[Metric]
    nonfinite: list[int]


Axis = Literal["step", "epoch", "time", "tokens"]
"""What curves may be drawn over; `time` is Unix time in seconds, `tokens` those that were trained on so far."""


class AxisCurve(Curve):
    """A curve with the place of each entry on another axis than steps.

    Attributes:
        x: Of the same length as `steps`; NaN where that is not known.
        parent: The branch that its branch began on.
        root: Step, place on the axis and value of the parent where it began: a line grows from there.
    """

    x: list[Metric]
    parent: str | None = None
    root: tuple[int, Metric, Metric] | None = None


class Curves(Record):
    """Several curves at once.

    Attributes:
        missing: Names that none of the branches has.
        is_sample: Single rows here and there, because this log's curves are still being prepared: ask again.
    """

    axis: Axis
    curves: list[AxisCurve]
    missing: list[str]
    is_sample: bool = False
