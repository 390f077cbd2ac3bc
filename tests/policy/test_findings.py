"""A finding says what was seen, in words that agree with its figures: no plateau that rose, no alarm that is over."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttune.detectors import detect
from agenttune.detectors.divergence import Divergence
from agenttune.detectors.evaluations import GOAL_PLATEAU_EVALS
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Evaluation, Observation
from agenttune.protocol.weight_looks import WeightLook
from tests.policy.conftest import decay, observe


def found(observation: Observation, kind: str) -> list[Finding]:
    return [finding for finding in detect(observation) if finding.kind == kind]


def noisy(level: float, count: int, noise: float = 0.02, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, noise)) for _ in range(count)]


def test_a_loss_that_jumped_within_one_step_and_stays_is_called_so() -> None:
    (finding,) = found(observe([*decay(150, 4.0, 1.0), *noisy(2.5, 30)]), "divergence")
    assert (finding.evidence["cause"], finding.evidence["at_step"]) == ("jump", 151)
    assert "within one step, at step 151, and stays there" in finding.summary


def test_a_slow_rise_is_called_so_with_the_steps_it_took() -> None:
    rise = [1.0 + 0.012 * i for i in range(100)]
    (finding,) = found(observe([*decay(150, 4.0, 1.0), *rise]), "divergence")
    assert finding.evidence["cause"] == "rise"
    steps = re.search(r"over (\d+) steps", finding.summary)
    assert steps is not None
    assert 60 <= int(steps[1]) <= 120


@pytest.mark.parametrize("height", [2.0, 4.0, 30.0])
@pytest.mark.parametrize("bad", [2, 4])
def test_a_spike_is_fresh_then_healed_and_never_critical_for_long(height: float, bad: int) -> None:
    losses = [*decay(120, 4.0, 1.0, 0.02), *[1.0 * height] * bad, *noisy(1.0, 60)]
    causes = []
    for n in range(121, 182):
        known = observe(losses[:n])
        causes += [str(f.evidence["cause"]) for f in found(known, "spike")]
        if n > 120 + bad + 16:
            assert not [f for f in detect(known) if f.severity == "critical"]
            assert not [f for f in found(known, "spike") if f.severity != "info"]
    assert list(dict.fromkeys(causes)) == ["fresh", "healed"]
    (told,) = found(observe(losses[:150]), "spike")
    assert "healed by itself" in told.summary


def test_bad_batches_while_evaluations_improve_are_no_critical_divergence() -> None:
    """Seen: "critical divergence" for two bad batches of a fine-tuning whose evaluations went on improving."""
    losses = [*decay(60, 1.2, 0.9, 0.03), 2.4, 2.6, *noisy(0.9, 6)]
    before = [(20, 1.1), (40, 1.0), (60, 0.95)]
    assert not found(observe(losses, evals=before), "divergence")  # the loss is back
    known = observe(losses, evals=[*before, (66, 0.93)])
    assert not [f for f in detect(known) if f.severity == "critical"]
    (told,) = found(known, "spike")
    assert (told.severity, told.evidence["cause"]) == ("info", "bad_batches")
    assert "eval_loss has improved since, 0.95 -> 0.93" in told.summary
    worse = observe(losses, evals=[*before, (66, 1.9)])
    assert [f.severity for f in found(worse, "divergence")] == ["critical"]
    stays = observe([*losses, *noisy(4.0, 20)], evals=[*before, (66, 0.93)])
    assert [f.severity for f in found(stays, "divergence")] == ["critical"]


def test_a_loss_that_rose_is_no_plateau() -> None:
    """Seen: a plateau with "-1.34 gained" for a loss that rose fourfold."""
    for losses in (
        [*noisy(0.5, 60), *[0.5 + 0.012 * i for i in range(130)]],
        [*noisy(0.5, 100), *noisy(2.0, 200)],
        [*noisy(0.5, 8), *noisy(2.0, 300)],
    ):
        for n in range(90, len(losses), 10):
            assert not found(observe(losses[:n], max_steps=None), "plateau"), n


def goal(values: Sequence[float], maximize: bool = False) -> Observation:
    known = observe([1.0] * 30 * len(values), max_steps=10_000)
    evals = [Evaluation(step=30 * i + 30, metrics={"eval_x": value}) for i, value in enumerate(values)]
    direction = "maximize" if maximize else "minimize"
    return known.model_copy(update={"evaluations": evals, "goal_metric": "eval_x", "goal_direction": direction})


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ([0.5] * 6, "info"),
        ([0.1, 0.3, 0.5, 0.502, 0.499, 0.501, 0.5, 0.498, 0.503], "info"),
        ([0.5, 0.51, 0.49, 0.5, 0.51, 0.49, 0.5, 0.51], "warning"),
        ([0.5] * 5, None),
        ([0.1, 0.2, 0.3, 0.4, 0.45, 0.5], None),
        ([0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56], None),
        ([0.56, 0.55, 0.54, 0.53, 0.52, 0.51, 0.50], None),
        ([-3.795, -2.60, -2.31, -1.98, -1.80, -1.715], None),
        ([-3.795, -1.72, -1.71, -1.73, -1.70, -1.715], None),
        ([-3.795, -1.72, -1.71, -1.73, -1.70, -1.715, -1.72], "info"),
    ],
    ids=[
        "flat",
        "arrived",
        "never moved",
        "too few",
        "moves",
        "moves slowly",
        "gets worse",
        "ever more slowly",
        "just arrived",
        "long arrived",
    ],
)
def test_a_goal_that_has_not_moved_for_six_evaluations_is_a_finding(values: list[float], severity: str | None) -> None:
    for maximize in (True, False):
        known = [f.severity for f in found(goal(values, maximize), "goal_plateau")]
        assert known == ([] if severity is None else [severity])


level = st.floats(min_value=0.05, max_value=50)


@st.composite
def curves(draw: st.DrawFn) -> list[float]:
    """Pieces of curves: falls, flats, jumps, spikes and rises, with noise."""
    random_ = random.Random(draw(st.integers(0, 10_000)))
    noise, losses, at = draw(st.sampled_from([0.0, 0.02, 0.2])), list[float](), draw(level)
    for _ in range(draw(st.integers(1, 5))):
        to, count = draw(level), draw(st.integers(1, 80))
        losses += [(at + (to - at) * i / count) * math.exp(random_.gauss(0, noise)) for i in range(count)]
        at = draw(st.sampled_from([at, to]))
    return losses


@given(curves(), st.lists(level, max_size=12))
@settings(max_examples=150, deadline=None)
def test_the_words_of_every_finding_agree_with_its_figures(losses: list[float], values: list[float]) -> None:
    every = max(1, len(losses) // max(1, len(values)))
    evals = [(min(len(losses), every * (i + 1)), value) for i, value in enumerate(values)]
    for finding in detect(observe(losses, max_steps=None, evals=evals)):
        seen, words = finding.evidence, finding.summary
        assert finding.step <= len(losses)
        if finding.kind == "plateau":
            assert "-" not in re.sub(r"e-\d+", "", words.split("gained")[0].split(": ")[1])
            assert float(seen["level"]) <= float(seen["start"]) * 2
        if finding.kind == "divergence" and seen["cause"] in ("jump", "rise"):
            assert float(seen["level"]) > float(seen["best"])
        if finding.kind == "spike":
            assert float(seen["top"]) > float(seen["usual"])
            assert (finding.severity == "info") == (seen["cause"] in ("healed", "bad_batches"))
        if finding.kind == "goal_plateau":
            assert len(values) >= GOAL_PLATEAU_EVALS
            assert float(seen["low"]) <= float(seen["high"])


@given(st.integers(0, 1000), st.integers(60, 200), st.integers(2, 4), st.floats(1.5, 60))
@settings(max_examples=60, deadline=None)
def test_a_spike_that_healed_is_never_critical(seed: int, at: int, bad: int, height: float) -> None:
    losses = decay(320, 4.0, 1.0, 0.03, seed)
    spiked = [loss * height if at <= i < at + bad else loss for i, loss in enumerate(losses)]
    for n in (at + bad + 20, at + bad + 40, at + bad + 80):
        assert not [f for f in detect(observe(spiked[:n], max_steps=None)) if f.severity != "info"], n


def severities(losses: Sequence[float], first: int, last: int, kind: str = "divergence") -> list[str]:
    """Those of a kind of finding, at each step of a stretch."""
    return [f.severity for n in range(first, last + 1) for f in found(observe(losses[:n]), kind)]


@pytest.mark.parametrize("bad", [1, 2, 3])
@pytest.mark.parametrize("height", [8.0, 40.0])
def test_a_spike_far_above_the_start_that_heals_within_ten_steps_is_never_critical(bad: int, height: float) -> None:
    """Seen: two points above a hump counted, whatever followed: the rate was cut to a tenth for good."""
    losses = [*decay(120, 4.0, 1.0, 0.02), *[height] * bad, *noisy(1.3, 10 - bad), *noisy(1.0, 80)]
    assert "critical" not in severities(losses, 121, len(losses))
    assert not found(observe(losses), "divergence")


def test_a_hump_that_stays_is_critical_within_some_steps_of_its_begin() -> None:
    losses = [*decay(120, 4.0, 1.0, 0.02), *noisy(9.0, 60)]
    assert severities(losses, 121, 127) == []
    told = one_of(observe(losses[:136]), "divergence")
    assert told.severity == "critical"
    assert told.evidence["at_step"] == 121


def test_a_blow_up_that_heals_in_part_only_is_critical() -> None:
    losses = [*decay(120, 4.0, 1.0, 0.02), 20.0, 60.0, 30.0, 12.0, 7.0, *noisy(3.0, 60)]
    assert one_of(observe(losses[:145]), "divergence").severity == "critical"
    assert one_of(observe(losses), "divergence").evidence["cause"] == "hump"


def one_of(observation: Observation, kind: str) -> Finding:
    (told,) = found(observation, kind)
    return told


def test_evaluations_that_are_as_good_as_before_overrule_a_training_loss_that_rose() -> None:
    """Adversarial training: the loss goes far above its start without any harm."""
    losses = [*noisy(2.0, 60), *noisy(6.5, 60)]
    before = [(20, 0.8), (40, 0.7), (60, 0.65)]
    assert one_of(observe(losses, evals=before), "divergence").severity == "critical"
    fine = one_of(observe(losses, evals=[*before, (110, 0.6)]), "divergence")
    assert (fine.severity, "as good as before" in fine.summary) == ("info", True)
    assert one_of(observe(losses, evals=[*before, (110, 0.9)]), "divergence").severity == "critical"


def heavy_tails(seed: int, steps: int, batch: int = 4) -> list[float]:
    """Squared errors in tiny batches that fall to their noise, whose tails are those of Student's t (1.5 degrees)."""
    draw = random.Random(seed)

    def error(scale: float) -> float:
        chi2 = draw.gammavariate(0.75, 2.0)
        return scale * draw.gauss(0, 1) + 0.3 * draw.gauss(0, 1) * math.sqrt(1.5 / chi2)

    scales = [max(0.25, math.exp(-max(0, step - 10) / 60)) for step in range(steps)]
    return [sum(error(scale) ** 2 for _ in range(batch)) / batch for scale in scales]


def test_a_healthy_run_whose_noise_has_heavy_tails_is_never_called_critical() -> None:
    """Thirty runs: once in a while two batches in a row are a hundred times off, or the first one is near nothing."""
    for seed in range(30):
        losses = heavy_tails(seed, 400)
        seen = [f for n in range(10, 401, 5) for f in Divergence().detect(observe(losses[:n]))]
        assert "critical" not in [finding.severity for finding in seen], seed


def test_a_blow_up_in_such_noise_is_critical_all_the_same() -> None:
    for seed in range(10):
        losses = [*heavy_tails(seed, 100), *(2000 * loss for loss in heavy_tails(seed + 100, 40))]
        assert "critical" in severities(losses, 110, 140), seed


def test_a_first_loss_that_was_low_by_chance_is_no_blow_up_where_weights_hardly_moved() -> None:
    """Tiny batches with heavy tails: 0.12, then 2.5, 0.8, 0.6, and so on."""
    losses = [0.12, *noisy(0.8, 19, noise=0.2)]
    seen = observe(losses)
    assert one_of(seen, "divergence").severity == "critical"
    figures = {"step": 18, "since_step": 1, "steps": 5, "straightness": 0.4, "update_ratio": 0.01}
    look = WeightLook.model_validate({**figures, "ratios": {"a": 0.01, "b": 0.02}, "rms": {"a": 1.0, "b": 1.0}})
    assert not found(seen.model_copy(update={"weights": [look]}), "divergence")
    large = look.model_copy(update={"ratios": {"a": 0.01, "b": 0.7}})
    assert one_of(seen.model_copy(update={"weights": [large]}), "divergence").severity == "critical"
