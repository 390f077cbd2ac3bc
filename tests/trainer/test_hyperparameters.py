"""What `update_optimizer` says it changed is what the optimizer holds; what it refuses changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, Rprop, lr_scheduler
from transformers.optimization import Adafactor

from tests.trainer.conftest import At, Bench, Build, Optimizers, Result

pytestmark = pytest.mark.trainer

SET_AT = 4


class SignSGD(Optimizer):
    """An optimizer that nobody ships."""

    def __init__(self, parameters: Any, lr: float = 1e-3, strength: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr, "strength": strength})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad.sign(), alpha=-group["lr"] * group["strength"])


def linear(make: Callable[[Any], Optimizer]) -> Build:
    def build(model: nn.Module) -> Optimizers:
        optimizer = make(model.parameters())
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 20)

    return build


KINDS: dict[str, tuple[Callable[[Any], Optimizer], dict[str, Any]]] = {
    "SGD": (lambda p: SGD(p, lr=1e-3, momentum=0.5), {"momentum": 0.9, "weight_decay": 0.1}),
    "SGD, momentum from 0": (lambda p: SGD(p, lr=1e-3), {"momentum": 0.9}),
    "Adam": (lambda p: Adam(p, lr=1e-3), {"betas": (0.8, 0.99), "eps": 1e-6}),
    "AdamW": (lambda p: AdamW(p, lr=1e-3), {"betas": (0.8, 0.99), "weight_decay": 0.2}),
    "RMSprop": (lambda p: RMSprop(p, lr=1e-3), {"eps": 1e-6, "other": {"alpha": 0.9}}),
    "Adagrad": (lambda p: Adagrad(p, lr=1e-3), {"other": {"lr_decay": 0.01}, "eps": 1e-8}),
    "Adafactor": (
        lambda p: Adafactor(p, lr=1e-3, relative_step=False),
        {"other": {"decay_rate": -0.7, "eps": [1e-30, 1e-2]}},
    ),
    "torch Adafactor": (lambda p: torch.optim.Adafactor(p, lr=1e-3), {"weight_decay": 0.05, "other": {"d": 2.0}}),
    "a custom one": (SignSGD, {"other": {"strength": 0.5}}),
    "Adam, amsgrad on": (lambda p: Adam(p, lr=1e-3), {"other": {"amsgrad": True}}),
    "RMSprop, centered on": (lambda p: RMSprop(p, lr=1e-3), {"other": {"centered": True}, "momentum": 0.5}),
}


@pytest.mark.quick("SGD, momentum from 0", "AdamW", "Adagrad", "Adafactor", "a custom one", "RMSprop, centered on")
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_optimizer_trains_on_with_the_new_values(bench: Bench, name: str) -> None:
    make, values = KINDS[name]
    command = {"kind": "update_optimizer", "lr": 5e-4, **values}
    result = bench.run([At(SET_AT, command)], build=linear(make))
    assert result.ack.outcome == "applied", result.ack.message
    assert result.ack.confirmed_step == SET_AT + 1
    assert result.witness.used[SET_AT] == [5e-4]
    asked = {k: v for k, v in values.items() if k != "other"} | values.get("other", {})
    for key, value in asked.items():
        found = result.witness.other[SET_AT][key][0]
        assert (list(found) if isinstance(found, tuple) else found) == (
            list(value) if isinstance(value, (tuple, list)) else value
        )
    assert {change.name for change in result.ack.changes} == {"lr", *asked}
    assert result.bodies("read_back")[0].held is True
    assert len(result.losses) == 12


def with_adamw(model: nn.Module) -> Optimizers:
    return linear(lambda p: AdamW(p, lr=1e-3))(model)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"other": {"strength": 1.0}}, "it has: lr, betas, eps"),
    "momentum of Adam": ({"momentum": 0.5}, "no hyperparameter 'momentum'"),
    "betas of the wrong length": ({"other": {"betas": [0.9]}}, "list of 2 numbers"),
    "a number for a pair": ({"other": {"betas": 0.9}}, "list of 2 numbers"),
    "a number for a flag": ({"other": {"amsgrad": 1.0}}, "true or false"),
    "a flag for a number": ({"other": {"eps": True}}, "is a number"),
    "beyond the constructor": ({"other": {"betas": [0.9, 1.5]}}, "refuses"),
    "negative": ({"other": {"weight_decay": -1.0}}, "refuses"),
    "structural": ({"other": {"foreach": True}}, "fixed when the optimizer is built"),
    "the rate by the back door": ({"other": {"lr": 1.0}}, "own field"),
    "parameters": ({"other": {"params": 1.0}}, "no hyperparameter"),
    "no such group": ({"eps": 1e-6, "param_group": 1}, "this optimizer has 1"),
    "good beside bad": ({"lr": 5e-4, "weight_decay": 0.3, "momentum": 0.5}, "momentum"),
}


def test_what_is_refused_changes_nothing_and_says_what_is_allowed(bench: Bench) -> None:
    orders = [At(SET_AT, {"kind": "update_optimizer", **values}) for values, _ in REFUSED.values()]
    result = bench.run(orders, build=with_adamw)
    for (name, (_, message)), ack in zip(REFUSED.items(), result.acks(), strict=True):
        assert (name, ack.outcome, ack.step) == (name, "failed", SET_AT)
        assert message in ack.message, name
    assert result.witness.other[-1] == result.witness.other[0]
    assert result.witness.used[SET_AT] == pytest.approx([1e-3 * (1 - SET_AT / 20)])
    assert result.losses == bench.run(build=with_adamw, form="plain").losses


def test_state_that_a_stranger_would_need_is_refused(bench: Bench) -> None:
    class MyAdam(Adam):
        pass

    def build(model: nn.Module) -> Optimizers:
        return linear(lambda p: MyAdam(p, lr=1e-3))(model)

    result = bench.run([At(SET_AT, {"kind": "update_optimizer", "other": {"amsgrad": True}})], build=build)
    assert result.ack.outcome == "failed"
    assert "state" in result.ack.message
    assert len(result.losses) == 12


def test_rprop_does_not_pretend_to_take_a_rate(bench: Bench) -> None:
    def build(model: nn.Module) -> Optimizers:
        return linear(lambda p: Rprop(p, lr=1e-3))(model)

    result = bench.run([At(SET_AT, {"kind": "update_optimizer", "lr": 1e-4})], build=build)
    assert (result.ack.outcome, "Rprop adapts" in result.ack.message) == ("failed", True)


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_biases_and_norms_stay_exempt_from_weight_decay(bench: Bench, start: float) -> None:
    result = bench.run([At(SET_AT, {"kind": "update_optimizer", "weight_decay": 0.3})], weight_decay=start)
    assert result.witness.other[SET_AT]["weight_decay"] == [0.3, 0.0]
    assert result.ack.changes[0].groups == [0.3, 0.0]
    assert result.knob("weight_decay").groups == [0.3, 0.0]


def test_an_exempt_group_decays_if_it_is_named(bench: Bench) -> None:
    command = {"kind": "update_optimizer", "weight_decay": 0.3, "param_group": 1}
    result = bench.run([At(SET_AT, command)], weight_decay=0.1)
    assert result.witness.other[SET_AT]["weight_decay"] == [0.1, 0.3]


def test_a_value_that_does_not_hold_is_put_back_with_everything_else(bench: Bench) -> None:
    class Stubborn(dict[str, Any]):
        """A parameter group that takes no other eps."""

        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, 1e-8 if key == "eps" else value)

    def build(model: nn.Module) -> Optimizers:
        optimizer, schedule = with_adamw(model)
        load = optimizer.load_state_dict

        def load_and_harden(state: Any) -> None:
            load(state)
            optimizer.param_groups[:] = [Stubborn(group) for group in optimizer.param_groups]

        optimizer.load_state_dict = load_and_harden
        return optimizer, schedule

    command = {"kind": "update_optimizer", "lr": 5e-4, "weight_decay": 0.3, "eps": 1e-4}
    result = bench.run([At(SET_AT, command)], build=build)
    assert result.ack.outcome == "failed"
    assert "eps of group 0: asked 0.0001, found 1e-08" in result.ack.message
    assert result.witness.other[-1]["weight_decay"] == [0.01]
    assert result.witness.used[SET_AT:] == [[pytest.approx(1e-3 * (1 - t / 20))] for t in range(SET_AT, 12)]


def test_momentum_under_a_cycling_schedule_is_refused(bench: Bench) -> None:
    def build(model: nn.Module) -> Optimizers:
        optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9)
        return optimizer, lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=20)

    def run(command: dict[str, Any]) -> Result:
        return bench.run([At(SET_AT, {"kind": "update_optimizer", **command})], build=build)

    assert "cycle_momentum" in run({"momentum": 0.5}).ack.message
    assert run({"lr": 5e-4}).ack.confirmed_step == SET_AT + 1
