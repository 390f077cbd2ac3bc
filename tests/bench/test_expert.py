"""A scripted expert that knows the observation's text alone rescues runs: the prompt says what a decision needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agenttune.config import LlmSettings
from agenttune.policy.base import PolicyContext
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.protocol.commands import CommandBase
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import CheckpointView, Observation
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import KnobState
from agenttune.protocol.weight_looks import WeightLook
from agenttune.testing import PlaybookExpert, ScriptedEndpoint
from tests.llm_policy.fakes import FakeReader
from tests.policy.conftest import applied, decay, observe

STATES = [
    CheckpointView(checkpoint_id="main-0-aa", step=0, kept_as="start"),
    CheckpointView(checkpoint_id="main-60-bb", step=60, kept_as="good", metric=1.5),
    CheckpointView(checkpoint_id="main-140-cc", step=140, kept_as="good", metric=9.0),
]


def decided(seen: Observation, **more: Any) -> list[CommandBase]:
    """What the expert asks for over a real endpoint, of all that it could see in the prompt."""
    able = {"capabilities": ["update_optimizer", "update_schedule", "load_checkpoint", "update_training"], **more}
    knobs = [knob.model_copy(update={"command": "update_optimizer"}) for knob in seen.knobs]
    seen = seen.model_copy(update=able | {"knobs": knobs})
    expert = PlaybookExpert()
    with ScriptedEndpoint(expert) as endpoint:
        context = PolicyContext(
            reader=FakeReader(seen, max_lr=100.0), llm=LlmSettings(model="m", base_url=endpoint.base_url), environ={}
        )
        decision = LlmPolicy("llm", LlmFile(type="llm"), context).decide(seen)
    assert expert.undecided == []
    return [draft.command for draft in decision.proposals]


def told(commands: list[CommandBase]) -> list[dict[str, Any]]:
    return [json.loads(command.model_dump_json(exclude_defaults=True)) | {"kind": command.kind} for command in commands]


def test_it_leaves_a_healthy_run_alone() -> None:
    look = WeightLook(step=190, since_step=0, steps=5, straightness=0.2, update_ratio=0.01, ratios={}, rms={})
    seen = observe(decay(200), grads=decay(200, seed=1), lr=0.01, evals=[(s, 4 - s / 100) for s in range(25, 200, 25)])
    assert decided(seen, checkpoints=STATES, weights=[look]) == []


def test_small_steps_that_go_straight_are_tried_against_larger_ones() -> None:
    def asked(ratio: float, eps: float | None = 1e-8, **facts: Any) -> list[dict[str, Any]]:
        look = WeightLook(step=60, since_step=0, steps=5, straightness=0.9, update_ratio=ratio, ratios={}, rms={})
        seen = observe(decay(60, 2.3, 1.4), lr=0.01, max_steps=400)
        if eps is not None:
            seen = seen.model_copy(update={"knobs": [*seen.knobs, KnobState(name="eps", effective=eps)]})
        able = ["update_optimizer", "load_checkpoint", "probe"]
        return told(decided(seen, weights=[look], capabilities=able, facts=RunFacts(**facts)))

    [probe] = asked(0.006)
    assert probe["kind"] == "probe"
    assert [arm["lr"] for arm in probe["candidates"]] == [pytest.approx(0.05)]
    assert (probe["steps"], probe["min_progress_frac"]) == (10, 0.5)
    assert asked(0.05) == [], "steps of a usual size"
    assert asked(0.006, eps=None) == [], "SGD, whose steps grow with the gradients"
    little: dict[str, Any] = {"parameters": 700_000, "trainable": 700_000, "samples": 200}
    assert asked(0.006, **little, epochs=30.0) == [], "data that it would only know by heart sooner"
    assert asked(0.006, **little, epoch_steps=8) == []
    assert asked(0.006, **little, epochs=3.0) != []


@pytest.mark.parametrize(("early", "eps", "goes_back"), [(0.5, 1e-8, True), (0.5, None, False), (0.8, None, True)])
def test_steps_that_break_the_weights_are_less_of_them_with_adam(
    early: float, eps: float | None, goes_back: bool
) -> None:
    look = WeightLook(
        step=10, since_step=0, steps=5, straightness=0.2, update_ratio=0.2, early_update_ratio=early, ratios={}, rms={}
    )
    seen = observe(decay(10, 2.3, 1.9), lr=0.1, max_steps=400)
    if eps is not None:
        seen = seen.model_copy(update={"knobs": [*seen.knobs, KnobState(name="eps", effective=eps)]})
    asked = told(decided(seen, weights=[look], checkpoints=STATES))
    assert [a["checkpoint_id"] for a in asked] == ["main-0-aa"] * goes_back


def test_at_a_standstill_after_large_first_steps_the_rate_is_lowered() -> None:
    def asked(early: float = 0.35, left: float = 0.1) -> list[dict[str, Any]]:
        look = WeightLook(
            step=200,
            since_step=0,
            steps=5,
            straightness=0.1,
            update_ratio=0.02,
            early_update_ratio=early,
            ratios={},
            rms={},
        )
        found = Finding(kind="goal_plateau", severity="info", metric="eval_loss", step=190, summary="it stands still")
        seen = observe(decay(200), lr=0.1, max_steps=400, findings=[found])
        track = Track(groups=[0], shares=[1.0], rates=[left] * 2, lowest=[left] * 2, highest=[left] * 2)
        knobs = [*seen.knobs, KnobState(name="eps", effective=1e-8)]
        course = LrCourse(kind="constant", steps=[200, 400], tracks=[track])
        return told(decided(seen.model_copy(update={"knobs": knobs}), weights=[look], schedule=course))

    [change] = asked()
    assert (change["kind"], change["lr"]) == ("update_optimizer", pytest.approx(0.1 * 0.05 / 0.35))
    assert asked(early=0.2) == []
    assert asked(left=0.05) == [], "the schedule will lower it"


def test_evaluations_that_get_worse_are_overfitting_only_where_the_best_is_a_measure() -> None:
    """As guardian: not in the first epoch, nor of a best that is hardly below the first loss, or alone by luck."""
    best = [CheckpointView(checkpoint_id="main-100-bb", step=100, kept_as="best", metric=1.0)]

    def asked(costs: list[float], **facts: Any) -> list[str]:
        evals = [(20 * (i + 1), cost) for i, cost in enumerate(costs)]
        seen = observe(decay(200, 2.3, 0.1), lr=0.1, max_steps=400, evals=evals)
        found = told(decided(seen, checkpoints=[*STATES, *best], facts=RunFacts(**facts)))
        return [each["checkpoint_id"] for each in found if each["kind"] == "load_checkpoint"]

    worse = [2.0, 1.6, 1.3, 1.1, 1.0, 1.04, 1.08, 1.16, 1.24, 1.32]
    assert asked(worse) == asked(worse, epoch_steps=150) == ["main-100-bb"]
    assert asked(worse, epoch_steps=250) == [], "nothing was seen twice"
    four = [1.9, 1.8, 1.7, 1.6, 1.5, 1.6, 1.65, 1.7, 1.8]
    assert asked(four) == [], "nobody tells of epochs, and there may be harder data still to come"
    assert asked(four, epoch_steps=150) == ["main-100-bb"]
    assert asked([2.3 * cost for cost in worse]) == [], "the best is where it began"
    assert asked([2.3 * cost for cost in worse], trained_before=True) == ["main-100-bb"]
    assert asked([2.0, 1.6, 1.3, 1.1, 0.5, 1.1, 1.1, 1.1, 1.11, 1.11]) == [], "it stands alone"
    assert asked([2.0, 1.6, 1.3, 1.1, 0.5, 1.1, 1.2, 1.3, 1.4, 1.5]) == ["main-100-bb"]


def test_after_a_blow_up_it_goes_back_to_the_state_of_before_with_a_lower_rate() -> None:
    losses = [*decay(100), *([9.0] * 60)]
    found = Finding(kind="divergence", severity="critical", metric="step_loss", step=150, summary="it rose to 9")
    [back] = decided(observe(losses, lr=0.1, findings=[found]), checkpoints=STATES)
    asked = back.arguments()
    assert (asked["checkpoint_id"], asked["lr"], asked["reset_optimizer"]) == ("main-60-bb", pytest.approx(0.03), True)


def test_a_rate_that_is_far_too_low_is_raised_tenfold_and_not_again_at_once() -> None:
    look = WeightLook(step=60, since_step=0, steps=5, straightness=0.97, update_ratio=1e-6, ratios={}, rms={})
    slow = observe([2.3 - 0.0001 * i for i in range(60)], lr=1e-6)
    [change] = told(decided(slow, weights=[look]))
    assert change["lr"] == pytest.approx(1e-5)
    assert decided(slow.model_copy(update={"commands": [applied(50, 1e-5)]}), weights=[look]) == []


def test_sgd_whose_steps_a_raise_has_made_usual_is_not_raised_again() -> None:
    def asked(ratio: float, raised: bool, eps: float | None = None) -> list[dict[str, Any]]:
        look = WeightLook(step=80, since_step=0, steps=5, straightness=0.9, update_ratio=ratio, ratios={}, rms={})
        low = Finding(kind="low_rate", severity="warning", metric="step_loss", step=78, summary="the rate is too low")
        seen = observe([2.3 - 1e-4 * i for i in range(80)], lr=1e-3, findings=[low])
        knobs = [*seen.knobs, *([] if eps is None else [KnobState(name="eps", effective=eps)])]
        commands = [applied(20, 1e-3)] if raised else []
        return told(decided(seen.model_copy(update={"knobs": knobs, "commands": commands}), weights=[look]))

    assert asked(0.02, raised=True) == []
    for change in (asked(0.02, raised=False), asked(0.01, raised=True), asked(0.02, raised=True, eps=1e-8)):
        assert [c["kind"] for c in change] == ["update_optimizer"]


def test_a_collapsed_schedule_is_planned_anew_and_the_end_of_one_is_not() -> None:
    rates = [1e-5] * 9
    steps = list(range(200, 1001, 100))
    course = LrCourse(
        kind="step", steps=steps, tracks=[Track(groups=[0], shares=[1.0], rates=rates, lowest=rates, highest=rates)]
    )
    seen = observe(decay(200), lr=0.01)
    [plan] = told(decided(seen, schedule=course))
    assert (plan["kind"], plan["shape"], plan["peak_lr"]) == ("update_schedule", "cosine", 0.01)
    assert decided(observe(decay(900), lr=0.01), schedule=course) == []


def test_where_the_training_loss_never_came_down_nothing_is_overfit() -> None:
    evals = [*((s, 2.0 - s / 200) for s in range(20, 101, 20)), (120, 1.6), (140, 1.65), (160, 1.7), (180, 1.8)]
    best = CheckpointView(checkpoint_id="main-100-bb", step=100, kept_as="best", metric=1.5)
    known: dict[str, Any] = {"checkpoints": [*STATES, best], "facts": RunFacts(epoch_steps=50)}
    assert decided(observe([2.07] * 180, lr=0.01, evals=evals), **known) == []
    assert decided(observe(decay(180, end=0.5), lr=0.01, evals=evals), **known) != []


def test_an_overfit_goes_back_to_the_best_state_with_more_decay() -> None:
    evals = [*((s, 2.0 - s / 200) for s in range(20, 101, 20)), (120, 1.9), (140, 2.1), (160, 2.3), (180, 2.5)]
    best = CheckpointView(checkpoint_id="main-100-bb", step=100, kept_as="best", metric=1.5)
    back, *rest = decided(
        observe(decay(180, end=0.01), lr=0.01, evals=evals), checkpoints=[*STATES, best], facts=RunFacts(epoch_steps=50)
    )
    assert back.wanted_checkpoint() == "main-100-bb"
    assert back.arguments()["lr"] == pytest.approx(0.001)
    assert all(command.kind == "update_optimizer" for command in rest)
