"""The baselines do what their papers and libraries say, and count from the log alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttune.policy.base import Policy
from agenttune.policy.load import load_policy
from agenttune.policy.wrappers.simple import Cooldown
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.observation import Observation
from tests.policy.conftest import applied, observe

FLAT = [1.0] * 40
FALLING = [4.0 - 0.02 * i for i in range(100)]


def policy(folder: Path, text: str) -> Policy:
    path = folder / "baseline.yaml"
    path.write_text(text, encoding="utf-8")
    return load_policy(str(path))


def new_rate(policy: Policy, observation: Observation) -> float | None:
    drafts = policy.decide(observation).proposals
    if not drafts:
        return None
    command = drafts[0].command
    assert isinstance(command, UpdateOptimizer)
    return command.lr


PLATEAU = "type: reduce_on_plateau\nwindow_steps: 10\npatience: 2\nfactor: 0.5\n"
GREEDY = "type: greedy_lr\nwindow_steps: 10\npatience: 2\nfactor: 0.8\nmax_lr: 0.1\n"


def test_reduce_on_plateau_halves_when_patience_is_over_and_not_before(tmp_path: Path) -> None:
    reduce = policy(tmp_path, PLATEAU)
    assert new_rate(reduce, observe(FLAT[:30], lr=0.1)) is None
    assert new_rate(reduce, observe(FLAT, lr=0.1)) == pytest.approx(0.05)
    assert new_rate(reduce, observe(FALLING, lr=0.1)) is None


def test_reduce_on_plateau_starts_counting_again_after_a_cut(tmp_path: Path) -> None:
    reduce = policy(tmp_path, PLATEAU + "cooldown: 1\n")
    cut = [applied(40, 0.05)]
    assert new_rate(reduce, observe([1.0] * 70, lr=0.05, commands=cut)) is None
    assert new_rate(reduce, observe([1.0] * 80, lr=0.05, commands=cut)) == pytest.approx(0.025)


def test_reduce_on_plateau_can_watch_the_goal_metric(tmp_path: Path) -> None:
    reduce = policy(tmp_path, PLATEAU + "source: evaluations\n")
    evals = [(10, 1.0), (20, 0.9), (30, 0.95), (40, 0.96)]
    assert new_rate(reduce, observe(FLAT, evals=evals)) is None
    assert new_rate(reduce, observe(FLAT, lr=0.1, evals=[*evals, (50, 0.97)])) == pytest.approx(0.05)


def test_a_rate_at_its_lower_bound_is_left_there(tmp_path: Path) -> None:
    reduce = policy(tmp_path, PLATEAU + "min_lr: 0.01\n")
    assert new_rate(reduce, observe(FLAT, lr=0.015)) == pytest.approx(0.01)
    assert new_rate(reduce, observe(FLAT, lr=0.01)) is None


def test_greedy_raises_while_the_loss_improves_and_cuts_while_it_does_not(tmp_path: Path) -> None:
    greedy = policy(tmp_path, GREEDY)
    assert new_rate(greedy, observe(FALLING[:20], lr=0.01)) is None
    assert new_rate(greedy, observe(FALLING[:30], lr=0.01)) == pytest.approx(0.0125)
    assert new_rate(greedy, observe(FALLING[:30], lr=0.09)) == pytest.approx(0.1)
    assert new_rate(greedy, observe([1.0 + 0.01 * i for i in range(40)], lr=0.01)) == pytest.approx(0.008)


def test_greedy_waits_after_a_raise(tmp_path: Path) -> None:
    greedy = policy(tmp_path, GREEDY + "warmup: 2\n")
    raised = [applied(30, 0.0125, previous=0.01)]
    assert new_rate(greedy, observe(FALLING[:60], lr=0.0125, commands=raised)) is None
    assert new_rate(greedy, observe(FALLING[:80], lr=0.0125, commands=raised)) is not None


def test_random_makes_the_same_change_for_the_same_seed_once_a_block(tmp_path: Path) -> None:
    text = "type: random\nevery_steps: 20\nmax_factor: 2.0\nseed: 3\n"
    draw = policy(tmp_path, text)
    rate = new_rate(draw, observe(FALLING[:25], lr=0.01))
    assert rate is not None
    assert 0.005 <= rate <= 0.02
    assert rate == new_rate(draw, observe(FALLING[:39], lr=0.01))
    assert rate != new_rate(policy(tmp_path, text.replace("3", "4")), observe(FALLING[:25], lr=0.01))
    assert new_rate(draw, observe(FALLING[:39], lr=0.01, commands=[applied(25, rate)])) is None
    assert new_rate(draw, observe(FALLING[:40], lr=0.01, commands=[applied(25, rate)])) is not None
    assert new_rate(draw, observe(FALLING[:10], lr=0.01)) is None


def test_no_known_rate_means_no_proposal(tmp_path: Path) -> None:
    blind = observe(FLAT).model_copy(update={"knobs": []})
    assert new_rate(policy(tmp_path, PLATEAU), blind) is None


def test_a_cooldown_around_any_policy_holds_it_back(tmp_path: Path) -> None:
    patient = Cooldown(policy(tmp_path, PLATEAU), steps=60)
    assert new_rate(patient, observe([1.0] * 95, lr=0.1, commands=[applied(40, 0.1)])) is None
    assert new_rate(patient, observe([1.0] * 100, lr=0.1, commands=[applied(40, 0.1)])) == pytest.approx(0.05)
    assert patient.name == "baseline"
