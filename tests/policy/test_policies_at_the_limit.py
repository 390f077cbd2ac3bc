"""Policies without a model at their own limits: what they count, what they may try, and what rules are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agenttune.errors import ConfigError
from agenttune.policy.base import Decision
from agenttune.policy.llm.digest import digest
from agenttune.policy.llm.json_answers import read_json_answer
from agenttune.policy.lookahead import LookaheadFile
from agenttune.policy.rule_names import functions_of, names_of
from agenttune.policy.wrappers.alternatives import Escalation, Fallback
from agenttune.policy.wrappers.simple import Cooldown, Patience
from agenttune.policy.wrappers.wrapper import unavailable
from agenttune.protocol.observation import Evaluation, Observation
from agenttune.protocol.proposals import Author, State
from agenttune.protocol.run_info import KnobState
from tests.policy.conftest import applied, observe
from tests.policy.test_baselines import PLATEAU, new_rate, policy
from tests.policy.test_composites import CUT, SAVE, Told, wants
from tests.policy.test_lookahead import asked, at

# -- baselines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "counts"), [(0.02, True), (0.003, False)])
def test_only_an_improvement_beyond_the_threshold_is_one(tmp_path: Path, gain: float, counts: bool) -> None:
    """Relative to the best, as in torch's scheduler: 0.01 of 100 is 1."""
    reduce = policy(tmp_path, PLATEAU + "threshold: 0.01\n")
    losses = [100.0 * (1 - gain) ** (i // 10) for i in range(40)]
    assert (new_rate(reduce, observe(losses, lr=0.1)) is None) is counts


def test_a_first_value_that_is_not_finite_is_improved_on_by_any(tmp_path: Path) -> None:
    reduce = policy(tmp_path, PLATEAU)
    assert new_rate(reduce, observe([math.inf] * 20 + [5.0] * 20, lr=0.1)) is None


def test_random_changes_stay_within_their_factor_both_ways(tmp_path: Path) -> None:
    factors = []
    for seed in range(40):
        drawn = policy(tmp_path, f"type: random\nevery_steps: 20\nmax_factor: 2.0\nseed: {seed}\n")
        rate = new_rate(drawn, observe([1.0] * 25, lr=0.01))
        assert rate is not None
        factors.append(rate / 0.01)
    assert 0.5 <= min(factors) < 0.7
    assert 1.5 < max(factors) <= 2.0


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("reduce_on_plateau", "window_steps: 0"),
        ("reduce_on_plateau", "factor: 1.0"),
        ("reduce_on_plateau", "patience: -1"),
        ("greedy_lr", "threshold: -0.1"),
        ("greedy_lr", "factor: 0"),
        ("random", "every_steps: 0"),
        ("random", "max_factor: 1.0"),
        ("lookahead", "steps: 1"),
        ("lookahead", "every_steps: 0"),
        ("lookahead", "max_every_steps: 0"),
        ("lookahead", "rest_steps: -1"),
        ("lookahead", "confirm_steps: 1"),
        ("lookahead", "steps: 1001"),
        ("lookahead", "steps: 101%"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(tmp_path: Path, kind: str, field: str) -> None:
    with pytest.raises(ConfigError, match=field.split(":")[0]):
        policy(tmp_path, f"type: {kind}\n{field}\n")


# -- lookahead ---------------------------------------------------------------------------------------------------------


def tried(knob: KnobState) -> list[float]:
    probe = asked(at(200, knob=knob))
    return [] if probe is None else [one.arguments()["lr"] for one in probe.candidates]


def test_a_part_of_a_long_run_asks_for_no_longer_trial_than_a_probe_takes() -> None:
    """5 % of 100,000 steps are more than `probe` allows, which would be refused each time."""
    file = LookaheadFile(type="lookahead", steps="5%", confirm_steps="10%", every_steps="10%")
    long = file.lengths(100_000)
    assert (long.steps, long.confirm_steps, long.every_steps) == (1000, 1000, 10_000)
    assert (file.lengths(400).steps, file.lengths(20).steps) == (20, 2)


def test_a_candidate_at_a_bound_is_tried_and_one_beyond_it_is_not() -> None:
    free = tried(KnobState(name="lr", base=1e-3, effective=1e-3))
    low, high = min(free), max(free)
    bounded = KnobState(name="lr", base=1e-3, effective=1e-3, minimum=low, maximum=high)
    assert tried(bounded) == free
    assert high not in tried(bounded.model_copy(update={"maximum": high * 0.999}))
    assert low not in tried(bounded.model_copy(update={"minimum": low * 1.001}))
    assert tried(bounded.model_copy(update={"minimum": 1.0, "maximum": 2.0})) == []


def test_a_knob_that_redefines_the_loss_is_not_tried_by_the_loss() -> None:
    smoothing = KnobState(name="lr", base=1e-3, effective=1e-3, redefines="training")
    assert tried(smoothing) == []


# -- what rules are told -----------------------------------------------------------------------------------------------


def test_a_rule_is_told_what_came_before_a_change_and_since() -> None:
    losses = [4.0 - 0.02 * i for i in range(60)] + [3.0 + 0.01 * i for i in range(20)]
    seen = observe(losses, commands=[applied(60, 0.1)])
    loss = names_of(seen)["loss"]
    assert loss["slope_before"] == pytest.approx(-0.02)
    assert loss["recent_slope"] == pytest.approx(0.01)
    assert loss["peak"] == pytest.approx(3.19)
    assert loss["noise_before"] == pytest.approx(0.0, abs=0.01)
    early = names_of(observe([1.0] * 10, commands=[applied(3, 0.1)]))["loss"]
    assert math.isnan(early["slope_before"]), "three points say nothing"
    assert not math.isnan(names_of(observe([1.0] * 10, commands=[applied(4, 0.1)]))["loss"]["slope_before"])


def test_a_rule_is_told_the_knobs_and_the_budget() -> None:
    knobs = [KnobState(name="max_grad_norm", effective=0.7), KnobState(name="lr", base=0.2, effective=0.1)]
    seen = observe([1.0], max_steps=None).model_copy(update={"knobs": knobs, "commands_left": None})
    names = names_of(seen)
    assert (names["max_grad_norm"], names["lr"], names["base_lr"]) == (0.7, 0.1, 0.2)
    assert math.isinf(names["commands_left"])
    assert math.isnan(names["weight_decay"])
    assert math.isnan(names["steps_left"])


def test_a_rule_is_told_of_evaluations_that_are_finite_alone() -> None:
    def rated(*values: float) -> Observation:
        evals = [Evaluation(step=10 * (i + 1), metrics={"eval_loss": v}) for i, v in enumerate(values)]
        return observe([1.0] * 50).model_copy(update={"evaluations": evals})

    assert names_of(rated(0.5, math.nan, 0.0, math.inf))["evals"]["count"] == 2
    more = rated(0.1, 0.9, 0.5).model_copy(update={"goal_direction": "maximize"})
    told = names_of(more)["evals"]
    assert {name: told[name] for name in ("count", "last", "best", "since_best")} == {
        "count": 3,
        "last": 0.5,
        "best": 0.9,
        "since_best": 1,
    }
    assert (told["behind"], told["behind_before"]) == (pytest.approx(4 / 9), 0.0)
    assert math.isnan(told["noise"])
    straight = names_of(rated(1.0, 0.9, 0.8, 0.7, 0.6))["evals"]
    assert straight["noise"] == pytest.approx(0.0, abs=1e-9), "a steady course is no noise"
    assert names_of(rated(1.0, 0.6, 0.9, 0.5, 0.8))["evals"]["noise"] > 0.3


def test_a_rule_counts_the_commands_of_a_kind_that_were_let_through() -> None:
    refused = applied(20, 0.1, state=State.REJECTED)
    seen = observe([1.0] * 50, commands=[applied(10, 0.1), refused, applied(30, 0.1)])
    changed = functions_of(seen)["changed"]
    assert changed("update_optimizer") == 2
    assert changed("stop_training") == 0


# -- what a model is held to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ['"hold"', "{}", '{"tool": 3}', "null"])
def test_an_action_without_a_tool_is_told_with_its_number(action: str) -> None:
    text = '{"reason": "r", "actions": [{"tool": "a", "arguments": {}}, ' + action + "]}"
    with pytest.raises(Exception, match="action 2 has no 'tool'"):
        read_json_answer(text, ["a"])


def test_a_budget_without_a_limit_is_told_as_that() -> None:
    seen = observe([1.0] * 30)
    assert "commands left: 100" in digest(seen).budget
    assert "commands left: no limit" in digest(seen.model_copy(update={"commands_left": None})).budget


# -- wrappers ----------------------------------------------------------------------------------------------------------


def test_a_cooldown_counts_from_the_newest_command_of_an_agent_to_the_same_step_later() -> None:
    told = Told([wants(CUT)])
    patient = Cooldown(told, steps=20)
    commands = [applied(10, 0.1), applied(40, 0.1), applied(55, 0.1, author=Author(principal="operator", name="ann"))]
    held = patient.decide(observe([1.0] * 59, commands=commands))
    assert (held.proposals, held.skipped) == ([], True)
    assert held.reason == "waiting until step 60 after the command at step 40"
    assert told.asked == []
    assert patient.decide(observe([1.0] * 60, commands=commands)).proposals == [CUT]
    assert patient.decide(observe([1.0] * 5)).proposals == [CUT], "nothing was asked for yet"


def test_patience_counts_anew_after_it_let_something_through() -> None:
    patient = Patience(Told([wants(CUT)]), times=2, steps=100)
    let_through = [bool(patient.decide(observe([1.0] * step)).proposals) for step in range(10, 70, 10)]
    assert let_through == [False, True, False, True, False, True]


@pytest.mark.parametrize(("gap", "is_let_through"), [(49, True), (50, False)])
def test_patience_remembers_for_fewer_than_its_steps(gap: int, is_let_through: bool) -> None:
    patient = Patience(Told([wants(CUT)]), times=2, steps=50)
    assert not patient.decide(observe([1.0] * 10)).proposals
    assert bool(patient.decide(observe([1.0] * (10 + gap))).proposals) is is_let_through


def test_patience_takes_silence_for_a_no_and_no_answer_for_none() -> None:
    skipped = Decision(reason="the endpoint is down", skipped=True)
    for between, is_let_through in (skipped, True), (Decision(reason="nothing to do"), False):
        patient = Patience(Told([wants(CUT), between, wants(CUT)]), times=2, steps=100)
        decisions = [patient.decide(observe([1.0] * step)) for step in (10, 20, 30)]
        assert decisions[1] == between
        assert bool(decisions[2].proposals) is is_let_through


def test_a_fallback_can_decide_as_long_as_one_of_its_two_can() -> None:
    down, up = Told([wants(CUT)], why_not="it is down"), Told([wants(SAVE)])
    assert unavailable(Fallback(down, up)) == unavailable(Fallback(up, down)) == ""
    assert unavailable(Fallback(down, Told([wants(CUT)], why_not="so is this"))) == "so is this"
    assert unavailable(Escalation("all", (down, up))) == ""
    assert unavailable(Escalation("all", (down, down))) == "it is down; it is down"


def test_a_model_that_was_of_no_use_is_told_also_behind_another_that_was() -> None:
    """Its cost is counted as lost, whichever of two it was."""
    useless = Decision(reason="it said nothing", unusable=True, faults=["it said nothing"])
    fine = Decision(reason="nothing to do", faults=["a fallback was used"])
    for first, second in (useless, fine), (fine, useless), (fine, fine):
        decision = Escalation("all", (Told([first]), Told([second]))).decide(observe([1.0] * 10))
        assert decision.unusable is (useless in (first, second))
        assert decision.faults == [*first.faults, *second.faults]


@pytest.mark.parametrize(("values", "behind"), [([1.0, 0.5, 0.01, -0.02], 0.0), ([1.0, 0.02, -0.01, 0.2], 0.21)])
def test_evaluations_that_go_through_zero_are_measured_by_what_they_moved(values: list[float], behind: float) -> None:
    """Likelihoods go below zero: beside a best of -0.01, the next evaluation is no wreck twenty times as bad."""
    seen = observe([1.0] * 40, evals=[(10 * (i + 1), value) for i, value in enumerate(values)])
    assert names_of(seen)["evals"]["behind"] == pytest.approx(behind)
