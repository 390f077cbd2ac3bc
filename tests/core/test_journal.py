"""A report tells what was changed, when, why and what came of it, also for runs that never got going."""

from __future__ import annotations

import math

from agenttune.protocol.events import Evaluated
from agenttune.protocol.metrics import Point, StoredPoint
from agenttune.protocol.observation import RECENT_POINTS
from agenttune.protocol.proposals import Ack, Change, State, Verdict
from agenttune.store.journal.observer import RecentRows
from agenttune.store.journal.run_summary import MEASURED_FIRST, MEASURED_LAST, summarize
from agenttune.store.run_log import RunLog
from tests.core.conftest import APPROVED, propose


def evaluate(log: RunLog, step: int, value: float) -> None:
    log.append(Evaluated(metrics={"eval_loss": value}), step=step)
    log.append_points([Point(step=step, at_s=float(step), values={"eval_loss": value}, source="eval")])


def test_a_run_that_never_trained_has_a_report(log: RunLog) -> None:
    summary = summarize(log)
    assert summary.score is None
    assert summary.interventions == []


def test_first_last_and_best(log: RunLog) -> None:
    for step, value in ((10, 3.0), (20, 1.0), (30, math.nan), (40, 2.0)):
        evaluate(log, step, value)
    score = summarize(log).score
    assert score is not None
    assert (score.first.value, score.best.step, score.best.value, score.last.value) == (3.0, 20, 1.0, 2.0)


def test_the_best_accuracy_is_the_largest(log: RunLog) -> None:
    log.update_info(goal_metric="eval_loss", goal_direction="maximize")
    for step, value in ((10, 0.3), (20, 0.9), (30, 0.5)):
        evaluate(log, step, value)
    score = summarize(log).score
    assert score is not None
    assert score.best.value == 0.9


def test_without_evaluations_the_training_loss_is_the_score(log: RunLog) -> None:
    log.append_points([Point(step=i, at_s=0.0, values={"step_loss": 5.0 - i}) for i in range(5)])
    score = summarize(log).score
    assert score is not None
    assert (score.metric, score.last.value) == ("step_loss", 1.0)


def test_each_intervention_carries_its_effect(log: RunLog) -> None:
    cut, second = propose(lr=0.01, based_on_step=10), propose(lr=0.001, based_on_step=30)
    refused = propose(lr=99.0)
    evaluate(log, 10, 3.0)
    log.submit(cut, APPROVED)
    change = Change(name="lr", previous=0.1, requested=0.01, effective=0.01)
    log.acknowledge(cut.command_id, Ack(outcome="applied", step=12, changes=[change]))
    evaluate(log, 20, 2.0)
    evaluate(log, 30, 1.5)
    log.submit(second, APPROVED)
    log.acknowledge(second.command_id, Ack(outcome="applied", step=31, changes=[change]))
    evaluate(log, 40, 1.0)
    log.submit(refused, Verdict(decision="rejected", decided_by="guardrail:bounds", reason="too high"))
    first, next_one, last = summarize(log).interventions
    assert first.metric_before is not None
    assert first.metric_after is not None
    assert (first.metric_before.value, first.metric_after.value) == (3.0, 1.5)
    assert first.summary == "lr 0.1 -> 0.01"
    assert next_one.metric_after is not None
    assert next_one.metric_after.value == 1.0
    assert (last.state, last.summary, last.applied_at_step) == (State.REJECTED, "too high", None)


def test_a_rate_that_is_set_during_a_warm_up_is_told_with_the_base_that_it_comes_from(log: RunLog) -> None:
    """Seen: "lr 0.001 -> 3e-05" of a return to step 3 with a base of 0.0003."""
    for effective, said in ((3e-5, "lr 0.001 -> 3e-05 (base 0.001 -> 0.0003)"), (2.9e-4, "lr 0.001 -> 0.00029")):
        record = log.submit(propose(lr=3e-4), APPROVED)
        change = Change(name="lr", previous=1e-3, requested=3e-4, effective=effective, previous_base=1e-3, base=3e-4)
        log.acknowledge(record.command_id, Ack(outcome="applied", step=3, changes=[change]))
        assert summarize(log).interventions[-1].summary == said


def test_a_report_of_very_many_changes_measures_the_first_and_the_newest(log: RunLog) -> None:
    log.append_points([Point(step=s, at_s=1.0, values={"step_loss": 1.0 / s}) for s in range(1, 2001)])
    count = MEASURED_FIRST + MEASURED_LAST + 40
    for number in range(count):
        record = log.submit(propose(lr=1e-4), APPROVED)
        change = Change(name="lr", previous=1e-3, requested=1e-4, effective=1e-4)
        log.acknowledge(record.command_id, Ack(outcome="applied", step=5 * number + 1, branch="main", changes=[change]))
    told = summarize(log).interventions
    assert len(told) == count, "none is left out"
    reasons = [item.effect.reason if item.effect else "" for item in told]
    unmeasured = [number for number, reason in enumerate(reasons) if "are measured" in reason]
    assert unmeasured == list(range(MEASURED_FIRST, count - MEASURED_LAST))
    assert told[unmeasured[0]].metric_before is None


def test_a_policy_sees_the_newest_rows_of_each_metric_however_seldom_it_is_logged() -> None:
    rows = [
        StoredPoint(
            point_id=i + 1,
            step=i,
            at_s=float(i),
            values={"step_loss": float(i)}
            | ({"lr": 0.1} if i % 3 else {})
            | ({"eval_loss": 1.0 / (i + 1)} if i % 200 == 0 else {})
            | ({"early": 1.0} if i < 100 else {}),
            source="step",
            branch="main",
        )
        for i in range(RECENT_POINTS + 300)
    ]
    recent = RecentRows()
    for row in rows:
        recent.add(row)
    newest = rows[-RECENT_POINTS:]
    assert list(recent.rows) == newest
    wanted = {
        name: [(row.step, row.values[name]) for row in newest if name in row.values]
        for name in ("step_loss", "lr", "eval_loss")
    }
    assert {n: list(zip(steps, values, strict=True)) for n, steps, values in recent.columns()} == wanted
