"""A learning rate that was asked for is the one the optimizer uses, under every schedule, and keeps its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from transformers import TrainerCallback

from tests.trainer.conftest import At, Bench, Optimizers, Result

pytestmark = pytest.mark.trainer

STEPS = 14
SET_AT = 5
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {"warmup_steps": 3},
    "cosine_with_restarts": {"warmup_steps": 2},
    "polynomial": {},
    "constant": {},
    "constant_with_warmup": {"warmup_steps": 8},
    "inverse_sqrt": {"warmup_steps": 2},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    "warmup_stable_decay": {"lr_scheduler_kwargs": {"num_decay_steps": 5, "num_stable_steps": 7}, "warmup_steps": 2},
}
Make = Callable[[Optimizer], Any]
TORCH: dict[str, Make] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 4, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 9], 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 10),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 20),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.95),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-3, total_steps=20, cycle_momentum=False),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-3, step_size_up=4, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(o, 10)], [8]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 8), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def with_sgd(make: Make, rate: float = 1e-3) -> Callable[[nn.Module], Optimizers]:
    def build(model: nn.Module) -> Optimizers:
        optimizer = SGD(model.parameters(), lr=rate)
        return optimizer, make(optimizer)

    return build


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "lr": 1e-3}, {"params": parameters[2:], "lr": 2e-4}]


def set_rate(bench: Bench, rate: float, step: int = SET_AT, how: dict[str, Any] | None = None, **extra: Any) -> Result:
    order = At(step, {"kind": "update_optimizer", "lr": rate, **(how or {})})
    return bench.run([order], max_steps=STEPS, **extra)


def assert_scaled(steered: Result, reference: Result, factor: float) -> None:
    """Before the command as the reference; from it on, the same shape times `factor`, in every group."""
    pairs = list(zip(steered.witness.used, reference.witness.used, strict=True))
    assert [a for a, _ in pairs[:SET_AT]] == [b for _, b in pairs[:SET_AT]]
    for used, plain in pairs[SET_AT:]:
        assert used == pytest.approx([factor * rate for rate in plain], rel=1e-9)


PLATEAU: dict[str, Any] = {"metric_for_best_model": "eval_loss", "eval_strategy": "steps", "eval_steps": 15}


@pytest.mark.parametrize("schedule", ["linear", "reduce_lr_on_plateau"])
def test_groups_that_a_later_command_leaves_alone_are_read_again_for_the_earlier_one(
    bench: Bench, schedule: str
) -> None:
    orders = [
        At(2, {"kind": "update_optimizer", "lr": 5e-4, "weight_decay": 0.05}),
        At(4, {"kind": "update_optimizer", "lr": 4e-4, "param_group": 1}),
        At(5, {"kind": "update_optimizer", "weight_decay": 0.07, "param_group": 0}),
    ]

    def build(model: nn.Module) -> Optimizers:
        return AdamW(two_groups(model), weight_decay=0.01), None

    how = PLATEAU if schedule == "reduce_lr_on_plateau" else {}
    steered = bench.run(orders, build=build, max_steps=STEPS, lr_scheduler_type=schedule, **how)
    first, second, third = steered.bodies("read_back")
    rate = "lr" if schedule == "reduce_lr_on_plateau" else "lr (base)"
    assert {name: len(values) for name, values in first.expected.items()} == {rate: 1, "weight_decay": 1}
    assert first.expected["weight_decay"] == [0.05]
    assert ([*second.expected], third.expected) == ([rate], {"weight_decay": [0.07]})
    assert all(body.held for body in (first, second, third))


def test_a_plan_takes_the_place_of_a_rate_that_an_evaluation_drives(bench: Bench) -> None:
    """Its rates go by another name then; what was set before was read again, and said not to hold."""
    orders = [
        At(2, {"kind": "update_optimizer", "lr": 5e-4}),
        At(4, {"kind": "update_schedule", "shape": "linear", "peak_lr": 2e-4}),
    ]
    steered = bench.run(orders, max_steps=STEPS, lr_scheduler_type="reduce_lr_on_plateau", **PLATEAU)
    (plan,) = steered.bodies("read_back")
    assert plan.held
    assert {"schedule", "lr (base)"} == {*plan.expected}


@pytest.mark.quick("linear", "cosine_with_restarts", "constant_with_warmup")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_schedules_take_the_rate_at_the_next_step_and_keep_their_shape(bench: Bench, name: str) -> None:
    how = {"lr_scheduler_type": name, **TRANSFORMERS[name]}
    reference = bench.run(max_steps=STEPS, form="plain", **how)
    now = reference.witness.used[SET_AT][0]
    steered = set_rate(bench, 5e-4, **how)
    ack, change = steered.ack, steered.ack.changes[0]
    assert steered.witness.used[SET_AT] == [5e-4, 5e-4]
    assert_scaled(steered, reference, 5e-4 / now)
    assert (ack.outcome, ack.step, ack.confirmed_step) == ("applied", SET_AT, SET_AT + 1)
    assert (change.previous, change.effective, change.previous_base) == (pytest.approx(now), 5e-4, 1e-3)
    assert change.base == pytest.approx(1e-3 * 5e-4 / now)
    assert steered.bodies("read_back")[0].held is True
    assert steered.series("lr")[SET_AT] == 5e-4

    raised = set_rate(bench, 2e-3, how={"lr_sets": "base"}, **how)
    assert_scaled(raised, reference, 2.0)
    assert (raised.ack.changes[0].base, raised.ack.confirmed_step) == (2e-3, SET_AT + 1)


@pytest.mark.quick("StepLR", "OneCycleLR", "SequentialLR", "ChainedScheduler")
@pytest.mark.parametrize("name", TORCH)
def test_torch_schedules_take_the_rate_at_the_next_step_and_keep_their_shape(bench: Bench, name: str) -> None:
    build = with_sgd(TORCH[name])
    reference = bench.run(max_steps=STEPS, form="plain", build=build)
    now = reference.witness.used[SET_AT][0]
    steered = set_rate(bench, 5e-4, build=build)
    assert steered.witness.used[SET_AT] == [5e-4]
    assert_scaled(steered, reference, 5e-4 / now)
    assert (steered.ack.outcome, steered.ack.confirmed_step) == ("applied", SET_AT + 1)
    base = steered.ack.changes[0].previous_base
    assert base is not None

    raised = set_rate(bench, 2 * base, how={"lr_sets": "base"}, build=build)
    assert_scaled(raised, reference, 2.0)
    assert raised.ack.changes[0].base == pytest.approx(2 * base)


@pytest.mark.parametrize("sets", ["effective", "base"])
def test_reduce_on_plateau_keeps_the_rate_and_reduces_it_from_there(bench: Bench, sets: str) -> None:
    result = set_rate(
        bench,
        4e-4,
        how={"lr_sets": sets},
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5, "threshold": 10.0},
        eval_strategy="steps",
        eval_steps=8,
        metric_for_best_model="eval_loss",
        model=None,
    )
    assert [used[0] for used in result.witness.used[SET_AT:8]] == [4e-4] * 3
    assert result.ack.confirmed_step == SET_AT + 1
    assert result.ack.changes[0].base == 4e-4


def test_an_evaluation_that_moves_the_rate_in_the_same_step_is_told_not_hidden(bench: Bench) -> None:
    def build(model: nn.Module) -> Optimizers:
        optimizer = SGD(model.parameters(), lr=1e-3)
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        schedule.best = -1.0  # every evaluation is a bad one
        return optimizer, schedule

    result = set_rate(
        bench, 4e-4, build=build, eval_strategy="steps", eval_steps=SET_AT, metric_for_best_model="eval_loss"
    )
    assert result.witness.used[SET_AT] == [2e-4]
    assert (result.ack.outcome, result.ack.changes[0].effective) == ("applied", 4e-4)
    assert "an evaluation has since moved the rate to 0.0002" in result.ack.message


def test_greedy_is_steered_like_plateau(bench: Bench) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    if not hasattr(optimization, "GreedyLR"):
        pytest.skip("this transformers has no GreedyLR")
    result = set_rate(bench, 4e-4, build=with_sgd(lambda o: optimization.GreedyLR(o, min_lr=1e-6)))
    assert [used[0] for used in result.witness.used[SET_AT:]] == [4e-4] * (STEPS - SET_AT)
    assert result.ack.confirmed_step == SET_AT + 1


def test_layer_wise_rates_keep_their_ratio_and_one_group_can_be_set_alone(bench: Bench) -> None:
    def build(model: nn.Module) -> Optimizers:
        optimizer = AdamW(two_groups(model))
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 20)

    all_groups = set_rate(bench, 5e-4, build=build)
    assert all_groups.witness.used[SET_AT] == pytest.approx([5e-4, 1e-4])
    assert all_groups.ack.changes[0].groups == pytest.approx([5e-4, 1e-4])
    second = set_rate(bench, 5e-4, how={"param_group": 1}, build=build)
    assert second.witness.used[SET_AT] == pytest.approx([7.5e-4, 5e-4])
    assert second.witness.used[SET_AT + 1] == pytest.approx([7e-4, 5e-4 * 14 / 15])


def test_a_tensor_rate_is_filled_in_place(bench: Bench) -> None:
    held: list[torch.Tensor] = []

    def build(model: nn.Module) -> Optimizers:
        optimizer = AdamW(model.parameters(), lr=torch.tensor(1e-3), foreach=False)
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 20)

    class Holder(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            held.append(kwargs["optimizer"].param_groups[0]["lr"])

    result = set_rate(bench, 5e-4, build=build, callbacks=[Holder()])
    assert result.witness.used[SET_AT] == pytest.approx([5e-4])
    assert result.witness.used[SET_AT + 1] == pytest.approx([5e-4 * 14 / 15])
    assert result.ack.confirmed_step == SET_AT + 1
    assert isinstance(held[0], torch.Tensor)
    assert all(tensor is held[0] for tensor in held)


def test_where_the_schedule_gives_zero_the_ack_says_the_way_out(bench: Bench) -> None:
    result = bench.run(
        [
            At(0, {"kind": "update_optimizer", "lr": 5e-4}),
            At(0, {"kind": "update_optimizer", "lr": 5e-4, "lr_sets": "base"}),
        ],
        lr_scheduler_type="linear",
        warmup_steps=4,
    )
    refused, applied = result.acks()
    assert refused.outcome == "failed"
    assert "lr_sets 'base'" in refused.message
    assert "update_schedule" in refused.message
    assert applied.outcome == "applied"
    assert result.witness.used[0] == [0.0, 0.0]
    assert result.witness.used[1] == pytest.approx([1.25e-4] * 2)


def test_a_rate_of_zero_can_be_left_again(bench: Bench) -> None:
    def build(model: nn.Module) -> Optimizers:
        optimizer = AdamW(two_groups(model))
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)

    orders = [At(3, {"kind": "update_optimizer", "lr": 0.0}), At(6, {"kind": "update_optimizer", "lr": 5e-4})]
    result = bench.run(orders, build=build)
    assert [ack.outcome for ack in result.acks()] == ["applied", "applied"]
    assert result.witness.used[3] == [0.0, 0.0]
    assert result.witness.used[6] == pytest.approx([5e-4, 1e-4])


def test_a_multiplying_schedule_refuses_the_zero_it_could_never_leave(bench: Bench) -> None:
    result = set_rate(bench, 0.0, build=with_sgd(TORCH["StepLR"]))
    assert result.ack.outcome == "failed"
    assert "never be left" in result.ack.message
    assert result.witness.used[SET_AT] == [5e-4]


def test_somebody_else_setting_the_rate_is_reported_as_a_failure(bench: Bench) -> None:
    class Meddler(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = 3e-5

    order = At(SET_AT, {"kind": "update_optimizer", "lr": 5e-4, "weight_decay": 0.3})
    result = bench.run([order], callbacks=[Meddler()])
    assert result.ack.outcome == "failed"
    assert "3e-05" in result.ack.message
    assert result.witness.other[-1]["weight_decay"] == [0.0, 0.0]


def test_two_rates_in_one_step_apply_in_order_and_the_first_is_told_overridden(bench: Bench) -> None:
    orders = [
        At(4, {"kind": "update_optimizer", "lr": 9e-4}, "first"),
        At(4, {"kind": "update_optimizer", "lr": 3e-4}, "second"),
    ]
    result = bench.run(orders)
    first, second = result.acks()
    assert result.witness.used[4] == [3e-4, 3e-4]
    assert (first.outcome, first.confirmed_step, first.changes[0].effective) == ("applied", None, 9e-4)
    assert "overridden by second" in first.message
    assert (second.outcome, second.confirmed_step, second.changes[0].previous) == ("applied", 5, 9e-4)


def test_two_groups_in_one_step_are_both_confirmed(bench: Bench) -> None:
    orders = [
        At(4, {"kind": "update_optimizer", "lr": 9e-4, "param_group": 0}),
        At(4, {"kind": "update_optimizer", "lr": 3e-4, "param_group": 1}),
    ]
    result = bench.run(orders)
    assert [ack.confirmed_step for ack in result.acks()] == [5, 5]
    assert result.witness.used[4] == [9e-4, 3e-4]


def test_a_plan_of_which_one_group_was_replaced_is_not_said_to_be_overridden_in_all(bench: Bench) -> None:
    orders = [
        At(4, {"kind": "update_schedule", "shape": "linear"}, "plan"),
        At(4, {"kind": "update_optimizer", "lr": 3e-4, "param_group": 1}, "second"),
    ]
    result = bench.run(orders)
    plan, second = result.acks()
    assert plan.outcome == "applied"
    assert "in group 1 overridden by second in the same step" in plan.message
    assert "in force in group 0" in plan.message
    assert second.confirmed_step == 5
    assert result.witness.used[4] == [pytest.approx(plan.changes[0].effective), 3e-4]


def test_a_rate_set_at_the_last_step_is_not_said_to_be_confirmed(bench: Bench) -> None:
    result = bench.run([At(12, {"kind": "update_optimizer", "lr": 5e-4, "lr_sets": "base"})])
    assert (result.ack.outcome, result.ack.confirmed_step) == ("applied", None)
    assert "before another step" in result.ack.message


def test_adafactors_own_rate_is_refused_and_its_decay_is_not(bench: Bench) -> None:
    from transformers.optimization import Adafactor, AdafactorSchedule

    def build(model: nn.Module) -> Optimizers:
        optimizer = Adafactor(model.parameters(), relative_step=True, warmup_init=False)
        return optimizer, AdafactorSchedule(optimizer)

    orders = [
        At(3, {"kind": "update_optimizer", "lr": 5e-4}),
        At(3, {"kind": "update_schedule", "shape": "constant"}),
        At(3, {"kind": "update_optimizer", "weight_decay": 0.1}),
    ]
    result = bench.run(orders, build=build)
    rate, plan, decay = result.acks()
    assert (rate.outcome, plan.outcome) == ("failed", "failed")
    assert "relative_step" in rate.message
    assert decay.outcome == "applied"
