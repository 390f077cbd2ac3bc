"""What a command would come to, had it been submitted: the gate's answer, and what would be before and after."""

from __future__ import annotations

from pydantic import Field

from agenttune.protocol.metrics import Metric
from agenttune.protocol.proposals import Difference, Record, Verdict

MOST_RATES = 200
"""Steps of a course, at most."""


class RatesAhead(Record):
    """The learning rates to come of one parameter group, as things are and with the command.

    Attributes:
        before: Of the schedule in force; each belongs to the entry of `steps` in the same place.
        after: With the command.
    """

    group: int
    steps: list[int] = Field(max_length=MOST_RATES)
    before: list[Metric] = Field(max_length=MOST_RATES)
    after: list[Metric] = Field(max_length=MOST_RATES)


class DryRun(Verdict):
    """The verdict that a command would get now.

    Attributes:
        waits_for: Who would be asked; empty: nobody.
        rule: The rule of approval that would ask.
        differences: Values before and after.
        rates: The learning rates to come, of each group that the command writes; of a command that leaves them alone,
            or where nothing is known of them, none.
    """

    waits_for: str = ""
    rule: str = ""
    differences: list[Difference] = Field(default_factory=list)
    rates: list[RatesAhead] = Field(default_factory=list)
