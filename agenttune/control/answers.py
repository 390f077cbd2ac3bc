"""What a run's log answers to each read: one function for each class of `protocol/reads.py`."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from agenttune.control.reader import find_layer
from agenttune.control.run_context import existing_checkpoints, with_run_context
from agenttune.control.run_gate import RunGate
from agenttune.control.run_logs import RunLogs
from agenttune.gate import Gate
from agenttune.protocol.events import BranchStarted, DatasetRead, Event, ModelRead
from agenttune.protocol.metrics import Curve
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.reads import (
    MAX_ROWS,
    Branches,
    BranchesQuery,
    Checkpoint,
    Checkpoints,
    CheckpointsQuery,
    CommandQuery,
    Commands,
    CommandsQuery,
    CurveQuery,
    Dataset,
    DatasetQuery,
    Events,
    EventsQuery,
    History,
    HistoryQuery,
    InfoQuery,
    Knobs,
    KnobsQuery,
    Model,
    ModelCalls,
    ModelCallsQuery,
    ModelQuery,
    ObservationQuery,
    PendingQuery,
    Points,
    PointsQuery,
    RunQuery,
    Series,
    SeriesQuery,
)
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.observer import Observer
from agenttune.store.journal.run_summary import model_calls, newest_interventions
from agenttune.store.run_log import RunLog


@singledispatch
def answer(query: RunQuery[Any], logs: RunLogs, run_id: str) -> Any:
    """The answer to a read, of the type that the query names."""
    raise TypeError(f"no function answers {type(query).__name__}")


@answer.register
def _info(query: InfoQuery, logs: RunLogs, run_id: str) -> RunInfo:
    return logs.info(run_id)


@answer.register
def _observation(query: ObservationQuery, logs: RunLogs, run_id: str) -> Observation:
    info = logs.info(run_id)
    observer = logs.observers.setdefault(run_id, Observer())
    log = logs.log(run_id)
    return with_run_context(observer.observe(log, info, logs.now_s(), Gate.of(info).budgets.max_commands), log, info)


@answer.register
def _series(query: SeriesQuery, logs: RunLogs, run_id: str) -> Series:
    return Series(series=logs.log(run_id).series(query.branch))


@answer.register
def _curve(query: CurveQuery, logs: RunLogs, run_id: str) -> Curve:
    log = logs.log(run_id)
    return log.curve(query.name, query.branch, query.first_step, query.last_step, query.max_points)


@answer.register
def _points(query: PointsQuery, logs: RunLogs, run_id: str) -> Points:
    found = logs.log(run_id).points(query.since, query.limit)
    return Points(points=found, next=found[-1].point_id if found else query.since)


@answer.register
def _knobs(query: KnobsQuery, logs: RunLogs, run_id: str) -> Knobs:
    """As last read, the rates of all groups as of the newest step."""
    return Knobs(knobs=logs.info(run_id).knobs)


@answer.register
def _checkpoints(query: CheckpointsQuery, logs: RunLogs, run_id: str) -> Checkpoints:
    return Checkpoints(checkpoints=[Checkpoint.of(event) for event in existing_checkpoints(logs.log(run_id))])


@answer.register
def _branches(query: BranchesQuery, logs: RunLogs, run_id: str) -> Branches:
    events = logs.log(run_id).events(kinds=["branch_started"], limit=MAX_ROWS)
    return Branches.of([event.body for event in events if isinstance(event.body, BranchStarted)])


@answer.register
def _model(query: ModelQuery, logs: RunLogs, run_id: str) -> Model:
    """As last read; measuring norms takes a command (`reader.measure`)."""
    event = logs.newest(run_id, "model_read")
    if event is None or not isinstance(event.body, ModelRead):
        return Model()
    return Model(step=event.step, at_s=event.at_s, model=find_layer(event.body.model, query.layer))


@answer.register
def _dataset(query: DatasetQuery, logs: RunLogs, run_id: str) -> Dataset:
    event = logs.newest(run_id, "dataset_read")
    if event is None or not isinstance(event.body, DatasetRead):
        return Dataset()
    return Dataset(step=event.step, at_s=event.at_s, dataset=event.body)


@answer.register
def _history(query: HistoryQuery, logs: RunLogs, run_id: str) -> History:
    return History(history=newest_interventions(logs.log(run_id), logs.info(run_id), query.limit))


@answer.register
def _model_calls(query: ModelCallsQuery, logs: RunLogs, run_id: str) -> ModelCalls:
    return ModelCalls(calls=model_calls(logs.log(run_id)))


@answer.register
def _events(query: EventsQuery, logs: RunLogs, run_id: str) -> Events:
    def look(log: RunLog) -> list[Event]:
        return log.events(query.since, query.limit, query.kinds or None)

    found = logs.wait_for(run_id, look, query.wait_s) or []
    return Events(events=found, next=found[-1].seq if found else query.since)


@answer.register
def _commands(query: CommandsQuery, logs: RunLogs, run_id: str) -> Commands:
    return Commands(commands=logs.log(run_id).commands(*query.state, limit=query.limit, newest=True))


@answer.register
def _command(query: CommandQuery, logs: RunLogs, run_id: str) -> CommandRecord:
    def look(log: RunLog) -> CommandRecord | None:
        record = log.command(query.command_id)
        return record if record.is_settled else None

    return logs.wait_for(run_id, look, query.wait_s) or logs.log(run_id).command(query.command_id)


@answer.register
def _pending(query: PendingQuery, logs: RunLogs, run_id: str) -> Commands:
    return Commands(commands=RunGate.of(logs, run_id).pending())
