"""A rate that has collapsed is found before the rest of the run is wasted; every usual schedule is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from agenttune.detectors import detect
from agenttune.detectors.schedules import is_rising
from agenttune.policy.rule_names import names_of
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord
from agenttune.testing.situations import series_view
from tests.policy.conftest import applied, decay, observe

STEPS, PEAK = 400, 1e-3
Schedule = Callable[[float], float]


def warm(rest: Schedule, part: float = 0.05) -> Schedule:
    return lambda done: done / part if done < part else rest(done)


USUAL: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "linear": warm(lambda done: (1 - done) / 0.95),
    "cosine": warm(lambda done: 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95)),
    "inverse root": warm(lambda done: math.sqrt(0.05 / done)),
    "warm-up, stable, decay": warm(lambda done: 1.0 if done < 0.8 else (1 - done) / 0.2),
    "steps": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
    "long warm-up": warm(lambda done: 1.0, 0.5),
    "restarts": lambda done: 0.5 + 0.5 * math.cos(math.pi * (done * 3 % 1)),
}


def collapsed(done: float) -> float:
    return 1.0 if done < 0.1 else 0.02


def seen(schedule: Schedule, step: int, losses: list[float] | None = None) -> Observation:
    """A run at a step, with the rates so far and those to come."""
    rates = [PEAK * schedule(i / STEPS) for i in range(STEPS + 1)]
    known = observe(losses or decay(STEPS, 4.0, 1.0, 0.02)[:step], max_steps=STEPS)
    ahead = sorted({*range(step, STEPS, 7), step, STEPS})
    course = LrCourse(
        kind="a function of the step",
        steps=ahead,
        tracks=[
            Track(
                groups=[0],
                shares=[1.0],
                rates=[rates[s] for s in ahead],
                lowest=[rates[s] for s in ahead],
                highest=[max(rates[max(step, s - 6) : s + 1]) for s in ahead],
            )
        ],
    )
    series = {**known.series, "lr": series_view("lr", rates[:step])}
    knobs = [known.knobs[0].model_copy(update={"base": PEAK, "effective": rates[step]})]
    return known.model_copy(update={"series": series, "schedule": course, "knobs": knobs})


def found(observation: Observation) -> list[Finding]:
    return [f for f in detect(observation) if f.kind == "collapsed_schedule"]


@pytest.mark.parametrize("name", USUAL)
def test_no_usual_schedule_has_collapsed_at_any_step(name: str) -> None:
    assert not [step for step in range(2, STEPS, 6) if found(seen(USUAL[name], step))]


def test_a_schedule_that_has_collapsed_is_found_at_once_and_told_by_its_figures() -> None:
    assert not found(seen(collapsed, 38))
    (finding,) = found(seen(collapsed, 44))
    assert (finding.severity, finding.metric, finding.evidence["cause"]) == ("warning", "lr", "schedule")
    assert "2.0% of its highest (0.001)" in finding.summary
    assert not found(seen(collapsed, 300)), "little is left to win"


def test_rules_know_what_is_left_of_the_schedule_and_whether_it_warms_up() -> None:
    names = names_of(seen(collapsed, 60))["schedule"]
    assert names["left_frac"] == pytest.approx(0.02)
    assert not names["is_warming_up"]
    assert names_of(seen(USUAL["linear"], 10))["schedule"]["is_warming_up"]
    assert names_of(seen(USUAL["linear"], 210))["schedule"]["left_frac"] == pytest.approx(0.25, abs=0.01)
    assert math.isnan(names_of(observe([1.0] * 20))["schedule"]["left_frac"])


def cut(step: int, principal: str, previous: float = PEAK) -> CommandRecord:
    record = applied(step, previous * 0.01)
    assert record.ack is not None
    changes = [c.model_copy(update={"previous": previous, "effective": previous * 0.01}) for c in record.ack.changes]
    ack = record.ack.model_copy(update={"changes": changes})
    author = Author(principal=principal, name="ann")
    return record.model_copy(update={"ack": ack, "proposal": record.proposal.model_copy(update={"author": author})})


def after_cut(principal: str, losses: list[float]) -> list[Finding]:
    step = len(losses)
    known = seen(lambda done: 0.01, step, losses)
    rates = [PEAK] * 80 + [PEAK * 0.01] * (step - 80)
    series = {**known.series, "lr": series_view("lr", rates)}
    return found(known.model_copy(update={"series": series, "commands": [cut(80, principal)]}))


def test_a_harmful_cut_of_an_operators_is_named_once_the_loss_has_stalled() -> None:
    well = decay(80, 4.0, 2.0, 0.02)
    level = well[-1]
    stalls = [*well, *decay(60, level, level * 0.98, 0.02)]
    assert not after_cut("operator", stalls[:100]), "too soon to tell"
    (finding,) = after_cut("operator", stalls)
    assert finding.evidence["cause"] == "command"
    assert finding.evidence["at_step"] == 80
    assert "ann cut the rate from 0.001 to 1e-05 at step 80" in finding.summary
    assert not after_cut("operator", [*well, *[level * (1 - 0.01 * i) for i in range(60)]]), "it goes on falling"


def test_a_cut_that_ended_trouble_is_no_collapse_and_neither_is_an_agents() -> None:
    well = decay(80, 4.0, 2.0, 0.02)
    trouble = [*well[:60], *[9.0] * 20, *decay(60, 3.0, 2.9, 0.02)]
    assert not after_cut("operator", trouble)
    assert not after_cut("agent", [*well, *decay(60, well[-1], well[-1] * 0.98, 0.02)])


@pytest.mark.parametrize("at", [97, 100, 103, 108, 111])
def test_a_mean_over_an_agents_cut_is_no_rate_that_was_higher_since(at: int) -> None:
    """Seen after a return at a hundredth: "2.0% of its highest (0.000505)", and the cut was taken back."""
    end, step = 1500, 900
    known = observe(decay(step, 4.0, 1.0, 0.02), lr=PEAK * 0.01, max_steps=end)
    rates = [PEAK] * at + [PEAK * 0.01] * (step - at)
    level = [PEAK * 0.01] * 2
    course = LrCourse(
        kind="constant",
        steps=[step, end],
        tracks=[Track(groups=[0], shares=[1.0], rates=level, lowest=level, highest=level)],
    )
    series = {**known.series, "lr": series_view("lr", rates)}
    told = {"series": series, "schedule": course, "commands": [cut(at, "agent")]}
    view = series["lr"]
    assert any(PEAK * 0.011 < mean < PEAK * 0.99 for mean in view.downsampled_values) or at % 8 == 0
    assert found(known.model_copy(update=told)) == []
    assert not is_rising(known.model_copy(update=told))
