"""One command from what was seen to what came of it: a fold of the log for whoever asks why something changed."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.detectors.effects import acted
from agenttune.protocol.decision import CommandDecision, FindingRead, Seen
from agenttune.protocol.effects import MetricAt
from agenttune.protocol.events import Decided, Evaluated, Event, FindingJudged, Found
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.observation import HISTORY
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.measured_branch import MeasuredBranch
from agenttune.store.journal.run_summary import measured_intervention
from agenttune.store.run_log import RunLog

NEAR = 200
"""Decisions and findings on either side of a proposal that are looked through (guess)."""
FINDINGS = 5
"""Newest ones before a proposal that are told."""
MOST_JUDGEMENTS = 100_000
MOST_EVENTS = 1000
"""Of one command (guess: far more than any has)."""


def decision_of(log: RunLog, info: RunInfo, command_id: str) -> CommandDecision:
    """All that is known of one command.

    Raises:
        UnknownCommandId: There is none of that id.
    """
    record = log.command(command_id)
    records = log.commands_around(record.submitted_seq, HISTORY)  # those around it bound what it did
    is_change = record.ack is not None and acted(record)
    branch = MeasuredBranch.of(log, info, records, record.ack.branch) if record.ack is not None and is_change else None
    told = measured_intervention(log, info, record, branch)
    return CommandDecision(
        record=record,
        intervention=told,
        effect="" if told.effect is None else told.effect.words,
        seen=_seen(log, info, record),
        events=log.events(command_id=command_id, limit=MOST_EVENTS),
        curves=[] if branch is None else branch.around(record),
    )


def _seen(log: RunLog, info: RunInfo, record: CommandRecord) -> Seen:
    proposal, seq = record.proposal, record.submitted_seq
    step = record.submitted_step if proposal.based_on_step is None else proposal.based_on_step
    decided = _decided(log, record)
    body = decided.body if decided is not None and isinstance(decided.body, Decided) else None
    calls = [] if decided is None else _calls(log, decided)
    return Seen(
        step=step,
        policy="" if body is None else body.policy,
        woken_by="" if body is None else body.woken_by,
        reason="" if body is None else body.reason,
        faults=[] if body is None else body.faults,
        findings=findings_read(log, log.events_before(seq, ["found"], FINDINGS)),
        goal=_goal(log, info, seq),
        calls=calls,
        spent=log.spent_on_models(calls[0] - 1, calls[-1]) if calls else Seen().spent,
    )


def _decided(log: RunLog, record: CommandRecord) -> Event | None:
    """The decision that a command came of, which is written beside it."""
    seq = record.submitted_seq
    near = log.events(seq, NEAR, ["decided"]) + log.events_before(seq, ["decided"], NEAR)[::-1]
    return next((e for e in near if isinstance(e.body, Decided) and record.command_id in e.body.command_ids), None)


def _calls(log: RunLog, decided: Event) -> list[int]:
    """The calls of models since the decision before."""
    earlier = log.events_before(decided.seq, ["decided"], 1)
    since = earlier[-1].seq if earlier else 0
    return [call.seq for call in log.model_calls_between(since, decided.seq)]


def _goal(log: RunLog, info: RunInfo, seq: int) -> MetricAt | None:
    for event in reversed(log.events_before(seq, ["evaluated"], 1)):
        if isinstance(event.body, Evaluated):
            value = value_of(info.goal_metric, event.body.metrics)
            return None if value is None else MetricAt(step=event.step or 0, value=value)
    return None


def findings_read(log: RunLog, events: Sequence[Event]) -> list[FindingRead]:
    """Findings with what people have said of them."""
    said: dict[int, FindingJudged] = {}
    if events:
        for event in log.events(events[0].seq, MOST_JUDGEMENTS, ["finding_judged"]):
            if isinstance(event.body, FindingJudged):
                said[event.body.finding_seq] = event.body
    return [
        FindingRead(
            seq=event.seq,
            at_s=event.at_s,
            step=event.body.finding.step,
            branch=event.branch,
            finding=event.body.finding,
            judged=said.get(event.seq),
        )
        for event in events
        if isinstance(event.body, Found)
    ]
