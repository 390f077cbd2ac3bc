"""What a detector reports at its threshold itself: the last that is nothing, the first that is a finding, and where.

Curves without noise, so that every limit can be told to the point.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import pytest

from agenttune.detectors import detect
from agenttune.detectors.forecast import band, compare, student
from agenttune.detectors.trend import spread
from agenttune.protocol.findings import Finding
from agenttune.protocol.lineage import Lineage, Segment
from agenttune.protocol.observation import HISTORY, Evaluation, Observation
from agenttune.protocol.proposals import Change
from tests.policy.conftest import applied, decay, observe, took_effect

FLAT = [1.0] * 60


def found(observation: Observation, kind: str, stall_after_s: float = 120.0) -> list[Finding]:
    return [finding for finding in detect(observation, stall_after_s) if finding.kind == kind]


def rated(
    values: Sequence[float], goal: str = "minimize", losses: Sequence[float] | None = None, every: int = 20
) -> Observation:
    """A run that was evaluated every so many steps, with a falling loss."""
    known = observe(losses or [2.0 - i / 1000 for i in range(every * len(values))], max_steps=10_000)
    evals = [Evaluation(step=every * (i + 1), metrics={"eval_x": value}) for i, value in enumerate(values)]
    return known.model_copy(update={"evaluations": evals, "goal_metric": "eval_x", "goal_direction": goal})


# -- at once -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle_s", "is_stall"), [(119.0, False), (120.0, False), (121.0, True)])
def test_a_stall_is_longer_than_the_limit_and_says_for_how_long(idle_s: float, is_stall: bool) -> None:
    stalls = found(observe(FLAT, idle_s=idle_s), "stall")
    assert bool(stalls) is is_stall
    if is_stall:
        assert (stalls[0].severity, stalls[0].step) == ("warning", 60)
        assert stalls[0].evidence == {"idle_s": idle_s}
        assert stalls[0].summary == "no step for 121 s (limit 120 s)"


def test_a_run_that_has_not_made_a_step_yet_does_not_stall() -> None:
    """Loading a large model takes long."""
    early = observe([], idle_s=10_000).model_copy(update={"last_step_at_s": None})
    assert not found(early, "stall")


@pytest.mark.parametrize(("count", "is_found"), [(2, False), (3, True)])
def test_three_non_finite_gradient_norms_in_a_row_are_a_finding_and_two_are_not(count: int, is_found: bool) -> None:
    grads = [1.0] * (60 - count) + [math.inf] * count
    findings = found(observe(FLAT, grads=grads), "non_finite")
    assert bool(findings) is is_found
    if is_found:
        assert findings[0].evidence == {"count": 3, "since_step": 58}
        assert (findings[0].severity, findings[0].step) == ("critical", 60)


def test_a_non_finite_loss_that_is_over_is_nothing() -> None:
    assert not found(observe([*FLAT, math.nan, 1.0]), "non_finite")
    assert len(found(observe([*FLAT, 1.0, math.nan], grads=[math.nan] * 62), "non_finite")) == 1


@pytest.mark.parametrize(("norm", "is_found"), [(99.0, False), (101.0, True)])
def test_a_gradient_norm_explodes_beyond_a_hundred_times_the_usual(norm: float, is_found: bool) -> None:
    findings = found(observe(FLAT, grads=[*[1.0] * 59, norm]), "gradient_explosion")
    assert bool(findings) is is_found
    if is_found:
        assert (findings[0].severity, findings[0].step) == ("warning", 60)
        assert findings[0].evidence == {"usual": pytest.approx(1.0), "norm": norm}
        assert findings[0].summary == "step_grad_norm jumped from about 1 to 101"


@pytest.mark.parametrize(("before", "is_found"), [(4, False), (5, True)])
def test_what_is_usual_takes_five_gradient_norms(before: int, is_found: bool) -> None:
    count = before + 1
    assert bool(found(observe([1.0] * count, grads=[*[1.0] * before, 500.0]), "gradient_explosion")) is is_found


@pytest.mark.parametrize(("after", "is_found"), [(9, True), (10, False)])
def test_an_explosion_is_told_while_it_is_among_the_newest_ten(after: int, is_found: bool) -> None:
    grads = [*[1.0] * 40, 500.0, *[1.0] * after]
    assert bool(found(observe([1.0] * len(grads), grads=grads), "gradient_explosion")) is is_found


def test_noisy_gradient_norms_must_stand_out_of_their_own_noise() -> None:
    wild = [math.exp(2.0 * (1 if i % 2 else -1) + 0.5 * (i % 3)) for i in range(59)]
    assert not found(observe(FLAT, grads=[*wild, 150.0]), "gradient_explosion")
    assert not found(observe(FLAT, grads=[*[-1.0, 1.0] * 29, 1.0, 500.0]), "gradient_explosion")


# -- spikes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "is_found"), [(1.29, False), (1.31, True)])
def test_a_spike_stands_above_thirteen_tenths_of_the_usual(height: float, is_found: bool) -> None:
    losses = [4.0, *[1.0] * 59, height, height]
    assert bool(found(observe(losses), "spike")) is (is_found and height - 1.0 > 0.3)
    losses = [1.0] * 60 + [height, height]
    assert bool(found(observe(losses), "spike")) is is_found


def test_one_high_point_is_no_spike_and_two_are_told_where_they_began() -> None:
    assert not found(observe([*FLAT, 2.0, 1.0]), "spike")
    (spike,) = found(observe([*FLAT, 2.0, 3.0]), "spike")
    assert (spike.severity, spike.step) == ("warning", 61)
    assert spike.evidence == {"cause": "fresh", "usual": 1.0, "top": 3.0, "steps": 2}


@pytest.mark.parametrize(("height", "is_found"), [(1.35, False), (1.45, True)])
def test_a_spike_undoes_more_than_a_tenth_of_what_was_gained(height: float, is_found: bool) -> None:
    losses = [5.0, *[1.0] * 60, height, height]
    assert bool(found(observe(losses), "spike")) is is_found


@pytest.mark.parametrize(("before", "is_found"), [(24, False), (25, True)])
def test_what_is_usual_takes_half_a_window_of_points(before: int, is_found: bool) -> None:
    assert bool(found(observe([*[1.0] * before, 1.4, 1.4]), "spike")) is is_found


@pytest.mark.parametrize(("after", "cause"), [(7, "fresh"), (8, "healed"), (46, "healed"), (47, None)])
def test_a_spike_has_healed_after_eight_points_and_is_forgotten_after_forty_eight(
    after: int, cause: str | None
) -> None:
    spikes = found(observe([*FLAT, 1.4, 1.4, *[1.0] * after], max_steps=100), "spike")
    assert [s.evidence["cause"] for s in spikes] == ([] if cause is None else [cause])
    assert all(s.severity == ("info" if cause == "healed" else "warning") for s in spikes)


# -- evaluations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_found"),
    [
        ([1.0, 1.1, 1.2, 1.3], True),
        ([1.0, 1.1, 1.2], False),
        ([1.0, 1.1, 1.1, 1.3], False),
        ([1.0, 1.005, 1.01, 1.021], True),
        ([1.0, 1.005, 1.01, 1.019], False),
    ],
    ids=["three worse", "two worse", "one alike", "more than two hundredths", "less"],
)
def test_overfitting_takes_three_evaluations_each_worse_and_two_hundredths_in_all(
    values: list[float], is_found: bool
) -> None:
    known = found(rated(values), "overfitting")
    assert bool(known) is is_found
    upside_down = found(rated([-value for value in values], "maximize"), "overfitting")
    assert bool(upside_down) is is_found
    if is_found:
        assert (known[0].severity, known[0].metric, known[0].step) == ("warning", "eval_x", 80)
        assert known[0].evidence["best"] == values[0]
        assert known[0].evidence["now"] == values[-1]
        assert upside_down[0].evidence["now"] == -values[-1]
        assert f"from -{values[0]:.4g} to -{values[-1]:.4g}" in upside_down[0].summary


def test_no_overfitting_while_the_training_loss_does_not_fall() -> None:
    worse = [1.0, 1.1, 1.2, 1.3]
    assert not found(rated(worse, losses=[1.0] * 80), "overfitting")
    assert not found(rated([v * 2 for v in worse], "maximize"), "overfitting"), "more is better here"


def test_five_evaluations_are_no_plateau_of_the_goal_and_six_are() -> None:
    assert not found(rated([0.5] * 5), "goal_plateau")
    (plateau,) = found(rated([0.5, 0.5, 0.5, 0.5, 0.5, 0.5]), "goal_plateau")
    assert (plateau.severity, plateau.metric, plateau.step) == ("info", "eval_x", 120)
    assert plateau.evidence == {"evaluations": 6, "low": 0.5, "high": 0.5, "since_step": 20}
    (never,) = found(rated([0.5] * 7), "goal_plateau")
    assert never.severity == "warning"
    assert "and never has" in never.summary
    assert never.evidence["since_step"] == 40


def test_a_goal_never_moved_is_said_only_of_all_evaluations_that_there_were() -> None:
    """Seen: "never has improved", of the fifty newest of a thousand evaluations."""
    (known,) = found(rated([0.5] * (HISTORY - 1)), "goal_plateau")
    assert "and never has" in known.summary
    (cut,) = found(rated([0.5] * HISTORY), "goal_plateau")
    assert f"nor over all {HISTORY} that are known here" in cut.summary


@pytest.mark.parametrize(
    ("values", "direction", "is_found"),
    [
        ([2.0, 0.5, *[0.0] * 6], "minimize", False),
        ([0.0] * 7, "minimize", False),
        ([2.0, 0.5, *[0.1] * 6], "minimize", True),
        ([0.2, 0.9, *[1.0] * 6], "maximize", False),
        ([0.2, 0.9, *[0.97] * 6], "maximize", True),
        ([-3.0, *[0.0] * 6], "minimize", True),
        ([20.0, *[200.0] * 6], "maximize", True),
    ],
    ids=["no loss left", "never any", "some left", "all right", "not all right", "below nothing", "a reward"],
)
def test_where_nothing_can_be_gained_there_is_no_plateau_of_the_goal(
    values: list[float], direction: Literal["minimize", "maximize"], is_found: bool
) -> None:
    assert bool(found(rated(values, direction), "goal_plateau")) is is_found


def test_a_plateau_of_a_goal_of_which_more_is_better_is_told_in_its_own_figures() -> None:
    (plateau,) = found(rated([0.1, 0.3, 0.5, 0.502, 0.499, 0.501, 0.5, 0.498, 0.503], "maximize"), "goal_plateau")
    assert (plateau.evidence["low"], plateau.evidence["high"]) == (0.498, 0.503)
    assert "between 0.498 and 0.503" in plateau.summary


def test_a_goal_that_creeps_is_said_to_hardly_move_and_one_that_broke_is_no_plateau() -> None:
    """Seen: "not moved beyond its noise ... between 0.9889 and 3300", and beside "overfitting: went from ... to"."""
    risen = [0.985, 0.6, 0.364, 0.4219, 0.4225, 0.4231, 0.4237, 0.4243, 0.4249]
    (creeps,) = found(rated(risen), "goal_plateau")
    assert "has hardly moved over the last 6" in creeps.summary
    (still,) = found(rated([0.985, 0.6, 0.364, *[0.42, 0.43, 0.425] * 2]), "goal_plateau")
    assert "has not moved beyond its noise" in still.summary
    assert not found(rated([1.9, 1.2, 0.9889, 1.01, 1.0, 3300.0, 1.02, 0.99, 1.0]), "goal_plateau")


def test_evaluations_that_are_not_finite_do_not_count() -> None:
    assert not found(rated([0.5, 0.5, 0.5, math.nan, 0.5, 0.5]), "goal_plateau")
    assert found(rated([0.5, 0.5, 0.5, math.nan, 0.5, 0.5, 0.5]), "goal_plateau")


# -- the course of the loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "is_found"), [(300, True), (301, False)])
def test_a_plateau_is_told_in_the_first_three_quarters_of_a_run(step: int, is_found: bool) -> None:
    assert bool(found(observe([1.0] * step, max_steps=400), "plateau")) is is_found
    assert found(observe([1.0] * step, max_steps=None), "plateau")


@pytest.mark.parametrize(("points", "is_found"), [(79, False), (80, True)])
def test_a_plateau_takes_eighty_points_since_the_newest_change(points: int, is_found: bool) -> None:
    assert bool(found(observe([1.0] * points), "plateau")) is is_found
    changed = observe([1.0] * (60 + points), commands=[applied(60, 1e-3)])
    assert bool(found(changed, "plateau")) is is_found


def test_a_plateau_says_what_was_gained_and_how_high_it_stands() -> None:
    losses = [4.0 - 0.03 * i for i in range(100)] + [1.0] * 100
    (plateau,) = found(observe(losses), "plateau")
    assert plateau.evidence == {"gain": 0.0, "steps": 50, "level": 1.0, "start": 4.0}
    assert plateau.severity == "info"
    assert "nothing gained in 50 points, now 1" in plateau.summary


@pytest.mark.parametrize(("steps", "is_found"), [(49, False), (50, True)])
def test_a_slow_start_takes_fifty_points(steps: int, is_found: bool) -> None:
    losses = [4.0 - 0.001 * i for i in range(steps)]
    assert bool(found(observe(losses, max_steps=400), "slow_start")) is is_found


@pytest.mark.parametrize(("max_steps", "is_found"), [(159, False), (160, True)])
def test_a_slow_start_is_told_in_the_first_half_of_a_run(max_steps: int, is_found: bool) -> None:
    losses = [4.0 - 0.001 * i for i in range(80)]
    assert bool(found(observe(losses, max_steps=max_steps), "slow_start")) is is_found


def test_a_slow_start_says_where_it_would_end() -> None:
    losses = [4.0 - 0.001 * i for i in range(80)]
    (slow,) = found(observe(losses, max_steps=400), "slow_start")
    assert slow.evidence["slope_per_step"] == pytest.approx(-0.001, rel=0.05)
    assert slow.evidence["expected_end"] == pytest.approx(3.6, rel=0.02)
    assert (slow.severity, slow.step) == ("warning", 80)


@pytest.mark.parametrize(("end", "is_found"), [(1.9, True), (1.0, False)])
def test_a_loss_that_would_lose_most_of_its_start_by_the_end_is_not_slow(end: float, is_found: bool) -> None:
    """Steady to the last digit, a fall to more than 45 % of the start is called slow."""
    losses = [4.0 - (4.0 - end) * i / 400 for i in range(80)]
    assert bool(found(observe(losses, max_steps=400), "slow_start")) is is_found


def test_a_fall_that_bends_is_not_slow() -> None:
    """It bends as at a good rate, or is picking up by itself."""
    flattens = [3.9 + 0.1 * math.exp(-i / 20) for i in range(80)]
    picks_up = [4.0 - 0.1 * (i / 80) ** 3 for i in range(80)]
    for losses in flattens, picks_up:
        assert not found(observe(losses, max_steps=400), "slow_start")


# -- divergence --------------------------------------------------------------------------------------------------------


def cause(losses: Sequence[float], **given: object) -> str | None:
    findings = found(observe(losses, **given), "divergence")  # type: ignore[arg-type]
    return str(findings[0].evidence["cause"]) if findings else None


def test_most_of_eight_points_far_above_the_start_are_a_blow_up() -> None:
    assert cause([1.0, *[9.0] * 6]) is None, "seven points tell nothing yet"
    assert cause([1.0] * 8 + [3.1] * 4) is None, "it may come back"
    assert cause([1.0] * 8 + [3.1] * 5) == "blow_up"
    assert cause([1.0] * 8 + [2.9] * 5) is None
    assert cause([1.0] * 8 + [2.9] * 8) == "hump"


@pytest.mark.parametrize(("height", "expected"), [(1.49, None), (1.51, "hump")])
def test_eight_points_half_above_the_start_are_a_hump_and_seven_are_none(height: float, expected: str | None) -> None:
    assert cause([*[1.0] * 20, *[height] * 8]) == expected
    assert cause([*[1.0] * 20, *[height] * 7]) is None
    assert cause([*[1.0] * 20, height, height]) is None


@pytest.mark.parametrize(("after", "expected"), [(15, None), (16, "hump")])
def test_what_is_left_of_a_hump_counts_after_sixteen_points(after: int, expected: str | None) -> None:
    assert cause([1.0, *[0.9] * 19, 1.6, 1.6, *[0.95] * after]) == expected
    assert cause([1.0, *[0.9] * 19, 1.6, 1.6, *[0.92] * after]) is None, "it has come back"


@pytest.mark.parametrize(("after", "expected"), [(31, "hump"), (32, None)])
def test_a_blow_up_at_the_very_start_takes_thirty_two_points_to_heal(after: int, expected: str | None) -> None:
    assert cause([1.0, *[0.9] * 6, 3.2, 3.2, *[0.9] * after]) == expected
    assert cause([1.0, *[0.9] * 7, 3.2, 3.2, *[0.9] * after]) is None, "what it was before is known"


@pytest.mark.parametrize(("since", "expected"), [(11, None), (12, "blow_up")])
def test_no_verdict_on_a_change_rests_on_its_first_points(since: int, expected: str | None) -> None:
    losses = [*[1.0] * 20, *[5.0] * since]
    assert cause(losses, commands=[applied(20, 1.0)]) == expected


def test_a_rise_takes_a_quarter_of_all_that_was_gained() -> None:
    down = [4.0 - 0.03 * i for i in range(100)]
    assert cause([*down, *[1.03 + 0.01 * i for i in range(60)], *[1.6] * 16]) is None
    assert cause([*down, *[1.03 + 0.02 * i for i in range(60)], *[2.2] * 16]) == "rise"


def test_a_jump_is_told_with_its_step_and_is_critical_above_the_start() -> None:
    (jump,) = found(observe([*decay(60, 4.0, 1.0, 0.0), *[2.5] * 30]), "divergence")
    assert jump.evidence["cause"] == "jump"
    assert jump.evidence["at_step"] == 61
    assert jump.severity == "warning"


# -- what a curve says -------------------------------------------------------------------------------------------------


def test_the_most_severe_finding_is_told_first() -> None:
    """A model reads the first of them first, and a screen has room for few."""
    flat = rated([0.5] * 6, losses=[1.0] * 120)
    late = flat.model_copy(update={"last_step_at_s": flat.at_s - 500, "max_steps": 10_000})
    assert [f.severity for f in detect(late)] == ["warning", "info", "info"]
    broken = late.model_copy(update={"series": observe([1.0] * 119 + [math.nan]).series})
    assert [f.severity for f in detect(broken)][:2] == ["critical", "warning"]


def test_a_change_on_a_branch_that_was_left_is_none() -> None:
    left = took_effect(60, {"kind": "update_optimizer", "lr": 0.1}, [], branch="left")
    segments = [Segment(branch="main", last_step=None)]
    run = observe([1.0] * 100, commands=[left]).model_copy(update={"lineage": Lineage(segments=segments)})
    assert found(run, "plateau")
    here = took_effect(60, {"kind": "update_optimizer", "lr": 0.1}, [], branch="main")
    assert not found(run.model_copy(update={"commands": [here]}), "plateau")


def test_a_probe_that_adopted_nothing_is_no_change() -> None:
    tried = {"kind": "probe", "candidates": [{"kind": "update_optimizer", "lr": 0.1}]}
    change = Change(name="lr", previous=0.01, requested=0.1, effective=0.1)
    assert found(observe([1.0] * 100, commands=[took_effect(60, tried, [])]), "plateau")
    assert not found(observe([1.0] * 100, commands=[took_effect(60, tried, [change])]), "plateau")
    noted = took_effect(60, {"kind": "add_note", "text": "looks flat"}, [])
    assert found(observe([1.0] * 100, commands=[noted]), "plateau")


def test_a_curve_that_crosses_zero_goes_by_its_noise_alone() -> None:
    """A reward, or a log-likelihood: there is no factor of a number below zero."""
    losses = [0.5, *[-0.1] * 60, 0.5, 0.6]
    (spike,) = found(observe(losses), "spike")
    assert spike.evidence["usual"] == -0.1


@pytest.mark.parametrize(("level", "is_found"), [(1.1, True), (0.9, False)])
def test_a_loss_below_a_tenth_of_its_start_is_finished_and_no_plateau(level: float, is_found: bool) -> None:
    assert bool(found(observe([10.0, *[level] * 120]), "plateau")) is is_found


@pytest.mark.parametrize(("level", "severity"), [(0.84, "warning"), (0.86, "info"), (0.51, "warning"), (0.49, "info")])
def test_a_plateau_is_early_after_a_fall_of_some_of_the_start_and_not_of_most(level: float, severity: str) -> None:
    (plateau,) = found(observe([1.0] * 3 + [level] * 120), "plateau")
    assert plateau.severity == severity


def test_a_plateau_after_a_long_fall_is_no_warning() -> None:
    fell = [8.0 - 0.03 * i for i in range(100)]
    (late,) = found(observe([*fell, *[5.0] * 120]), "plateau")
    assert late.severity == "info"
    (early,) = found(observe([*fell[::5], *[5.0] * 120]), "plateau")
    assert early.severity == "warning"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_plateau_of_a_noisy_loss_is_one_at_any_scale(scale: float) -> None:
    noisy = [scale * (1 + 0.005 * math.sin(17.0 * i * i)) for i in range(200)]
    assert found(observe([4 * scale, *noisy]), "plateau")
    falling = [scale * (1 - 0.001 * i) for i in range(200)]
    assert not found(observe([4 * scale, *falling]), "plateau")


def test_a_noisy_fall_is_not_called_slow() -> None:
    """A higher rate is surely harmless only where the fall is nearly free of noise."""
    draw = random.Random(0)
    noisy = [4.0 - 0.001 * i + draw.gauss(0, 0.03) for i in range(80)]
    assert not found(observe(noisy, max_steps=400), "slow_start")
    assert not found(observe([4.0 + 0.001 * i for i in range(80)], max_steps=400), "slow_start")


def test_bad_batches_are_told_in_the_figures_of_a_goal_of_which_more_is_better() -> None:
    losses = [*[1.0] * 60, 2.0, 2.0, 1.0]
    known = observe(losses).model_copy(update={"goal_metric": "eval_x", "goal_direction": "maximize"})

    def at(now: float) -> Observation:
        evals = [Evaluation(step=s, metrics={"eval_x": v}) for s, v in ((40, 0.5), (62, now))]
        return known.model_copy(update={"evaluations": evals})

    (spike,) = found(at(0.6), "spike")
    assert "eval_x has improved since, 0.5 -> 0.6" in spike.summary
    for no_better in 0.5, 0.4:
        assert found(at(no_better), "spike")[0].evidence["cause"] == "fresh"


def test_noise_is_told_as_the_standard_deviation_of_one_step() -> None:
    draw = random.Random(0)
    assert spread([5.0 - 0.1 * i + draw.gauss(0, 0.5) for i in range(4000)]) == pytest.approx(0.5, rel=0.1)
    assert spread([0.0, 5.0]) == 0.0
    assert spread([0.0, 1.0, 2.0]) == 0.0


@pytest.mark.parametrize(
    ("tolerance", "freedom", "quantile"),
    [(1.96, 10, 2.228), (1.96, 5, 2.571), (2.5758, 10, 3.169), (1.96, 10**6, 1.96)],
)
def test_a_tolerance_on_few_points_is_widened_as_students_is(tolerance: float, freedom: int, quantile: float) -> None:
    """Quantiles of any table of Student's t, two-sided 5 % and 1 %."""
    assert student(tolerance, freedom) == pytest.approx(quantile, rel=0.002)
    assert student(tolerance, 0) == student(tolerance, 1)


def test_a_forecast_takes_four_points_before_and_one_after() -> None:
    assert band([1.0] * 3, [1.0], 2.0) is None
    assert band([1.0] * 4, [], 2.0) is None
    assert band([1.0] * 4, [math.nan], 2.0) is None
    assert band([1.0] * 4, [1.0], 2.0) is not None
    assert compare([1.0] * 3, [1.0]) is None
    assert compare([1.0] * 4, []) is None
    assert compare([1.0] * 4, [1.0]) is not None


def test_a_forecast_is_told_in_the_metrics_own_units() -> None:
    before = [2.0 + math.exp(-i / 8) for i in range(32)]
    found_ = compare(before, [4.0] * 16)
    assert found_ is not None
    assert (found_.is_log, found_.points) == (True, (32, 16))
    assert found_.found == pytest.approx(4.0)
    assert found_.forecast == pytest.approx(2.0, abs=0.05)
    assert found_.level == pytest.approx(2.03, abs=0.05)
    below = compare([v - 3 for v in before], [1.0] * 16)
    assert below is not None
    assert not below.is_log
    assert below.found == pytest.approx(1.0)
    assert below.forecast == pytest.approx(-1.0, abs=0.05)


def test_a_run_on_its_way_back_is_expected_to_get_no_further_than_where_it_was() -> None:
    falling = [3.0 - 0.05 * i for i in range(32)]
    free, floored = compare(falling, [1.4] * 16), compare(falling, [1.4] * 16, lowest=1.5)
    assert free is not None
    assert floored is not None
    assert free.forecast < 1.45
    assert floored.forecast == pytest.approx(1.5)
    arrived = compare(falling, [1.4] * 16, lowest=2.0)
    assert arrived is not None
    assert arrived.forecast == pytest.approx(free.forecast), "it is below that already"


def test_a_loss_that_is_noisier_after_a_change_or_wanders_before_it_is_judged_more_carefully() -> None:
    draw = random.Random(1)
    calm, wild = [1 + draw.gauss(0, 0.01) for _ in range(16)], [1 + draw.gauss(0, 0.1) for _ in range(16)]
    wanders = [1.0 + 0.01 * (-1) ** (i // 3) for i in range(16)]
    after_calm, after_wild, after_wandering = compare(calm, calm), compare(calm, wild), compare(wanders, calm)
    assert after_calm is not None
    assert after_wild is not None
    assert after_wandering is not None
    assert 1.5 * after_calm.error < after_wild.error < 3 * after_calm.error
    assert after_wandering.error > 1.3 * after_calm.error
