"""A detector that misses loses the run; one that cries wolf gets a good run steered. Both are tested here."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.detectors import detect
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from tests.policy.conftest import applied, decay, observe

ALARMS = {"non_finite", "spike", "divergence", "gradient_explosion", "overfitting", "stall", "slow_start"}


def kinds(observation: Observation) -> set[str]:
    return {finding.kind for finding in detect(observation)}


def one(observation: Observation, kind: str) -> Finding:
    return next(f for f in detect(observation) if f.kind == kind)


def noisy(level: float, steps: int, noise: float = 0.02, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, noise)) for _ in range(steps)]


@pytest.mark.quick("*-0", "*-1")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("start", "end", "noise"),
    [(4.6, 1.9, 0.03), (2.3, 0.05, 0.3), (0.7, 0.6, 0.1), (9000.0, 5000.0, 0.7), (0.01, 0.002, 0.05)],
    ids=["language model", "classifier", "fine-tuning", "tiny batches", "small losses"],
)
def test_a_healthy_run_raises_no_alarm_at_any_step(start: float, end: float, noise: float, seed: int) -> None:
    losses = decay(600, start, end, noise, seed)
    seen = {kind for n in range(1, 600, 9) for kind in kinds(observe(losses[:n], max_steps=600))}
    assert not seen & ALARMS
    severities = {f.severity for n in range(1, 600, 9) for f in detect(observe(losses[:n], max_steps=600))}
    assert severities <= {"info"}


def test_warm_up_and_cosine_tail_are_no_alarm() -> None:
    warm_up = noisy(4.6, 40, 0.01)
    losses = [*warm_up, *decay(400, 4.6, 2.0, 0.02)]
    observation = observe(losses, max_steps=440)
    rates = [min(1.0, i / 40) * (0.5 + 0.5 * math.cos(math.pi * i / 440)) for i in range(1, 441)]
    lr = observation.series["lr"].model_copy(update={"values": rates[-len(observation.series["lr"].values) :]})
    observation = observation.model_copy(update={"series": {**observation.series, "lr": lr}})
    assert not kinds(observation) & ALARMS


@pytest.mark.parametrize(
    "jump",
    [
        [2.3, 56.6, 4.6, 2.26, 2.29],
        [2.3, 11.4, 7.1, 4.6, 2.1, 2.6, 2.0, 1.7, 1.8, 1.8],
        [4.7, 4.1, 4.3, 23.4, 11.8, 6.4, 6.3, 5.0, 4.4],
        [4.7, 16.3, 222.0, 100.0, 64.0, 59.0, 138.0, 118.0],
    ],
    ids=["dead at once", "recovers by itself", "transformer", "stays up"],
)
def test_a_far_too_high_rate_is_noticed_within_20_steps(jump: list[float]) -> None:
    losses = [*jump, *noisy(jump[-1], 20 - len(jump))]
    finding = one(observe(losses), "divergence")
    assert finding.severity == "critical"
    assert f"{jump[0]:.4g}" in finding.summary


def test_stuck_at_the_start_after_a_single_spike_is_divergence() -> None:
    losses = [*noisy(2.3, 16, 0.005), 5.7, *noisy(2.31, 36, 0.01)]
    assert one(observe(losses), "divergence").evidence["cause"] == "stuck"


def test_a_slow_rise_from_the_best_is_divergence_and_a_fall_after_it_is_not() -> None:
    down = decay(100, 4.0, 2.0, 0.02)
    up = [2.0 + 0.02 * i for i in range(60)]
    assert one(observe([*down, *up]), "divergence").severity == "warning"
    back = [3.2 - 0.03 * i for i in range(30)]
    assert "divergence" not in kinds(observe([*down, *up, *back]))


def test_a_cut_gets_time_to_work_before_divergence_is_found_again() -> None:
    losses = [2.3, 40.0, 30.0, 28.0, 29.0, 27.0, 28.0, 29.0, 27.0, 28.0, *noisy(27.0, 5)]
    assert "divergence" in kinds(observe(losses))
    assert "divergence" not in kinds(observe(losses, commands=[applied(12, 1e-4)]))


def test_non_finite_losses_are_found_at_once_and_counted() -> None:
    finding = one(observe([*decay(30), math.nan, math.inf, math.nan]), "non_finite")
    assert (finding.severity, finding.evidence["count"], finding.evidence["since_step"]) == ("critical", 3, 31)


def test_a_zero_loss_logged_for_nan_is_betrayed_by_the_gradient_norm() -> None:
    losses = [*decay(20), *[0.0] * 5]
    finding = one(observe(losses, grads=[1.0] * 20 + [math.nan] * 5, loss_name="loss"), "non_finite")
    assert finding.metric == "step_grad_norm"


def test_one_overflowing_gradient_of_mixed_precision_is_no_alarm() -> None:
    assert not kinds(observe(decay(60), grads=[*[1.0] * 59, math.inf])) & ALARMS


def test_a_spike_is_found_while_fresh_and_noise_is_not() -> None:
    base = decay(100, 4.0, 2.0, 0.03)
    assert "spike" in kinds(observe([*base, 6.0, 5.0]))
    assert "spike" not in kinds(observe([*base, 6.0, 5.0, *noisy(2.1, 30)]))
    assert "spike" not in kinds(observe([*base, 2.3, 2.2]))


def test_a_loss_that_fell_early_and_stopped_high_is_a_warning() -> None:
    losses = [4.7, 4.0, 3.6, 3.4, 3.3, *noisy(3.2, 300, 0.02)]
    assert one(observe(losses), "plateau").severity == "warning"


def test_flat_at_the_end_of_a_good_run_is_nothing() -> None:
    losses = [*decay(300, 4.0, 0.3), *noisy(0.3, 300, 0.05)]
    assert "plateau" not in kinds(observe(losses, max_steps=600))


def test_overfitting_needs_several_worse_evaluations_and_a_falling_training_loss() -> None:
    losses = decay(500, 2.0, 0.1)
    worse = [(100, 1.0), (200, 1.1), (300, 1.2), (400, 1.3)]
    assert "overfitting" in kinds(observe(losses, evals=worse))
    assert "overfitting" not in kinds(observe(losses, evals=[*worse[:3], (400, 1.15)]))
    assert "overfitting" not in kinds(observe(noisy(2.0, 500), evals=worse))


def test_an_exploding_gradient_is_found() -> None:
    grads = noisy(0.3, 30)
    assert "gradient_explosion" in kinds(observe(decay(31), grads=[*grads, 120.0]))
    assert "gradient_explosion" not in kinds(observe(decay(31), grads=[*grads, 3.0]))


def test_a_standstill_is_found_only_while_running() -> None:
    observation = observe(decay(30), idle_s=300.0)
    assert "stall" in {f.kind for f in detect(observation, stall_after_s=120.0)}
    assert "stall" not in {f.kind for f in detect(observation, stall_after_s=600.0)}
    assert "stall" not in kinds(observation.model_copy(update={"status": "paused"}))


def test_a_far_too_low_rate_is_found_unless_the_rate_is_still_rising() -> None:
    losses = [4.7 - 0.0015 * i + random.Random(i).gauss(0, 0.005) for i in range(80)]
    observation = observe(losses, max_steps=400)
    assert "slow_start" in kinds(observation)
    assert "slow_start" not in kinds(observe(losses, max_steps=None))
    rising = observation.series["lr"].model_copy(update={"values": [1e-5 * (i + 1) for i in range(80)]})
    warm_up = observation.model_copy(update={"series": {**observation.series, "lr": rising}})
    assert "slow_start" not in kinds(warm_up)


def test_log_rows_do_where_there_are_no_steps() -> None:
    assert "divergence" in kinds(observe([2.3, 40.0, 30.0, *noisy(28.0, 10)], loss_name="loss"))


finite = st.floats(min_value=1e-3, max_value=1e3)


@given(st.lists(finite, min_size=1, max_size=150), st.integers(min_value=-20, max_value=20))
@settings(max_examples=60, deadline=None)
def test_the_scale_of_a_loss_does_not_matter(losses: list[float], power: int) -> None:
    scaled = [value * 2.0**power for value in losses]  # a power of two: no rounding
    assert kinds(observe(losses)) == kinds(observe(scaled))


@given(
    st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=80), st.lists(finite, max_size=7)
)
@settings(max_examples=60, deadline=None)
def test_a_loss_that_ends_in_nan_is_non_finite_and_nothing_else(tail: list[float], head: list[float]) -> None:
    assert kinds(observe([*head, *tail])) == {"non_finite"}


@given(st.lists(st.floats(), max_size=120), st.lists(st.floats(), max_size=120))
@settings(max_examples=80, deadline=None)
def test_no_numbers_make_a_detector_fail(losses: list[float], grads: list[float]) -> None:
    for finding in detect(observe(losses, grads=grads)):
        assert finding.summary


def test_what_was_found_is_looked_for_anew_when_anything_that_matters_has_changed() -> None:
    spoilt = observe([*decay(100, 2.3, 0.5, 0.02), *noisy(9.0, 20)])
    found = detect(spoilt)
    assert "divergence" in kinds(spoilt)
    asked = spoilt.model_copy(update={"findings": found, "woken_by": ["finding divergence"]})
    assert detect(asked) == found
    later = spoilt.model_copy(update={"at_s": spoilt.at_s + 1000})
    assert "stall" in {finding.kind for finding in detect(later)}
    assert "stall" not in {finding.kind for finding in detect(later, stall_after_s=2000)}
    well = spoilt.model_copy(update={"series": observe(decay(120, 2.3, 0.5, 0.02)).series})
    assert "divergence" not in kinds(well)
    assert detect(spoilt) == found
