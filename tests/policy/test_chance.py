"""A chance level counts where the loss is known or its first value confirms it, and nowhere else."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agenttune.detectors import detect
from agenttune.detectors.chance import chance_loss, was_trained_before
from agenttune.policy.llm import briefing
from agenttune.policy.load import load_policy
from agenttune.policy.rule_names import names_of
from agenttune.protocol.observation import Observation
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.weight_looks import WeightLook
from agenttune.testing.situations import series_view
from tests.policy.conftest import decay, observe

OTHER_LOSSES = {
    "autoencoder, squared error": (0.102, 196),
    "variational autoencoder": (135.7, 196),
    "density of a normal distribution": (0.43, 2),
    "labels, several at once": (0.685, 10),
    "counts": (8.58, 4),
    "triplets": (0.44, 16),
    "sequences without alignment": (28.8, 11),
}
"""First loss of fresh networks whose loss is no cross-entropy over the outputs of the last layer, and those outputs."""


def guess(outputs: int, **more: Any) -> RunFacts:
    return RunFacts(chance_loss=math.log(outputs), chance_of="a guess", chance_is_guess=True, **more)


def seen(losses: list[float], facts: RunFacts, early: float = 1e-4, straightness: float = 0.9) -> Observation:
    step = len(losses)
    look: dict[str, Any] = {"step": step, "since_step": 0, "steps": 5, "straightness": straightness}
    look |= {"update_ratio": early, "early_update_ratio": early, "ratios": {"a": early}, "rms": {"a": 1.0}}
    looks = [WeightLook.model_validate(look)]
    return observe(losses, lr=0.1, max_steps=400).model_copy(update={"facts": facts, "weights": looks})


@pytest.mark.parametrize(("first", "outputs"), OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_a_loss_that_does_not_begin_at_the_guess_has_no_chance_level(first: float, outputs: int) -> None:
    """Seen: each was taken for a classifier that had been trained before, so that no rate was ever too low for it."""
    known = seen([first * (1 - 1e-4 * i) for i in range(60)], guess(outputs))
    assert chance_loss(known) is None
    assert math.isnan(names_of(known)["loss"]["chance"])
    assert not was_trained_before(known)
    assert not any("chance level" in line for line in briefing.training(known))
    [draft] = load_policy("guardian").decide(known).proposals
    assert draft.rationale.startswith("raise_")
    assert "low_rate" in {f.kind for f in detect(known)}


@pytest.mark.parametrize(("first", "outputs"), [(2.31, 10), (2.46, 10), (4.56, 96), (0.65, 2)])
def test_a_classifier_confirms_it_by_its_first_loss(first: float, outputs: int) -> None:
    known = seen(decay(60, first, 0.4 * first), guess(outputs))
    assert chance_loss(known) == math.log(outputs)
    assert names_of(known)["loss"]["chance"] == math.log(outputs)
    assert not was_trained_before(known), "as it begins there"
    assert any("chance level" in line for line in briefing.training(known))


def test_the_very_first_loss_confirms_it_however_long_ago() -> None:
    view = series_view("step_loss", [0.3] * 3000)
    view = view.model_copy(update={"first_steps": [1, 2], "first_values": [2.3, 2.2]})
    known = seen([0.3] * 2, guess(10)).model_copy(update={"series": {"step_loss": view}, "step": 3000})
    assert chance_loss(known) == math.log(10)
    assert not was_trained_before(known)


@pytest.mark.parametrize("losses", [[0.3, 0.29], [9.0, 8.0], []], ids=["below", "above", "none yet"])
def test_what_the_models_class_says_needs_no_first_loss(losses: list[float]) -> None:
    known = seen(losses, RunFacts(chance_loss=math.log(10), chance_of="a uniform guess over 10 labels"))
    assert chance_loss(known) == math.log(10)
    assert was_trained_before(known) == (losses[:1] == [0.3])


@pytest.mark.parametrize(("first", "outputs"), OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_where_the_loss_does_not_tell_the_weights_do(first: float, outputs: int) -> None:
    """Small updates, straight on, and a loss that hardly falls: of weights that had learnt before, all is well."""
    facts = guess(outputs, trained_before=True, model="Net", parameters=9, trainable=9)
    losses = [first * (1 - 1e-3 * i) for i in range(60)]
    known = seen(losses, facts)
    assert was_trained_before(known)
    assert names_of(known)["trained_before"] is True
    assert load_policy("guardian").decide(known).proposals == []
    assert briefing.TRAINED_BEFORE in briefing.training(known)
    fresh = seen(losses, facts.model_copy(update={"trained_before": False}))
    assert load_policy("guardian").decide(fresh).proposals
    assert briefing.TRAINED_BEFORE not in briefing.training(fresh)


def test_a_new_head_on_trained_weights_begins_at_chance() -> None:
    """What is to be learnt anew is: the loss tells it, so that the weights are not asked."""
    assert not was_trained_before(seen([0.71, 0.7, 0.69], guess(2, trained_before=True)))


def test_without_facts_nothing_is_known() -> None:
    known = observe([0.5] * 20)
    assert chance_loss(known) is None
    assert not was_trained_before(known)
