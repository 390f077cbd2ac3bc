"""Policies without a model at their own limits: what they count, what they may try, and what rules are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agenttune.errors import ConfigError
from agenttune.policy.llm.digest import digest
from agenttune.policy.llm.json_answers import read_answer
from agenttune.policy.rule_names import functions_of, goal_values, names_of
from agenttune.protocol.events import KnobState
from agenttune.protocol.observation import Evaluation, Observation
from agenttune.protocol.proposals import State
from tests.policy.conftest import applied, observe
from tests.policy.test_baselines import PLATEAU, new_rate, policy
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
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(tmp_path: Path, kind: str, field: str) -> None:
    with pytest.raises(ConfigError, match=field.split(":")[0]):
        policy(tmp_path, f"type: {kind}\n{field}\n")


# -- lookahead ---------------------------------------------------------------------------------------------------------


def tried(knob: KnobState) -> list[float]:
    probe = asked(at(200, knob=knob))
    return [] if probe is None else [one.arguments()["lr"] for one in probe.candidates]


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

    assert goal_values(rated(0.5, math.nan, 0.0, math.inf)) == [0.5, 0.0]
    more = rated(0.1, 0.9, 0.5).model_copy(update={"goal_direction": "maximize"})
    assert names_of(more)["evals"] == {"count": 3, "last": 0.5, "best": 0.9, "since_best": 1}


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
        read_answer(text, ["a"])


def test_a_budget_without_a_limit_is_told_as_that() -> None:
    seen = observe([1.0] * 30)
    assert "commands left: 100" in digest(seen).budget
    assert "commands left: no limit" in digest(seen.model_copy(update={"commands_left": None})).budget
