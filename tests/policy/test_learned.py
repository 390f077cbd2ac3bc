"""The learned policy: what it foretells, when it keeps still, and what it says of weights that it cannot use."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from agenttune.config.expressions import check
from agenttune.errors import ConfigError
from agenttune.policy.learned import features
from agenttune.policy.learned.ensemble import MOST_BYTES, Ensemble, load_ensemble
from agenttune.policy.learned.features import NAMES, inputs
from agenttune.policy.learned.possible_changes import CHANGES, possible
from agenttune.policy.learned.snapshot import Snapshot
from agenttune.policy.load import load_policy, open_policy
from agenttune.policy.rule_names import DOCUMENTED, DOCUMENTED_FUNCTIONS
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.protocol.observation import Observation
from agenttune.replay.learning.fit import Fitting, fit, table
from agenttune.replay.learning.moments import TrainingExample, read_moments, write_moments
from tests.policy.conftest import applied, observe

MEMBERS = 10


def foretelling(gains: Mapping[str, Sequence[float]], members: int = MEMBERS) -> Ensemble:
    """Members that foretell such a gain where an input of 0 or 1 is on, and a loss elsewhere."""
    first = np.zeros((members, len(NAMES), 4), dtype=np.float32)
    last = np.zeros((members, 4, 1), dtype=np.float32)
    for place, (name, of_members) in enumerate(gains.items()):
        first[:, NAMES.index(name), place] = 1
        last[:, place, 0] = np.arctanh(np.array(of_members)) + 1
    middle = np.broadcast_to(np.eye(4, dtype=np.float32), (members, 4, 4)).copy()
    zero = np.zeros((members, 1, 4), dtype=np.float32)
    return Ensemble([first, middle, last], [zero, zero, np.full((members, 1, 1), -1, dtype=np.float32)])


def policy_file(folder: Path, ensemble: Ensemble, settings: str = "") -> Path:
    ensemble.save(folder / "mine.safetensors")
    path = folder / "mine.yaml"
    path.write_text(f"type: learned\ndescription: mine\nweights: mine.safetensors\n{settings}", encoding="utf-8")
    return path


def losses(steps: int = 100, size: float = 2.0) -> list[float]:
    drawn = random.Random(0)
    return [size * 0.99**step * (1 + 0.05 * drawn.gauss(0, 1)) for step in range(steps)]


def falling(steps: int = 100, **given: object) -> Observation:
    return observe(losses(steps), **given)  # type: ignore[arg-type]


def test_it_proposes_what_its_members_agree_on(tmp_path: Path) -> None:
    policy = load_policy(str(policy_file(tmp_path, foretelling({"stays": [0.4] * 9 + [-0.5]}))))
    (draft,) = policy.decide(falling(lr=1e-3)).proposals
    assert isinstance(draft.command, UpdateOptimizer)
    assert draft.rationale.startswith("rate_x")
    assert "90% of 10 members foretell a gain of 40% at least" in draft.rationale


def test_it_keeps_still_where_they_do_not_agree_or_too_little_is_to_be_gained(tmp_path: Path) -> None:
    for members in ([0.9] * 8 + [-0.5] * 2, [0.19] * 10):
        decision = load_policy(str(policy_file(tmp_path, foretelling({"stays": members})))).decide(falling())
        assert not decision.proposals
        assert "agree on no gain of 20%" in decision.reason


def test_after_a_change_it_rests_and_after_some_it_stops(tmp_path: Path) -> None:
    policy = load_policy(str(policy_file(tmp_path, foretelling({"stays": [0.4] * 10}), "max_changes: 2")))
    one = applied(90, 1e-3)
    assert "waits 20" in policy.decide(falling(100, commands=[one])).reason
    assert "has made 2 changes" in policy.decide(falling(200, commands=[one, applied(120, 1e-3)])).reason


def test_it_works_on_a_run_of_which_next_to_nothing_is_known(tmp_path: Path) -> None:
    policy = load_policy(str(policy_file(tmp_path, foretelling({"stays": [0.4] * 10}))))
    for odd in ([], [math.nan] * 5, [-3.0] * 40, [1e30, math.inf]):
        assert policy.decide(observe(odd, max_steps=None)).reason


def test_its_figures_are_names_that_rules_may_read_and_bounded(tmp_path: Path) -> None:
    for figure in features.FIGURES.values():
        check(figure.text, DOCUMENTED, DOCUMENTED_FUNCTIONS)
    for odd in ([1e300, 1e-300] * 40, [-1.0] * 50, [math.nan] * 20):
        x = inputs(Snapshot.of(observe(odd, lr=1e-9)), CHANGES)
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 1


def test_figures_do_not_tell_a_task_by_the_size_of_its_loss_or_its_length() -> None:
    """A run a hundred times as large in its loss looks the same."""
    small = falling()
    large = observe(losses(size=200.0))
    one, other = (inputs(Snapshot.of(seen), CHANGES[-3:]) for seen in (small, large))
    assert one == pytest.approx(other, abs=1e-4)


def test_no_return_is_foretold_where_there_is_no_state_and_no_raise_in_a_warm_up() -> None:
    names = [change.name for change, _ in possible(Snapshot.of(falling()))]
    assert names == ["rate_x0.3", "rate_x3", "rate_x10", "plan_anew"]


def test_weights_that_are_missing_or_of_another_version_are_told_in_words(tmp_path: Path) -> None:
    path = policy_file(tmp_path, foretelling({}))
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(weights.read_bytes().replace(features.version().encode(), b"0" * len(features.version())))
    with pytest.raises(ConfigError, match=r"mine.yaml:3: weights: .*are of version 000000000000, and this agenttune"):
        load_policy(str(path))
    weights.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        load_policy(str(path))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"mine.yaml:3: weights: no weights at .*agenttune learn"):
        load_policy(str(path))


def test_weights_that_do_not_fit_or_are_no_numbers_are_refused(tmp_path: Path) -> None:
    odd = foretelling({})
    odd.biases[0][:] = math.nan
    odd.save(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="do not fit together"):
        load_ensemble(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"0" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="is larger than"):
        load_ensemble(tmp_path / "w.safetensors")


def test_the_log_is_told_which_weights_a_policy_is_made_of(tmp_path: Path) -> None:
    opened = open_policy(str(policy_file(tmp_path, foretelling({}))))
    assert set(opened.parts) == {str(tmp_path / "mine.safetensors")}


def moments(count: int = 120) -> list[TrainingExample]:
    """Runs in which a higher rate helps, and a lower one hurts."""
    found = []
    for number in range(count):
        change = ("rate_x3", "rate_x0.3")[number % 2]
        gain = {"rate_x3": 0.6, "rate_x0.3": -0.6}[change]
        snapshot = Snapshot.of(falling(20 + number % 30))
        found.append(TrainingExample(f"run {number // 4}", f"task {number % 3}", "g", snapshot, change, gain))
    return found


def test_what_is_fitted_foretells_the_same_when_read_again_and_as_torch_reckons(tmp_path: Path) -> None:
    rows = moments()
    ensemble = fit(rows, {"units": 3}, Fitting(members=6, hidden=(8, 4), steps=300, rows=32, lr=2e-2))
    x, y = table(rows)
    told = ensemble.gains(x)
    assert np.abs(told.mean(axis=0) - y).mean() < 0.2
    ensemble.save(tmp_path / "w.safetensors")
    again = load_ensemble(tmp_path / "w.safetensors")
    assert again.made == {"units": 3}
    assert (again.gains(x) == told).all()
    h = torch.from_numpy(x)
    for weight, bias in list(zip(ensemble.weights, ensemble.biases, strict=True))[:-1]:
        h = torch.relu(h @ torch.from_numpy(weight) + torch.from_numpy(bias))
    out = torch.tanh(h @ torch.from_numpy(ensemble.weights[-1]) + torch.from_numpy(ensemble.biases[-1]))[..., 0]
    assert told == pytest.approx(out.numpy(), abs=1e-5)


def test_the_same_rows_give_the_same_weights_and_rows_are_kept_as_they_are(tmp_path: Path) -> None:
    rows = moments(24)
    write_moments(tmp_path / "rows.jsonl", rows)
    again = read_moments(tmp_path / "rows.jsonl")
    how = Fitting(members=3, hidden=(8, 4), steps=20, rows=16)
    one, other = fit(rows, {}, how), fit(again, {}, how)
    assert all((a == b).all() for a, b in zip(one.weights, other.weights, strict=True))
    one.save(tmp_path / "one.safetensors")
    other.save(tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
