"""The goal is found as the Trainer finds it; one that is nowhere among the metrics is told of at once, and once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agenttune.control import LocalControl
from agenttune.protocol.findings import Finding
from agenttune.protocol.run_info import RunInfo
from agenttune.store.journal.run_summary import summarize
from agenttune.store.run_log import RunLog
from agenttune.trainer.recording.logged_rows import GoalCheck
from agenttune.views.event_lines import lines_of
from tests.trainer.conftest import Bench, Result

pytestmark = pytest.mark.trainer
EVALUATES: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 8}


@pytest.fixture
def train(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(goal: str, direction: str = "maximize", **how: Any) -> Result:
        goals = {"goal_metric": goal, "goal_direction": direction}
        info = RunInfo.model_validate(
            {"run_id": "r", "name": "r", "status": "starting", "created_at_s": time.time(), **goals}
        )
        RunLog.create(bench.runs_dir / "r", info).close()
        monkeypatch.setenv("AGENTTUNE_RUN_ID", "r")
        result = bench.trainer(**(EVALUATES | how))
        result.trainer.compute_metrics = lambda predictions: {"accuracy": 0.5}
        result.trainer.train()
        return result

    return run


def missing(result: Result) -> list[Finding]:
    return [body.finding for body in result.bodies("found")]


@pytest.mark.parametrize("goal", ["accuracy", "eval_accuracy"])
def test_a_goal_without_its_prefix_is_what_the_trainer_would_take(train: Any, goal: str) -> None:
    result = train(goal)
    assert missing(result) == []
    score = summarize(result.log()).score
    assert score is not None
    assert (score.metric, score.direction, score.last.value) == ("eval_accuracy", "maximize", 0.5)
    seen = LocalControl(result.runs_dir).observe("r")
    assert seen.goal_metric == "eval_accuracy"


def test_loss_means_the_evaluated_one(train: Any) -> None:
    result = train("loss", "minimize")
    score = summarize(result.log()).score
    assert score is not None
    assert score.metric == "eval_loss"


def test_a_goal_that_is_nowhere_is_told_of_once_with_the_names_there_are(train: Any) -> None:
    result = train("f1")
    (finding,) = missing(result)
    assert (finding.kind, finding.severity, finding.metric, finding.step) == ("goal_missing", "warning", "f1", 2)
    assert "those there are: eval_accuracy, eval_loss" in finding.summary
    (event,) = result.events("found")
    assert "goal_missing: the goal f1 is not among" in lines_of(event, lambda _: None)[0].text


def test_it_is_told_of_too_where_the_only_evaluation_is_the_last_thing_that_happens(train: Any) -> None:
    assert len(missing(train("f1", eval_steps=8))) == 1


def test_several_data_sets_evaluated_in_one_step_are_one_evaluation() -> None:
    check = GoalCheck("b_accuracy")
    assert check.evaluated(10, {"eval_a_loss": 1.0}) is None
    assert check.finding(10) is None
    assert check.evaluated(10, {"eval_b_accuracy": 0.5}) == 0.5
    assert check.finding(11) is None
