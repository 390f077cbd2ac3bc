"""A re-planned schedule gives the planned rates, and a resumed run goes on with them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.trainer.conftest import At, Bench, Result

pytestmark = pytest.mark.trainer

STEPS = 20
SET_AT = 5


def replan(bench: Bench, **plan: Any) -> Result:
    order = At(SET_AT, {"kind": "update_schedule", **plan})
    return bench.run([order], max_steps=STEPS, lr_scheduler_type="cosine", weight_decay=0.1)


def rates(result: Result) -> list[float]:
    return [used[0] for used in result.witness.used[SET_AT:]]


def test_linear_goes_to_the_runs_last_step(bench: Bench) -> None:
    result = replan(bench, shape="linear", peak_lr=6e-4, final_lr=1e-4)
    assert rates(result) == pytest.approx([6e-4 - 5e-4 * k / 15 for k in range(15)])
    assert (result.ack.outcome, result.ack.confirmed_step) == ("applied", SET_AT + 1)
    assert [change.name for change in result.ack.changes] == ["lr", "schedule"]
    assert result.bodies("read_back")[0].held is True


@pytest.mark.parametrize("start", [None, 4e-4])
def test_a_warm_up_rises_from_zero_or_a_given_rate(bench: Bench, start: float | None) -> None:
    """It used to start at the rate of now, so that a warm-up to a lower peak went down."""
    begin = {} if start is None else {"start_lr": start}
    result = replan(bench, shape="cosine", peak_lr=5e-4, warmup_steps=5, end_step=18, **begin)
    low = start or 0.0
    warm = [low + (5e-4 - low) * k / 5 for k in range(5)]
    fall = [5e-4 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates(result) == pytest.approx([*warm, *fall, 0.0, 0.0])
    assert result.ack.confirmed_step == SET_AT + 1


def test_wsd_is_stable_then_decays(bench: Bench) -> None:
    result = replan(bench, shape="wsd", peak_lr=1e-3, decay_steps=5)
    assert rates(result) == pytest.approx([1e-3] * 11 + [8e-4, 6e-4, 4e-4, 2e-4])


def test_constant_holds_the_rate_of_now(bench: Bench) -> None:
    result = replan(bench, shape="constant")
    assert rates(result) == pytest.approx([result.ack.changes[0].previous] * 15)


@pytest.mark.quick("plan0-*", "plan2-*")
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"shape": "linear", "end_step": SET_AT}, "end_step 5 is not after the current step 5"),
        ({"shape": "cosine", "warmup_steps": 15}, "leaves nothing"),
        ({"shape": "cosine", "warmup_steps": 5, "start_lr": 0.1}, "would go down"),
        ({"shape": "wsd", "decay_steps": 16}, "more than the 15 steps"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_and_the_old_one_stands(
    bench: Bench, plan: dict[str, Any], message: str
) -> None:
    result = replan(bench, **plan)
    assert result.ack.outcome == "failed"
    assert message in result.ack.message
    plain = bench.run(form="plain", max_steps=STEPS, lr_scheduler_type="cosine", weight_decay=0.1)
    assert result.witness.used == plain.witness.used


def test_a_rate_set_later_scales_the_rest_of_the_plan(bench: Bench) -> None:
    orders = [
        At(SET_AT, {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4}),
        At(10, {"kind": "update_optimizer", "lr": 8e-4}),
    ]
    result = bench.run(orders, max_steps=STEPS)
    assert [used[0] for used in result.witness.used[10:]] == pytest.approx([8e-4 * (1 - k / 10) for k in range(10)])
    assert [ack.confirmed_step for ack in result.acks()] == [6, 11]


def test_plateau_follows_a_plan_step_by_step_whatever_evaluations_say(bench: Bench) -> None:
    """It used to be refused, as its schedule is stepped once an evaluation."""
    result = bench.run(
        [At(SET_AT, {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4})],
        max_steps=STEPS,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5, "threshold": 10.0},
        eval_strategy="steps",
        eval_steps=4,
        metric_for_best_model="eval_loss",
    )
    assert rates(result) == pytest.approx([6e-4 * (1 - k / 15) for k in range(15)])
    assert result.ack.confirmed_step == SET_AT + 1
    assert all(body.held for body in result.bodies("read_back"))


def test_a_resumed_run_follows_the_plan(bench: Bench) -> None:
    orders = [
        At(SET_AT, {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4, "end_step": 15}),
        At(9, {"kind": "save_checkpoint"}),
    ]
    whole = bench.run(orders, max_steps=STEPS)
    path = whole.acks()[1].result["path"]
    resumed = bench.trainer(max_steps=STEPS)
    resumed.trainer.train(resume_from_checkpoint=path)
    assert resumed.witness.used == whole.witness.used[9:]
    assert resumed.witness.used[0] == pytest.approx([3.6e-4, 3.6e-4])


def test_two_plans_are_taken_back_one_by_one(bench: Bench) -> None:
    previous = {"kind": "update_schedule", "shape": "previous"}
    orders = [
        At(SET_AT, {"kind": "update_schedule", "shape": "linear", "peak_lr": 6e-4}),
        At(8, {"kind": "update_schedule", "shape": "constant", "peak_lr": 9e-4}),
        At(11, previous),
        At(14, previous),
        At(16, previous),
    ]
    result = bench.run(orders, max_steps=STEPS, lr_scheduler_type="cosine", weight_decay=0.1)
    used = [rates_[0] for rates_ in result.witness.used]
    assert used[11:14] == pytest.approx([6e-4 * (1 - k / 15) for k in range(6, 9)])
    plain = bench.run(form="plain", max_steps=STEPS, lr_scheduler_type="cosine", weight_decay=0.1)
    assert used[14:] == pytest.approx([rates_[0] for rates_ in plain.witness.used[14:]])
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 4 + ["failed"]
    assert "no plan to go back from" in result.acks()[-1].message
    assert all(body.held for body in result.bodies("read_back"))
