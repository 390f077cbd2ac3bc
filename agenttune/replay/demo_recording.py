"""A recorded rescue with both of its endings: as it went on after a person's yes, and after a no.

`benchmarks/record_demo.py` makes it from real runs; `demo_player.py` plays it.
"""

from __future__ import annotations

import lzma
from importlib import resources
from typing import Any

from pydantic import Field

from agenttune.errors import SystemFault
from agenttune.protocol.events import Body
from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record

FILE = "demo_rescue.json.xz"
"""Beside this module."""


class RecordedEvent(Record):
    """An event of the run's log; `after_s` counts from the beginning of its part, in seconds as it is played."""

    after_s: float
    step: int | None
    branch: str
    command_id: str | None = None
    body: Body


class RecordedRow(Record):
    """A row of metrics."""

    after_s: float
    step: int
    branch: str
    source: str
    values: dict[str, Metric]


class DemoRecording(Record):
    """One run up to a request for approval, and what followed on each answer.

    Attributes:
        info: Fields of the run's card, such as its goal and the rules of its gate.
        asked: Id of the command that waits.
        before: All up to the request, the proposal included.
        approved: What followed on a yes, in order.
        rejected: What followed on a no.
    """

    info: dict[str, Any]
    asked: str
    before: list[RecordedEvent | RecordedRow]
    approved: list[RecordedEvent | RecordedRow]
    rejected: list[RecordedEvent | RecordedRow] = Field(min_length=1)


def read_demo() -> DemoRecording:
    """The recording that agenttune brings.

    Raises:
        SystemFault: It is not there: the installation is not whole.
    """
    path = resources.files("agenttune.replay").joinpath(FILE)
    try:
        return DemoRecording.model_validate_json(lzma.decompress(path.read_bytes()))
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise SystemFault(f"the recorded run of the demo cannot be read ({error}); install agenttune again") from None
