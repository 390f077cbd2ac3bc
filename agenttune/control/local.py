"""`Control` over a folder of runs on this machine: proposals go through the gate, and each read has a function here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property, singledispatch
from typing import Any, cast

from agenttune.control.compared_curves import curves_of, series_of
from agenttune.control.control import AgentRecord, ApprovalDecision, Control
from agenttune.control.overview import Overviews
from agenttune.control.reader import find_layer, measure
from agenttune.control.run_context import with_run_context
from agenttune.control.run_gate import RunGate
from agenttune.control.run_logs import RunLogs
from agenttune.control.transcripts import transcript_of
from agenttune.errors import RunEnded, StoreFault, UnknownRun, UserError
from agenttune.gate import Gate, person
from agenttune.gate.approval_description import usd_per_hour
from agenttune.protocol import reads
from agenttune.protocol.agent_status import AgentStatus
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.deadlines import now_for
from agenttune.protocol.decision import Approval, Around, CommandDecision
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.events import (
    BranchStarted,
    DatasetRead,
    Event,
    FindingJudged,
    ModelRead,
    NoteAdded,
    Notified,
)
from agenttune.protocol.guardrail_use import Guardrails
from agenttune.protocol.metrics import Curve, Curves
from agenttune.protocol.observation import HISTORY, Observation
from agenttune.protocol.overview import OverviewQuery, RunsOverview
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval, State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.agent_status import agent_status
from agenttune.store.journal.decision import decision_of, findings_read
from agenttune.store.journal.measured_branch import MeasuredBranch
from agenttune.store.journal.observer import Observer
from agenttune.store.journal.run_overview import PACE_ROWS, pace_of
from agenttune.store.journal.run_summary import model_calls, newest_interventions
from agenttune.store.journal.saved_states import loadable_checkpoints
from agenttune.store.process_liveness import agent_lives
from agenttune.store.run_log import RunLog

SHOWN_FINDINGS = 10
"""Newest ones that an error names."""


class LocalControl(RunLogs, Control):
    """`Control` over a folder of runs on this machine. Safe to share between threads; arguments as of `RunLogs`."""

    def read(self, run_id: str, query: reads.RunQuery[reads.R]) -> reads.R:
        if isinstance(query, reads.ModelQuery) and query.norms:
            return cast(reads.R, measure(self, run_id, query))
        found: reads.R = answer(query, self, run_id)
        return found

    @cached_property
    def _overviews(self) -> Overviews:
        return Overviews(self)

    def overview(self, query: OverviewQuery, is_seen: Callable[[str], bool] = lambda run_id: True) -> RunsOverview:
        """The list of runs, newest first; of those that `is_seen` lets pass."""
        return self._overviews.page([info for info in self.runs() if is_seen(info.run_id)], query)

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        gate = RunGate.of(self, run_id)
        if not gate.info.is_live and gate.log.find_command(proposal.command_id) is None:
            raise RunEnded(
                f"run {run_id} is {gate.info.status}; it takes no more commands",
                field="run_id",
                allowed=[info.run_id for info in self.runs() if info.is_live],
            )
        return gate.submit(proposal)

    def dry_run(self, run_id: str, proposal: Proposal) -> DryRun:
        return RunGate.of(self, run_id).dry_run(proposal)

    def dry_run_edit(self, run_id: str, command_id: str, command: CommandBase) -> DryRun:
        """What the guardrails say of a request that waits, were it to run with other values; decides nothing."""
        return RunGate.of(self, run_id).dry_run_edit(command_id, command)

    def decide(self, run_id: str, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        return RunGate.of(self, run_id).decide(command_id, decision)

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        log = self.log(run_id)
        allowed = sorted({standing.kind for standing in log.info().standing})
        if kind not in allowed:
            there_are = ", ".join(allowed) or "nothing is"
            raise UserError(
                f"{kind!r:.80} is not always allowed in this run; {there_are}", field="kind", allowed=allowed
            )
        return log.end_standing_approval(kind, person(author))

    def record(
        self,
        run_id: str,
        body: AgentRecord | Notified | NoteAdded,
        step: int | None = None,
        command_id: str | None = None,
    ) -> int:
        log = self.log(run_id)
        if isinstance(body, FindingJudged):
            _check_finding(log, body.finding_seq)
        return log.append(body, step=step, branch=log.stored_info().branch, command_id=command_id)[0]

    def look_after_runs(self) -> None:
        """What a server does every few seconds: requests whose time is up are decided, curves are kept ready."""
        self.index_runs()
        for run_id in self._waiting_in():
            self.pending(run_id)

    def _waiting_in(self) -> list[str]:
        """Live runs with proposals that wait for a decision."""
        found = []
        for info in self._catalog.infos():
            with contextlib.suppress(StoreFault, UnknownRun):
                if info.is_live and self.log(info.run_id).count_commands(State.PROPOSED):
                    found.append(info.run_id)
        return found


def _check_finding(log: RunLog, seq: int) -> None:
    """Raises UserError if no event of that `seq` is a finding."""
    if not any(event.seq == seq for event in log.events(seq - 1, 1, ["found"])):
        newest = [event.seq for event in log.events(kinds=["found"], limit=SHOWN_FINDINGS, newest=True)]
        there = ", ".join(map(str, newest)) or "none"
        raise UserError(f"event {seq} is no finding; the newest are: {there}", field="finding_seq", allowed=newest)


# -- reads ---------------------------------------------------------------------------------------------------------


@singledispatch
def answer(query: reads.RunQuery[Any], logs: RunLogs, run_id: str) -> Any:
    """The answer to a read, of the type that the query names."""
    raise TypeError(f"no function answers {type(query).__name__}")


@answer.register
def _info(query: reads.InfoQuery, logs: RunLogs, run_id: str) -> RunInfo:
    return logs.info(run_id)


@answer.register
def _observation(query: reads.ObservationQuery, logs: RunLogs, run_id: str) -> Observation:
    log = logs.log(run_id)
    last_seq = log.last_seq()  # first: who reads on from there must miss nothing that is written meanwhile
    info = logs.info(run_id)
    observer = logs.observers.setdefault(run_id, Observer())
    gate = Gate.of(info)
    seen = observer.observe(log, info, logs.now_s(), gate.budgets.max_commands, last_seq)
    return with_run_context(seen, log, info, gate)


@answer.register
def _series(query: reads.SeriesQuery, logs: RunLogs, run_id: str) -> reads.Series:
    return series_of(_to_draw(logs, run_id), query.branch)


@answer.register
def _curve(query: reads.CurveQuery, logs: RunLogs, run_id: str) -> Curve:
    log = logs.log(run_id)
    return log.curve(query.name, query.branch, query.first_step, query.last_step, query.max_points)


@answer.register
def _curves(query: reads.CurvesQuery, logs: RunLogs, run_id: str) -> Curves:
    return curves_of(_to_draw(logs, run_id), logs.info(run_id), query)


def _to_draw(logs: RunLogs, run_id: str) -> RunLog:
    """A log whose curves somebody looks at."""
    logs.index_soon(run_id)
    return logs.log(run_id)


@answer.register
def _decision(query: reads.DecisionQuery, logs: RunLogs, run_id: str) -> CommandDecision:
    return decision_of(logs.log(run_id), logs.info(run_id), query.command_id)


@answer.register
def _approval(query: reads.ApprovalQuery, logs: RunLogs, run_id: str) -> Approval:
    """What is known of a request; of a command that never waited, no curves."""
    log, info, now = logs.log(run_id), logs.info(run_id), logs.now()
    record = log.command(query.command_id)
    request = record.request
    around: list[Around] = []
    if request is not None:
        records = log.commands_around(record.submitted_seq, HISTORY)
        around = MeasuredBranch.of(log, info, records, request.branch).around_step(request.step)
    return Approval(
        record=record,
        now_s=now.unix_s if request is None else now_for(request, now),
        steps_per_s=pace_of(log.recent_times(PACE_ROWS, info.branch)),
        usd_per_hour=usd_per_hour(info),
        curves=around,
    )


@answer.register
def _findings(query: reads.FindingsQuery, logs: RunLogs, run_id: str) -> reads.Findings:
    log = logs.log(run_id)
    return reads.Findings(findings=findings_read(log, log.events(kinds=["found"], limit=query.limit, newest=True)))


@answer.register
def _agent(query: reads.AgentQuery, logs: RunLogs, run_id: str) -> AgentStatus:
    return agent_status(logs.log(run_id), logs.info(run_id), agent_lives)


@answer.register
def _guardrails(query: reads.GuardrailsQuery, logs: RunLogs, run_id: str) -> Guardrails:
    return RunGate.of(logs, run_id).guardrails()


@answer.register
def _transcript(query: reads.TranscriptQuery, logs: RunLogs, run_id: str) -> reads.Transcript:
    return transcript_of(logs.log(run_id), query.seq)


@answer.register
def _points(query: reads.PointsQuery, logs: RunLogs, run_id: str) -> reads.Points:
    found = logs.log(run_id).points(query.since, query.limit)
    return reads.Points(points=found, next=found[-1].point_id if found else query.since)


@answer.register
def _knobs(query: reads.KnobsQuery, logs: RunLogs, run_id: str) -> reads.Knobs:
    """As last read, the rates of all groups as of the newest step."""
    return reads.Knobs(knobs=logs.info(run_id).knobs)


@answer.register
def _checkpoints(query: reads.CheckpointsQuery, logs: RunLogs, run_id: str) -> reads.Checkpoints:
    return reads.Checkpoints(
        checkpoints=[reads.Checkpoint.of(event) for event in loadable_checkpoints(logs.log(run_id))]
    )


@answer.register
def _branches(query: reads.BranchesQuery, logs: RunLogs, run_id: str) -> reads.Branches:
    events = logs.log(run_id).events(kinds=["branch_started"], limit=reads.MAX_ROWS)
    return reads.Branches.of([event.body for event in events if isinstance(event.body, BranchStarted)])


@answer.register
def _model(query: reads.ModelQuery, logs: RunLogs, run_id: str) -> reads.Model:
    """As last read; measuring norms takes a command (`reader.measure`)."""
    event = logs.newest(run_id, "model_read")
    if event is None or not isinstance(event.body, ModelRead):
        return reads.Model()
    return reads.Model(step=event.step, at_s=event.at_s, model=find_layer(event.body.model, query.layer))


@answer.register
def _dataset(query: reads.DatasetQuery, logs: RunLogs, run_id: str) -> reads.Dataset:
    event = logs.newest(run_id, "dataset_read")
    if event is None or not isinstance(event.body, DatasetRead):
        return reads.Dataset()
    return reads.Dataset(step=event.step, at_s=event.at_s, dataset=event.body)


@answer.register
def _history(query: reads.HistoryQuery, logs: RunLogs, run_id: str) -> reads.History:
    return reads.History(history=newest_interventions(logs.log(run_id), logs.info(run_id), query.limit))


@answer.register
def _model_calls(query: reads.ModelCallsQuery, logs: RunLogs, run_id: str) -> reads.ModelCalls:
    return reads.ModelCalls(calls=model_calls(logs.log(run_id)))


@answer.register
def _events(query: reads.EventsQuery, logs: RunLogs, run_id: str) -> reads.Events:
    def look(log: RunLog) -> list[Event]:
        return log.find_events(query)

    found = logs.wait_for(run_id, look, query.wait_s) or []
    return reads.Events(
        events=found,
        next=found[-1].seq if found else query.since,
        previous=found[0].seq if found and found[0].seq > 1 else 0,
    )


@answer.register
def _event_counts(query: reads.EventCountsQuery, logs: RunLogs, run_id: str) -> reads.EventCounts:
    log = logs.log(run_id)
    return reads.EventCounts(last_seq=log.last_seq(), kinds=log.count_events())


@answer.register
def _commands(query: reads.CommandsQuery, logs: RunLogs, run_id: str) -> reads.Commands:
    return reads.Commands(commands=logs.log(run_id).commands(*query.state, limit=query.limit, newest=True))


@answer.register
def _command(query: reads.CommandQuery, logs: RunLogs, run_id: str) -> CommandRecord:
    def look(log: RunLog) -> CommandRecord | None:
        record = log.command(query.command_id)
        return record if record.is_settled else None

    return logs.wait_for(run_id, look, query.wait_s) or logs.log(run_id).command(query.command_id)


@answer.register
def _pending(query: reads.PendingQuery, logs: RunLogs, run_id: str) -> reads.Commands:
    return reads.Commands(commands=RunGate.of(logs, run_id).pending())
