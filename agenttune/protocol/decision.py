"""One decision as a person follows it: what was seen, why, who allowed it, what was done, and whether it helped."""

from __future__ import annotations

from pydantic import Field

from agenttune.protocol.effects import MetricAt
from agenttune.protocol.events import Event, FindingJudged
from agenttune.protocol.findings import Finding
from agenttune.protocol.metrics import Metric
from agenttune.protocol.overview import Spent
from agenttune.protocol.proposals import CommandRecord, Record
from agenttune.protocol.summary import Intervention


class FindingRead(Record):
    """A finding with its place in the log, by which people say whether it was right.

    Attributes:
        judged: What was said last; None: nobody has said anything.
    """

    seq: int
    at_s: float
    step: int
    branch: str
    finding: Finding
    judged: FindingJudged | None = None


class Expected(Record):
    """Where a metric was going at a step, had nothing been changed, and the band that chance allows."""

    step: int
    likely: Metric
    low: Metric
    high: Metric


class Around(Record):
    """A metric around a change, for a picture of before and after.

    Attributes:
        before: Its newest values up to the change.
        after: Those that follow, until long after the next change.
        undone: Of a return: the values of the steps that it has undone.
        expected: Where it was going without the change; empty where too little was known, or of a return.
        until_step: The next change, from which on the values tell of that too.
    """

    metric: str
    is_goal: bool
    maximize: bool
    before: list[MetricAt]
    after: list[MetricAt]
    undone: list[MetricAt] = Field(default_factory=list)
    expected: list[Expected] = Field(default_factory=list)
    until_step: int | None = None


class Approval(Record):
    """A request with what one should know before answering it.

    Attributes:
        now_s: Unix time by the clock that the request's deadline goes by, so that nobody else's clock matters.
        steps_per_s: The pace of training, by which waiting costs steps; None: it is not known.
        usd_per_hour: What the run's machine costs, if its settings say so.
        curves: The goal first, then the loss, up to the request and since.
    """

    record: CommandRecord
    now_s: float
    steps_per_s: float | None = None
    usd_per_hour: float | None = None
    curves: list[Around] = Field(default_factory=list)


class Seen(Record):
    """What the one who asked had before it.

    Attributes:
        step: Of the observation that it rests on.
        woken_by: Why the policy was asked then.
        reason: The policy's, of the whole decision.
        faults: What went wrong in asking a language model, or was done without.
        findings: The newest before it, newest last.
        calls: The `seq` of the calls of models that led to it; the events hold what was said.
    """

    step: int | None = None
    policy: str = ""
    woken_by: str = ""
    reason: str = ""
    faults: list[str] = Field(default_factory=list)
    findings: list[FindingRead] = Field(default_factory=list)
    goal: MetricAt | None = Field(None, description="The goal metric as last evaluated before it.")
    calls: list[int] = Field(default_factory=list)
    spent: Spent = Spent()


class CommandDecision(Record):
    """All that is known of one command."""

    record: CommandRecord
    intervention: Intervention = Field(description="The same told short, with the effect that was measured.")
    effect: str = Field("", description="What it did, in words; empty for what changed nothing.")
    seen: Seen
    events: list[Event] = Field(description="Of this command, from the proposal to the end of its probation.")
    curves: list[Around] = Field(default_factory=list, description="The goal first; empty before it was applied.")
