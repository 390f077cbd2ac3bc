"""What `read_model` says of layers is counted, offered and measured as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from agenttune.protocol.run_info import ModuleInfo
from agenttune.trainer.commands.outcomes import HANDLERS, Done
from agenttune.trainer.knobs import KnobRegistry
from agenttune.trainer.layers.model_tree import read_model
from agenttune.trainer.layers.permissions import LayerRules
from agenttune.trainer.run_state import RunState
from tests.trainer.conftest import At, Bench, TinyModel
from tests.trainer.test_layers import freeze, operation, tiny_gpt2, update

pytestmark = pytest.mark.trainer

NORMS = {"kind": "read_model", "norms": True}


def flat(info: ModuleInfo) -> Iterator[ModuleInfo]:
    yield info
    for child in info.children:
        yield from flat(child)


def by_name(info: ModuleInfo) -> dict[str, ModuleInfo]:
    return {layer.name: layer for layer in flat(info)}


def test_shared_weights_count_once_and_frozen_ones_not_as_trained() -> None:
    model = tiny_gpt2()
    model.transformer.wpe.requires_grad_(False)
    tree = read_model(model, LayerRules())
    layers = by_name(tree)
    assert tree.parameters == sum(p.numel() for p in model.parameters())
    assert tree.trainable == tree.parameters - 32 * 64
    assert layers["lm_head"].parameters == layers["transformer.wte"].parameters == 256 * 64
    assert set(layers) == {name for name, _ in model.named_modules()}
    assert layers["transformer.h.0.mlp.c_fc"].type == "Conv1D"


def test_a_weight_that_the_optimizer_lacks_is_not_trained() -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.first.parameters(), lr=0.1)
    layers = by_name(read_model(model, LayerRules(), optimizer))
    assert (layers["first"].trainable, layers["second"].trainable, layers[""].trainable) == (40, 0, 40)


def test_everything_that_is_offered_is_accepted_and_nothing_else() -> None:
    """One rule for the tree and for the commands: each offer is carried out, on each layer of a real model."""
    model = tiny_gpt2()
    optimizer = torch.optim.AdamW(model.parameters())
    loop: Any = type(
        "Loop", (), {"model": lambda self: model, "optimizer": lambda self: optimizer, "max_steps": lambda self: None}
    )()
    run_state = RunState(loop, KnobRegistry())
    offered = {(i.name, name) for i in flat(read_model(model, LayerRules())) for name in i.operations}
    assert ("transformer.h.0", "reset_parameters") in offered
    assert ("transformer.drop", "reset_parameters") not in offered
    for layer, name in sorted(offered - {("", "requires_grad_"), ("transformer", "requires_grad_")}):
        params = {"requires_grad": True} if name == "requires_grad_" else {}
        assert isinstance(run(run_state, operation(layer, name, **params)), Done)
    for info in list(flat(read_model(model, LayerRules()))):
        for parameter in info.hyperparameters:
            value = 0.25 if parameter.type == "tensor" else parameter.value
            done = run(run_state, update(info.name, parameter.name, value))
            assert done.changes[0].requested == value


def run(run_state: RunState, command: dict[str, Any]) -> Any:
    from agenttune.protocol.commands import parse_command

    return HANDLERS[command["kind"]](run_state, None, parse_command(command))  # type: ignore[arg-type]


def test_what_a_user_allows_is_offered_where_it_fits() -> None:
    rules = LayerRules()
    rules.allow_operation("flatten_parameters")
    rules.allow_operation("noise", lambda layer: None)
    model = nn.ModuleDict({"memory": nn.LSTM(2, 2), "out": nn.Linear(2, 2)})
    layers = by_name(read_model(model, rules))
    assert layers["memory"].operations == ["reset_parameters", "requires_grad_", "flatten_parameters", "noise"]
    assert layers["out"].operations == ["reset_parameters", "requires_grad_", "noise"]


class Gradients(TrainerCallback):  # type: ignore[misc]
    """The norms of gradients as each update used them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.steps.append({n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None})


@pytest.mark.quick("1-callback", "2-make_interactive")
@pytest.mark.parametrize("form", ["make_interactive", "callback"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_norms_are_those_of_the_weights_and_of_the_last_update(bench: Bench, form: str, accumulation: int) -> None:
    seen = Gradients()
    how: dict[str, Any] = {"form": form, "gradient_accumulation_steps": accumulation, "max_grad_norm": 0.05}
    result = bench.run([At(3, NORMS), At(3, NORMS | {"layer_name": "first"})], callbacks=[seen], **how)
    whole, first = result.acks()
    tree = ModuleInfo.model_validate(whole.result)
    layers = by_name(tree)
    of_step = seen.steps[3]  # the fourth update, the first one after it was asked for
    assert whole.step == 4
    expected = math.hypot(of_step["first.weight"], of_step["first.bias"])
    assert layers["first"].grad_norm == pytest.approx(expected)
    assert tree.grad_norm == pytest.approx(0.05, rel=1e-3)  # clipped
    assert tree.weight_norm is not None
    parts = [layers[n].weight_norm or 0.0 for n in ("first", "norm", "second")]
    assert tree.weight_norm == pytest.approx(math.hypot(*parts))
    assert layers["drop"].weight_norm is None
    assert first.result["name"] == "first"
    assert first.result["grad_norm"] == pytest.approx(layers["first"].grad_norm)
    assert result.losses == bench.run(callbacks=[Gradients()], **how).losses
    optimizer = result.trainer.optimizer.optimizer
    assert not optimizer._optimizer_step_pre_hooks  # nothing stays behind


def test_each_question_gets_the_update_after_it(bench: Bench) -> None:
    seen = Gradients()
    result = bench.run([At(3, NORMS), At(7, NORMS)], callbacks=[seen], max_grad_norm=0.0)
    for ack, step in zip(result.acks(), (4, 8), strict=True):
        layers = by_name(ModuleInfo.model_validate(ack.result))
        of_step = seen.steps[step - 1]
        assert ack.step == step
        assert layers["first"].grad_norm == pytest.approx(math.hypot(of_step["first.weight"], of_step["first.bias"]))


def test_a_frozen_layer_has_no_gradient(bench: Bench) -> None:
    result = bench.run([At(2, freeze("first")), At(3, NORMS)])
    layers = by_name(ModuleInfo.model_validate(result.acks()[1].result))
    assert (layers["first"].grad_norm, layers["first"].trainable) == (None, 0)
    assert layers["second"].grad_norm is not None


def test_while_paused_weights_are_measured_at_once_and_the_ack_says_what_is_missing(bench: Bench) -> None:
    orders = [
        At(3, {"kind": "pause_training"}),
        At(3, NORMS),
        At(3, {"kind": "resume_training"}),
        At(12, NORMS),
    ]
    result = bench.run(orders)
    _, paused, _, last = result.acks()
    for ack, step, why in ((paused, 3, "paused"), (last, 12, "ends with this step")):
        assert (ack.outcome, ack.step) == ("applied", step)
        assert why in ack.message
        assert ack.result["grad_norm"] is None
        assert ack.result["weight_norm"] > 0


def test_without_norms_the_answer_comes_at_once(bench: Bench) -> None:
    result = bench.run([At(3, {"kind": "read_model", "layer_name": "norm"})])
    assert result.ack.step == 3
    assert result.ack.result["type"] == "LayerNorm"
    assert result.ack.result["weight_norm"] is None
    assert [p["name"] for p in result.ack.result["hyperparameters"]] == ["eps", "weight", "bias"]


def test_each_change_is_followed_by_a_reading(bench: Bench) -> None:
    result = bench.run([At(3, update("drop", "p", 0.5)), At(4, freeze("first"))])
    after_p, after_freeze = result.bodies("model_read")[-2:]
    assert by_name(after_p.model)["drop"].hyperparameters[0].value == 0.5
    assert by_name(after_p.model)["first"].trainable == 40
    assert by_name(after_freeze.model)["first"].trainable == 0


def test_ten_thousand_layers_are_read_quickly() -> None:
    blocks = [nn.ModuleDict({"a": nn.Linear(2, 2), "drop": nn.Dropout(), "n": nn.LayerNorm(2)}) for _ in range(2500)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
    started = time.process_time()
    tree = read_model(model, LayerRules(), torch.optim.SGD(model.parameters()), norms=True)
    used_s = time.process_time() - started
    assert len(list(flat(tree))) == 10_002
    assert used_s < 5, "measured: 0.7 s; a layer must not cost more than it does in a small model"
    assert len(tree.model_dump_json()) > 1_000_000
