"""Folds a log into the journal that a report shows. Reads, never writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from agenttune.protocol.events import (
    Acked,
    BranchStarted,
    CheckpointDeleted,
    Decided,
    DecisionAwaited,
    Event,
    Found,
    Judged,
    LogGap,
    NoteAdded,
    Notified,
    PolicyAttached,
    PolicyDetached,
    PolicyRequested,
    Proposed,
    ReadBack,
    RunInfo,
    RunStarted,
    Settled,
    StandingChanged,
    StatusChanged,
)
from agenttune.protocol.findings import Finding
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.summary import BranchSummary, Intervention, RunSummary
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.journal.run_summary import summarize
from agenttune.store.process_liveness import is_alive
from agenttune.store.run_log import RunLog
from agenttune.views.event_lines import lines_of
from agenttune.views.report.decisions import Check, Entry, Evidence, Happening, Journal, Settlement, Times

PAGE = 100
"""Events in memory at once: a transcript may hold megabytes."""
EVIDENCE_FINDINGS = 6
"""Of what was found since the last request, the newest; a guess at what a person reads."""
TOLD = (
    *(RunStarted, StatusChanged, PolicyAttached, PolicyDetached, PolicyRequested, BranchStarted, LogGap, NoteAdded),
    *(StandingChanged, Notified),
)
"""Events that become happenings."""
READ = (*TOLD, Proposed, Judged, Acked, ReadBack, Settled, Found, ModelCalled, Decided, CheckpointDeleted)
KINDS = [str(body.model_fields["kind"].default) for body in (*READ, DecisionAwaited)]


def read_journal(log: RunLog, now_s: float | None = None) -> Journal:
    """Fold a run's log into its journal.

    Raises:
        StoreFault: The log is damaged, or was written by another version.
    """
    summary = summarize(log)
    reader = _Reader()
    for event in _pages(log):
        reader.take(event)
    return Journal(
        summary=summary,
        entries=_entries(log, summary, reader, {b.name: b for b in summary.branches}),
        happenings=reader.happenings,
        looks=reader.looks,
        holds=reader.holds,
        last_seq=log.last_seq(),
        last_event_at_s=next((event.at_s for event in log.events(limit=1, newest=True)), None),
        process_is_gone=_is_gone(summary.run),
        made_at_s=time.time() if now_s is None else now_s,
    )


def _is_gone(info: RunInfo) -> bool:
    return info.is_live and info.pid is not None and not is_alive(info.pid, info.pid_started_s)


def _pages(log: RunLog) -> Iterator[Event]:
    since = 0
    while page := log.events(since, PAGE, kinds=KINDS):
        since = page[-1].seq
        yield from page


@dataclass
class _Reader:
    """What is remembered while the log goes by, once and in order."""

    times: dict[str, Times] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    settlements: dict[str, Settlement] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    looks: int = 0
    holds: int = 0
    _findings: list[Finding] = field(default_factory=list)
    _calls: list[ModelCalled] = field(default_factory=list)

    def take(self, event: Event) -> None:
        body = event.body
        if event.command_id is not None:
            self._take_command(event, event.command_id)
        if isinstance(body, Found):
            self._findings = [*self._findings, body.finding][-EVIDENCE_FINDINGS:]
        elif isinstance(body, ModelCalled):
            self._calls.append(body.model_copy(update={"messages": [], "answer": None}))
        elif isinstance(body, Decided):
            self._take_decision(body)
        elif isinstance(body, TOLD):
            self._tell(event)

    def _take_command(self, event: Event, command_id: str) -> None:
        body = event.body
        if isinstance(body, Proposed):
            self.times[command_id] = Times(proposed_at_s=event.at_s)
        elif isinstance(body, Judged):
            self._time(command_id, judged_at_s=event.at_s)
        elif isinstance(body, Acked):
            self._time(command_id, acked_at_s=event.at_s)
        elif isinstance(body, ReadBack):
            self.checks[command_id] = Check(read=body, step=event.step)
        elif isinstance(body, Settled):
            self.settlements[command_id] = Settlement(settled=body, step=event.step)

    def _time(self, command_id: str, **known: float) -> None:
        self.times[command_id] = self.times.get(command_id, Times()).model_copy(update=known)

    def _take_decision(self, body: Decided) -> None:
        self.looks += 1
        self.holds += not body.command_ids
        calls, self._calls = self._calls, []
        if not body.command_ids:
            return
        evidence = Evidence(
            policy=body.policy,
            woken_by=body.woken_by,
            reason=body.reason,
            based_on_step=body.based_on_step,
            findings=self._findings,
            calls=calls,
        )
        self._findings = []
        self.evidence |= dict.fromkeys(body.command_ids, evidence)

    def _tell(self, event: Event) -> None:
        lines = lines_of(event, lambda command_id: None)
        self.happenings += [Happening(at_s=event.at_s, step=event.step, mark=x.mark, text=x.text) for x in lines]


def _entries(log: RunLog, summary: RunSummary, reader: _Reader, branches: dict[str, BranchSummary]) -> list[Entry]:
    effects = {effect.command_id: effect for effect in summary.interventions}
    entries = []
    # A live run goes on between two readings: only what both know.
    records = [record for record in log.commands(limit=EVERYTHING) if record.command_id in effects]
    for number, record in enumerate(records, 1):
        effect, command_id = effects[record.command_id], record.command_id
        entries.append(
            Entry(
                number=number,
                effect=effect,
                record=record,
                times=reader.times.get(command_id, Times()),
                evidence=reader.evidence.get(command_id),
                check=reader.checks.get(command_id),
                settlement=reader.settlements.get(command_id),
                is_abandoned=record.ack is not None and _is_abandoned(effect, branches.get(record.ack.branch)),
            )
        )
    return entries


def _is_abandoned(effect: Intervention, branch: BranchSummary | None) -> bool:
    if branch is None or branch.stands_to is None or effect.applied_at_step is None:
        return False
    return effect.applied_at_step > branch.stands_to
