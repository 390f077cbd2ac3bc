"""A rate that is too low or too high is told by how the weights move, long before the loss alone could tell."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from agenttune.detectors import detect
from agenttune.detectors.schedules import is_rising, lost_to_warm_up
from agenttune.policy.rule_names import names_of
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import Observation
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.weight_looks import WeightLook
from agenttune.testing.situations import series_view
from tests.policy.conftest import decay, observe

MAX_STEPS = 300


def look(step: int, straightness: float, early: float, ratio: float = 0.01, since: int = 1) -> WeightLook:
    figures = {"step": step, "since_step": since, "steps": 5, "straightness": straightness}
    figures |= {"update_ratio": ratio, "early_update_ratio": early}
    return WeightLook.model_validate({**figures, "ratios": {"a": ratio}, "rms": {"a": 1.0}})


def seen(losses: list[float], straightness: float, early: float, since: int = 1) -> Observation:
    known = observe(losses, max_steps=MAX_STEPS)
    return known.model_copy(update={"weights": [look(len(losses), straightness, early, since=since)]})


def kinds(observation: Observation) -> dict[str, Finding]:
    return {f.kind: f for f in detect(observation) if f.kind in ("low_rate", "high_rate")}


def kept(part: float, steps: int = 48) -> list[float]:
    """A loss that falls steadily, and has kept a part of its start."""
    return [4.0 * (1 - (1 - part) * i / steps) for i in range(steps)]


@pytest.mark.parametrize(
    ("part", "straightness", "early"),
    [(0.99, 0.8, 0.009), (0.93, 0.74, 0.03), (1.0, 0.9, 0.003), (0.99, 0.3, 0.0008)],
    ids=["a tenth, AdamW", "a tenth, transformer", "a tenth, SGD", "a hundredth"],
)
def test_a_rate_that_is_too_low_is_found_at_an_eighth_of_the_run(
    part: float, straightness: float, early: float
) -> None:
    """Seen: a rate that was too low was never found, in 111 runs: it was asked for a fall that it cannot show."""
    finding = kinds(seen(kept(part), straightness, early))["low_rate"]
    assert finding.severity == "warning"
    assert finding.evidence["early_update_ratio"] == early
    assert f"has kept {finding.evidence['kept_frac']:.0%} of its start" in finding.summary
    assert not kinds(seen(kept(part)[:34], straightness, early)), "too early to tell"
    assert not kinds(seen(kept(part, 160), straightness, early)), "too late to win much"


@pytest.mark.parametrize(
    ("losses", "straightness", "early"),
    [
        (kept(0.45), 0.64, 0.09),
        (kept(0.92), 0.2, 0.03),
        (kept(1.0), 0.99, 0.64),
        (kept(0.9), 0.75, 0.07),
        ([0.5, *[1.6] * 47], 0.6, 0.012),
        ([*[4.0] * 24, *[4.0 - 0.04 * i for i in range(24)]], 0.8, 0.005),
    ],
    ids=["a good rate", "not straight", "dead", "a frozen layer", "a lucky first loss", "it has just begun to fall"],
)
def test_nothing_else_is_a_low_rate(losses: list[float], straightness: float, early: float) -> None:
    assert "low_rate" not in kinds(seen(losses, straightness, early))


@pytest.mark.parametrize("first", [0.1, 1.0, 12.0])
def test_where_every_loss_is_noise_evaluations_tell_that_a_rate_is_too_low(first: float) -> None:
    """Tiny batches with heavy tails: a first loss of 0.1 or 12 says nothing of where a loss of 1 began."""
    draw = random.Random(3)
    losses = [first, *(math.exp(draw.gauss(0, 1)) for _ in range(59))]

    def told(*values: float) -> dict[str, Finding]:
        evals = [(25 + 25 * i, value) for i, value in enumerate(values)]
        known = observe(losses, max_steps=MAX_STEPS, evals=evals)
        return kinds(known.model_copy(update={"weights": [look(60, 0.7, 0.001)]}))

    assert told(1.05, 1.02)["low_rate"].summary.startswith("the rate is too low: eval_loss has kept 97% of its start")
    assert not told(0.7, 0.25), "a good rate"
    assert not told(1.05), "a single one tells nothing"
    assert not told(1.05, 1.0, 0.85), "it has only just begun to fall"


def test_no_rate_is_too_low_while_it_warms_up_or_where_little_is_known() -> None:
    known = seen(kept(0.99), 0.9, 0.003)
    rising = {**known.series, "lr": series_view("lr", [1e-5 * i for i in range(1, 49)])}
    assert not kinds(known.model_copy(update={"series": rising}))
    assert not kinds(known.model_copy(update={"weights": []}))
    assert not kinds(known.model_copy(update={"weights": [look(48, math.nan, math.nan)]}))
    assert not kinds(known.model_copy(update={"max_steps": None}))
    assert not kinds(seen(kept(0.99), 0.9, 0.003, since=40)), "the newest change was a moment ago"


def test_weights_that_were_trained_before_may_move_little() -> None:
    known = seen(kept(0.95), 0.8, 0.003)
    chance = RunFacts(chance_loss=math.log(50_000), chance_of="a uniform guess over 50000 tokens")
    assert "low_rate" in kinds(known)
    assert "low_rate" not in kinds(known.model_copy(update={"facts": chance}))


def test_a_rate_that_is_too_high_is_found_in_the_first_steps() -> None:
    """Seen: moderately too high, or no warm-up, was invisible, or seen far too late."""
    losses = decay(12, 2.3, 1.5, 0.02)
    assert kinds(seen(losses, math.nan, 0.47))["high_rate"].severity == "warning"
    assert not kinds(seen(losses, math.nan, 0.24)), "a good rate"
    assert kinds(seen(losses, 0.2, 0.9, since=8))["high_rate"].evidence["since_step"] == 8
    assert "high_rate" in kinds(seen(kept(1.0, 100), 1.0, 0.6)), "dead, and nobody has gone back"
    assert not kinds(seen(kept(0.3, 100), 0.4, 0.47)), "the loss has fallen since"


def test_rules_know_the_way_of_the_weights_and_the_loss_of_chance() -> None:
    known = seen(kept(0.95), 0.8, 0.003)
    path = names_of(known)["path"]
    assert (path["straightness"], path["early_update_ratio"], path["steps"]) == (0.8, 0.003, 47)
    assert math.isnan(names_of(known.model_copy(update={"weights": []}))["path"]["straightness"])
    facts = RunFacts(chance_loss=math.log(10))
    assert names_of(known.model_copy(update={"facts": facts}))["loss"]["chance"] == math.log(10)
    assert math.isnan(names_of(known)["loss"]["chance"])


def test_a_warm_up_counts_by_its_rates() -> None:
    """Seen: a good run whose warm-up took a third of it had hardly lost anything at its end, and was raised."""
    losses, end = kept(0.93, 60), 60 * 3
    known = seen(losses, 0.8, 0.009).model_copy(update={"max_steps": 2 * end})
    assert lost_to_warm_up(known) == 0
    assert kinds(known)
    rates = series_view("lr", [1e-3 * min(1.0, step / 50) for step in range(1, 61)])
    warm = known.model_copy(update={"series": {**known.series, "lr": rates}})
    assert lost_to_warm_up(warm) == pytest.approx(24.5)
    assert names_of(warm)["path"]["full_steps"] == pytest.approx(59 - 24.5)
    assert not kinds(warm)


def test_what_the_peak_of_a_warm_up_does_is_seen_only_some_steps_later() -> None:
    """Also of one that rises in steps, an epoch each, and has just stood still for one."""

    def at(step: int, peak: int, ahead: float | None = None) -> Observation:
        known = seen(kept(0.95, step), 0.8, 0.003).model_copy(update={"max_steps": 400})
        rates = [1e-3 * min(1.0, (i + 1) / peak) for i in range(step)]
        changed: dict[str, Any] = {"series": {**known.series, "lr": series_view("lr", rates)}}
        if ahead is not None:
            track = Track(groups=[0], shares=[1.0], rates=[1e-3, ahead], lowest=[1e-3] * 2, highest=[1e-3, ahead])
            changed["schedule"] = LrCourse(kind="a function of the step", steps=[step, 400], tracks=[track])
        return known.model_copy(update=changed)

    assert is_rising(at(100, 100))
    assert is_rising(at(110, 100))
    assert not is_rising(at(200, 100))
    assert not is_rising(at(130, 100, ahead=1e-4))
    assert is_rising(at(130, 100, ahead=2e-3))
    assert names_of(at(110, 100, ahead=1e-3))["schedule"]["is_warming_up"]
