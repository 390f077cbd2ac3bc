"""A change is credited with what lies outside of its forecast, and never with ordinary training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.detectors.effects import EVALUATIONS, STEPS, Changes, Measure, effect_of
from agenttune.policy.llm.digest import digest
from agenttune.policy.llm.history import interventions_of
from agenttune.protocol.proposals import Change
from agenttune.protocol.redefining import Redefinition
from agenttune.protocol.summary import Effect, MetricAt
from tests.policy.conftest import applied, observe, took_effect

Curve = Callable[[float], float]
AT = 200


def exponential(t: float) -> float:
    return 1.0 + 3.0 * math.exp(-t / 120)


def power(t: float) -> float:
    return 3.0 * math.exp(-0.6 * math.log1p(t / 50)) + 0.02


def straight(t: float) -> float:
    return 4.0 - 0.004 * t


def arrived(t: float) -> float:
    return 0.8 + 0.7 * math.exp(-t / 40)


CURVES = {"exponential": exponential, "power": power, "straight": straight, "arrived": arrived}


def course(curve: Curve, factor: float, seed: int, noise: float = 0.03, steps: int = 400) -> list[MetricAt]:
    """Losses of a run whose loss is multiplied by a factor from the change on, in the course of 20 steps."""
    draw = random.Random(seed)
    losses = []
    for t in range(1, steps + 1):
        grown = 1 + (factor - 1) * min(1.0, max(0, t - AT) / 20)
        losses.append(MetricAt(step=t, value=curve(t) * grown * math.exp(draw.gauss(0, noise))))
    return losses


def by_loss(points: list[MetricAt], *others: int, redefined: tuple[int, ...] = (), at: int = AT) -> Effect:
    found = [Redefinition(step=step, what="set_knob x", evaluations=True) for step in redefined]
    changes = Changes([at, *others, *(s for s in redefined if s != at)], found)
    return effect_of(at, changes, [Measure("step_loss", points, STEPS)])


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_change_without_effect_on_an_untouched_course_is_credited_with_nothing(curve: Curve) -> None:
    found = [by_loss(course(curve, 1.0, seed)) for seed in range(60)]
    credited = [effect for effect in found if effect.verdict != "no clear effect"]
    assert len(credited) <= 3
    for effect in found:
        assert effect.low is not None
        assert effect.high is not None
        assert effect.expected is not None
        assert effect.low <= effect.expected <= effect.high
        assert effect.expected == pytest.approx(curve(AT + 48), rel=0.1)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize(("factor", "verdict"), [(0.7, "better"), (1.3, "worse")])
def test_a_real_gain_and_a_real_harm_show(curve: Curve, factor: float, verdict: str) -> None:
    found: list[str] = [by_loss(course(curve, factor, seed)).verdict for seed in range(20)]
    assert found.count(verdict) >= 19


@pytest.mark.parametrize("verdict", ["better", "worse", "no clear effect"])
def test_where_more_is_better_a_rise_is_a_gain(verdict: str) -> None:
    after = {"better": 0.9, "worse": 0.3, "no clear effect": 0.605}[verdict]
    values = [0.5, 0.55, 0.58, 0.59, 0.6, 0.6, 0.602, 0.601, after, after, after]
    points = [MetricAt(step=25 * (i + 1), value=value) for i, value in enumerate(values)]
    effect = effect_of(AT, Changes([AT]), [Measure("eval_accuracy", points, EVALUATIONS, maximize=True)])
    assert (effect.verdict, effect.points, effect.until_step) == (verdict, 3, 275)
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low <= 0.602 <= effect.high


def test_steps_long_after_a_change_are_not_its_doing() -> None:
    """Seen: a command of step 87 was credited with 413 steps of ordinary training."""
    points = [*course(exponential, 1.0, 1, steps=264), *(MetricAt(step=s, value=0.01) for s in range(265, 900))]
    effect = by_loss(points, at=AT)
    assert effect.until_step is not None
    assert effect.until_step <= AT + STEPS.most_after
    assert effect.verdict == "no clear effect"


def test_what_cannot_be_told_is_said_to_be_unknown_and_why() -> None:
    points = course(exponential, 0.5, 1)
    assert by_loss(points[: AT + 3]).words == "not known: 3 values of step_loss after it, 16 are needed"
    assert (
        by_loss(points, 205).words == "not known: 5 values of step_loss until another change at step 205, 16 are needed"
    )
    late = by_loss(points, 190)
    assert (
        late.words == "not known: 10 values of step_loss between another change at step 190 and this one, 16 are needed"
    )
    assert by_loss(points, AT).words == "not known: something else was changed at step 200 too"
    assert by_loss(points, redefined=(AT,)).words == "not known: the change gave step_loss another meaning"
    assert "10 values" in by_loss(points, redefined=(190,)).words
    assert by_loss(points, 100, 300).verdict == "better"
    assert effect_of(AT, Changes([AT]), []).words == "not known: nothing was measured"


def test_the_goal_is_asked_first_and_the_loss_where_it_cannot_tell() -> None:
    losses = Measure("step_loss", course(exponential, 0.5, 1), STEPS)
    few = Measure("eval_loss", [MetricAt(step=100 * i, value=1.0) for i in range(1, 5)], EVALUATIONS)
    many = Measure("eval_loss", [MetricAt(step=20 * i, value=1.0) for i in range(1, 20)], EVALUATIONS)
    assert effect_of(AT, Changes([AT]), [few, losses]).metric == "step_loss"
    assert effect_of(AT, Changes([AT]), [many, losses]).metric == "eval_loss"


def test_a_loss_that_is_not_finite_is_harm() -> None:
    points = [p if p.step < 230 else p.model_copy(update={"value": math.nan}) for p in course(exponential, 1.0, 1)]
    assert by_loss(points).words == "worse: step_loss is not finite at step 230"


values = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(values, max_size=60), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4), st.booleans())
@settings(max_examples=80, deadline=None)
def test_whatever_was_measured_there_is_an_answer_that_agrees_with_its_figures(
    measured: list[float], at: int, others: list[int], maximize: bool
) -> None:
    points = [MetricAt(step=step, value=value) for step, value in enumerate(measured, 1)]
    effect = effect_of(at, Changes([at, *others]), [Measure("eval_x", points, EVALUATIONS, maximize)])
    assert effect.words
    if effect.found is None or effect.expected is None or effect.low is None or effect.high is None:
        was_broken = any(not math.isfinite(p.value) for p in points if p.step <= at)
        assert effect.verdict in ("not known", "worse") or was_broken
        return
    assert effect.low <= effect.expected <= effect.high
    outside = effect.found > effect.high or effect.found < effect.low
    assert outside or effect.verdict == "no clear effect"
    if effect.verdict != "no clear effect":
        assert (effect.verdict == "better") == ((effect.found > effect.high) == maximize)


def test_a_model_is_told_the_effect_and_not_a_before_and_after() -> None:
    losses = [p.value for p in course(exponential, 1.0, 3, steps=300)]
    smoothing = Change(name="label_smoothing", previous=0.0, requested=0.1, effective=0.1)
    knob = took_effect(280, {"kind": "set_knob", "name": "label_smoothing", "value": 0.1}, [smoothing])
    known = observe(losses, commands=[applied(AT, 0.01), knob])
    first, second = interventions_of(known)
    assert first.effect is not None
    assert first.effect.verdict == "no clear effect"
    assert second.effect is not None
    assert second.effect.words.startswith("not known: ")
    lines = digest(known).tried
    assert "effect" in lines[0]
    assert "without it" in lines[0]
    assert "before," not in lines[0]
