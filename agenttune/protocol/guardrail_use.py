"""What the guardrails of a run have left for agents."""

from __future__ import annotations

from pydantic import Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Record


class Allowance(Record):
    """One limit and what is left of it.

    Attributes:
        name: The setting, such as `gate.window.max_commands`.
        words: The limit and what is left, in one sentence.
        knob: The knob that it is about; empty: all.
        limit: None: there is none.
        used: Of the limit, in its own unit.
        left: None: without limit.
        unit: Such as `commands`, `steps`, `usd`.
        free_at_step: The step from which on it no longer holds anything back; None: it holds back nothing now, or
            until the run's end.
    """

    name: str
    words: str
    knob: str = ""
    limit: Metric | None = None
    used: Metric | None = None
    left: Metric | None = None
    unit: str = ""
    free_at_step: int | None = None


class Guardrails(Record):
    """What holds agents back, now. Bounds and forbidden commands hold for everybody."""

    step: int
    allowances: list[Allowance]
    bounds: dict[str, tuple[Metric | None, Metric | None]] = Field(description="By knob: lowest, highest.")
    forbid: list[str]
    allowed_layers: list[str] = Field(description="Empty: all.")
    approval: list[str] = Field(description="The rules in order, each in a sentence; none: all is approved.")
