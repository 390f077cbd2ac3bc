"""Changes of recorded trainings are judged as they were: a cut after a blow-up helps, a raise hurts, none is none.

`tests/data/changes.json` holds the losses of a perceptron on handwritten digits, a regression and a model of
characters: the rate was changed (or not) at step `at`; where it was cut, a rate far too high
had been in force from `since` on.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agenttune.config import ProbationSettings
from agenttune.detectors.effects import EVALUATIONS, STEPS, Changes, Measure, effect_of, warm_up
from agenttune.protocol.effects import Effect, MetricAt
from agenttune.trainer.probation.loss_history import LossHistory
from agenttune.trainer.probation.measures import StepMonitor
from agenttune.trainer.recording.background_writer import StepMetrics

pytestmark = pytest.mark.trainer
RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "changes.json").read_text("utf-8"))


def pick(**wanted: str) -> list[dict[str, Any]]:
    return [case for case in RECORDED if wanted.items() <= case.items()]


def points(values: Sequence[float]) -> list[MetricAt]:
    return [MetricAt(step=step, value=value) for step, value in enumerate(values, 1)]


def effect(losses: Sequence[float], at: int, goal: Sequence[Sequence[float]] = (), warm_steps: int = 0) -> Effect:
    evaluated = [MetricAt(step=int(step), value=value) for step, value in goal]
    rates = [MetricAt(step=step, value=min(step, warm_steps)) for step in range(1, len(losses))]
    measures = [Measure("eval_loss", evaluated, EVALUATIONS)] if goal else []
    changes = Changes([at], breaks=warm_up(rates) if warm_steps else {})
    return effect_of(at, changes, [*measures, Measure("step_loss", points(losses), STEPS)])


def on_probation(losses: Sequence[float], at: int, steps: int = 30) -> str:
    """What probation says in the end; empty if the run ended before."""
    settings = ProbationSettings(steps=steps)
    history, monitor = LossHistory(3 * settings.longest_steps), None
    for step, loss in enumerate(losses, 1):
        if step == at + 1:
            monitor = StepMonitor(history, settings, at)
        history.add(StepMetrics(step, "main", 0.0, 0.0, 0.1, 0.1, 1, 1, [loss], None, {}))
        if monitor is not None and monitor.next_step <= step:
            found = monitor.assess(step, step, is_over=False)
            if found is not None:
                return found.outcome
    return ""


def test_an_untouched_training_was_hardly_ever_helped_or_hurt() -> None:
    """Three tasks, constant and cosine: what is not changed falls, rests, and falls on; seen: 16 % called a help."""
    found = []
    for case in pick(change="none"):
        if case["schedule"] != "warm-up":
            losses = case["losses"]
            found += [effect(losses, at).verdict for at in range(40, len(losses) - STEPS.most_after, 8)]
    assert len(found) > 300
    assert found.count("better") <= 0.05 * len(found)
    assert found.count("worse") <= 0.02 * len(found)


@pytest.mark.parametrize("case", pick(change="cut"), ids=lambda case: f"{case['task']}-{case['at'] - case['since']}")
def test_a_cut_after_a_blow_up_is_never_taken_for_the_harm(case: dict[str, Any]) -> None:
    """Seen: held against a level between those of before the blow-up and after it, or evaluations of before it."""
    told = effect(case["losses"], case["at"], case["evaluations"])
    assert told.helped >= 0, told.words
    assert on_probation(case["losses"], case["at"]) != "worse"
    if case["task"] == "chars" and case["at"] - case["since"] > 8:  # there the loss comes down at once
        assert told.helped == 1, told.words


@pytest.mark.parametrize("case", pick(change="raise", schedule="const"), ids=lambda case: str(case["task"]))
def test_a_raise_that_hurts_shows(case: dict[str, Any]) -> None:
    assert effect(case["losses"], case["at"]).helped == -1
    assert on_probation(case["losses"], case["at"]) == "worse"


@pytest.mark.parametrize("case", pick(schedule="warm-up"), ids=lambda case: f"{case['task']}-{case['change']}")
def test_nothing_is_credited_while_the_rate_warms_up(case: dict[str, Any]) -> None:
    told = effect(case["losses"], case["at"], warm_steps=round(0.3 * len(case["losses"])))
    assert told.verdict == "not known"
    assert "the warm-up of the rate" in told.words
    later = effect(case["losses"], round(0.6 * len(case["losses"])), warm_steps=round(0.3 * len(case["losses"])))
    assert later.verdict != "not known"


def course(levels: Sequence[float], noise: float = 0.05) -> list[float]:
    draw = random.Random(3)
    return [level * math.exp(draw.gauss(0, noise)) for level in levels]


def test_a_cut_that_halves_the_loss_after_a_blow_up_is_kept_and_helped() -> None:
    losses = course([*([0.4] * 80), *([2.4] * 20), *([1.2] * 200)])
    assert effect(losses, 100).helped == 1
    assert on_probation(losses, 100) == "fine"
    assert effect(course([*([0.4] * 80), *([2.4] * 20), *([2.4] * 200)]), 100).helped == 0


def test_a_spike_that_passes_by_itself_is_no_ones_doing() -> None:
    losses = course([*([0.4] * 80), *([2.4] * 5), *([0.4] * 200)])
    assert effect(losses, 85).helped == 0


def test_a_raise_that_hurts_slowly_is_taken_back() -> None:
    """Seen: it passed its window, was kept, and ended 29 % above where the run was."""
    before = [1.0 + 2.0 * math.exp(-step / 40) for step in range(200)]
    after = [before[-1] * (1 + 0.29 * max(0, step - 30) / 60) if step < 90 else 1.29 for step in range(300)]
    assert on_probation(course([*before, *after], noise=0.03), 200) == "worse"
    assert on_probation(course([*before, *([before[-1]] * 300)], noise=0.03), 200) != "worse"
