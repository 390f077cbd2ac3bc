"""A run's own log, as one line of steps: those that its branch stands on."""

from __future__ import annotations

from collections.abc import Iterator

from agenttune.errors import UserError
from agenttune.protocol.events import BranchStarted, DatasetRead, Evaluated, KnobsRead, ModelRead
from agenttune.protocol.lineage import Lineage
from agenttune.protocol.observation import Evaluation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_info import KnobState
from agenttune.replay.recordings.recording import Recording
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.metric_table import MetricRow
from agenttune.store.run_log import RunLog

PAGE_ROWS = 5000
SOURCES = ("step", "log")


def line_of(log: RunLog, branch: str | None = None) -> Lineage:
    """What a branch of a run stands on; default: its newest branch.

    Raises:
        UserError: No such branch; names those there are.
    """
    if branch is None:
        return log.lineage(log.info().branch)
    bodies = (event.body for event in log.events(kinds=["branch_started"], limit=EVERYTHING))
    known = ["main", *(body.name for body in bodies if isinstance(body, BranchStarted) and body.name != "main")]
    if branch not in known:
        raise UserError(
            f"no branch {branch!r} in run {log.info().run_id}; there are: {', '.join(known)}",
            field="branch",
            allowed=known,
        )
    return log.lineage(branch)


def read_log(log: RunLog) -> Recording:
    """Read a run's log.

    Raises:
        UserError: Nothing was logged yet.
    """
    info, line = log.info(), line_of(log)
    rows = list(_rows(log, line))
    evaluations = list(_evaluations(log, line))
    if not rows and not evaluations:
        raise UserError(f"run {info.run_id} has logged no step yet")
    knobs = list(_knobs(log, line))
    return Recording(
        source="log",
        name=info.run_id,
        rows=rows,
        evaluations=evaluations,
        max_steps=info.max_steps,
        knobs=knobs or ([(0, info.knobs)] if info.knobs else []),
        commands=_commands(log, line),
        capabilities=info.capabilities,
        rules=info.rules,
        goal_metric=info.goal_metric,
        goal_direction=info.goal_direction,
        about=_about(log),
        notes=_notes(log, line),
    )


def _rows(log: RunLog, line: Lineage) -> Iterator[MetricRow]:
    """Rows of the line in order of steps; a branch's rows were written before those of the next."""
    since = 0
    while page := log.points(since, PAGE_ROWS, SOURCES):
        for p in page:
            if line.has(p.branch, p.step):
                yield MetricRow(p.step, p.at_s, p.values, p.source)
        since = page[-1].point_id


def _evaluations(log: RunLog, line: Lineage) -> Iterator[Evaluation]:
    for event in log.events(kinds=["evaluated"], limit=EVERYTHING):
        if isinstance(event.body, Evaluated) and line.has(event.branch, event.step or 0):
            yield Evaluation(step=event.step or 0, metrics=event.body.metrics)


def _knobs(log: RunLog, line: Lineage) -> Iterator[tuple[int, list[KnobState]]]:
    for event in log.events(kinds=["knobs_read"], limit=EVERYTHING):
        if isinstance(event.body, KnobsRead) and line.has(event.branch, event.step or 0):
            yield event.step or 0, event.body.knobs


def _commands(log: RunLog, line: Lineage) -> list[CommandRecord]:
    """Commands that took effect on the line, and those that were refused or failed beside it."""
    return [record for record in log.commands(limit=EVERYTHING) if record.ack is None or line.has(*_place(record))]


def _place(record: CommandRecord) -> tuple[str, int]:
    return (record.ack.branch, record.ack.step) if record.ack is not None else ("", 0)


def _about(log: RunLog) -> list[ModelRead | DatasetRead]:
    first = [log.events(kinds=[kind], limit=1) for kind in ("model_read", "dataset_read")]
    bodies = [event.body for events in first for event in events]
    return [body for body in bodies if isinstance(body, (ModelRead, DatasetRead))]


def _notes(log: RunLog, line: Lineage) -> list[str]:
    bodies = [event.body for event in log.events(kinds=["branch_started"], limit=EVERYTHING)]
    returns = sum(isinstance(body, BranchStarted) and body.parent is not None for body in bodies)
    names = " -> ".join(segment.branch for segment in line.segments)
    return [f"returns to a checkpoint: {returns}; what is shown are the steps of {names}"] if returns else []
