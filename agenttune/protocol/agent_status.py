"""What the agent beside a run is doing now."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agenttune.protocol.overview import Spent
from agenttune.protocol.proposals import Record

Doing = Literal["none", "watching", "asked", "waiting", "held", "lost", "ended"]
"""none: no policy; watching: it looks at the run; asked: another policy was asked for and is not there yet; waiting:
something of its asks for approval; held: training waits for its decision; lost: its process is gone; ended: the run
has."""


class AgentStatus(Record):
    """The agent, as the log tells of it.

    Attributes:
        doing: In one word.
        words: In one sentence.
        policy: Attached now; of a run that has ended, the last one. None: there was none.
        attached_at_s: Unix time.
        requested: Another policy that was asked for and has not come yet; empty: none is to be.
        refused: Why the newest request for another policy was not obeyed; empty: it was, or there was none.
        previous: The policy that was beside it before this one, to go back to; None: there was none.
        last_look_step: Step of the observation of its newest recorded decision; None too where it has made none.
        last_reason: What it said then, if it asked for nothing.
        looks: Recorded decisions; a look that says what the one before said is not recorded.
        proposals: Commands that agents asked for.
        waiting: Of these, how many wait for approval.
    """

    doing: Doing
    words: str
    policy: str | None = None
    attached_at_s: float | None = None
    requested: str | None = None
    refused: str = ""
    previous: str | None = None
    last_look_step: int | None = None
    last_look_at_s: float | None = None
    last_reason: str = ""
    looks: int = 0
    proposals: int = 0
    waiting: int = 0
    models: list[str] = Field(default_factory=list)
    last_call_at_s: float | None = None
    spent: Spent = Spent()
