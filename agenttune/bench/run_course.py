"""The course of a training as its run's log tells it: of a script in a suite, and of a real run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from agenttune.bench.total_steps import TotalSteps
from agenttune.bench.training import EvalPoint, Trained
from agenttune.protocol.events import Evaluated
from agenttune.protocol.goal_names import value_of
from agenttune.protocol.metrics import Metric, StoredPoint
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.run_log import RunLog

MOST_LOSSES = 300


def course_of(log: RunLog, metric: str) -> Trained | None:
    """What came of a run, by its log; None: the metric was never measured.

    Steps that a return undid and those of probes were made all the same, and count.
    """
    info, total = log.info(), TotalSteps(log)
    start_s = info.started_at_s or info.created_at_s
    rows = log.points(limit=EVERYTHING)
    evaluations = _reported(log, metric, total, start_s) or _among(rows, metric, total, start_s)
    if not evaluations:
        return None
    losses = [(row, loss) for row in rows if (loss := _loss(row)) is not None]
    kept = losses[:: max(1, math.ceil(len(losses) / MOST_LOSSES))]
    until_s = max([*(row.at_s for row in rows[-1:]), info.ended_at_s or 0.0])
    return Trained(
        final=evaluations[-1].value,
        evaluations=evaluations,
        losses=[(total.on(row.branch, row.step), row.step, loss) for row, loss in kept],
        lrs=[row.values.get("lr", math.nan) for row, _ in kept],
        total_steps=total.at(log.last_seq() + 1, info.step),
        probe_steps=log.extra_steps(),
        seconds=max(0.0, until_s - start_s),
        run_id=info.run_id,
    )


def within_budget(trained: Trained, budget: int) -> Trained | None:
    """The result that was reached with so many steps; None: there was no evaluation until then."""
    paid = [point for point in trained.evaluations if point.total_steps <= budget]
    return trained.model_copy(update={"final": paid[-1].value, "evaluations": paid}) if paid else None


def _reported(log: RunLog, metric: str, total: TotalSteps, start_s: float) -> list[EvalPoint]:
    """Evaluations that the trainer reported as such."""
    found = []
    for event in log.events(kinds=["evaluated"], limit=EVERYTHING):
        value = value_of(metric, event.body.metrics) if isinstance(event.body, Evaluated) else None
        if value is not None and event.step is not None:
            seconds = max(0.0, event.at_s - start_s)
            steps = total.at(event.seq, event.step)
            found.append(EvalPoint(total_steps=steps, step=event.step, seconds=seconds, value=value))
    return found


def _among(rows: Sequence[StoredPoint], metric: str, total: TotalSteps, start_s: float) -> list[EvalPoint]:
    """Of a metric that stands among the others of a row."""
    return [
        EvalPoint(
            total_steps=total.on(row.branch, row.step),
            step=row.step,
            seconds=max(0.0, row.at_s - start_s),
            value=row.values[metric],
        )
        for row in rows
        if metric in row.values
    ]


def _loss(row: StoredPoint) -> Metric | None:
    return row.values.get("step_loss", row.values.get("loss"))


def names_in(log: RunLog) -> Iterator[str]:
    """Metrics of a log, to say what there is."""
    yield from sorted({name for row in log.points(limit=EVERYTHING) for name in row.values})
