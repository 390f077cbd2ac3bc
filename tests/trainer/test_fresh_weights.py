"""Weights tell whether they were trained before: initializations leave traces that the first updates wipe out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from agenttune.protocol.events import KnobsRead
from agenttune.trainer.layers.fresh_weights import looks_trained
from tests.trainer.conftest import At, Bench, TinyModel

pytestmark = pytest.mark.trainer


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40))


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.LayerNorm(64))


def convolutions() -> nn.Module:
    first, second = nn.Conv2d(1, 8, 3, bias=False), nn.Conv2d(8, 16, 3, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(16), nn.Flatten())


def recurrent() -> nn.Module:
    return nn.GRU(40, 32)


def zero_biases() -> nn.Module:
    model = perceptron()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def gpt2() -> nn.Module:
    model: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=65, n_positions=8, n_embd=32, n_layer=2, n_head=2))
    return model


def bert() -> nn.Module:
    shape: dict[str, Any] = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    model: nn.Module = BertForSequenceClassification(BertConfig(**shape, intermediate_size=64))
    return model


KINDS = [perceptron, normalized, convolutions, recurrent, zero_biases, gpt2, bert]


def train(model: nn.Module, steps: int = 40) -> None:
    """Some steps of AdamW towards targets of chance: what they learn does not matter here."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


@pytest.mark.parametrize("make", KINDS)
def test_fresh_weights_and_trained_ones_are_told_apart(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert looks_trained(model) is False
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    train(model)
    assert looks_trained(model) is True


def test_a_new_head_on_trained_weights_is_the_smaller_part() -> None:
    torch.manual_seed(0)
    trained = perceptron()
    train(trained)
    assert looks_trained(nn.Sequential(trained, nn.Linear(40, 3))) is True
    trained.requires_grad_(False)
    assert looks_trained(nn.Sequential(trained, nn.Linear(40, 3))) is False, "only the head is trained"


@pytest.mark.parametrize(
    "model",
    [nn.Identity(), nn.Embedding(50, 8), nn.Linear(8, 8, device="meta"), nn.Linear(8, 8).requires_grad_(False)],
    ids=["no weights", "one normal matrix", "not there", "none is trained"],
)
def test_where_nothing_tells_nothing_is_said(model: nn.Module) -> None:
    assert looks_trained(model) is None


@pytest.mark.parametrize("was_trained", [False, True])
def test_a_run_tells_what_its_weights_were_before_the_first_step(bench: Bench, was_trained: bool) -> None:
    """Also after a change, when they have been trained by the run itself."""
    torch.manual_seed(0)
    model = TinyModel()
    if was_trained:
        train(model, 200)
    result = bench.run([At(6, {"kind": "update_optimizer", "lr": 0.05})], model=model)
    reads = [body for body in result.bodies("knobs_read") if isinstance(body, KnobsRead)]
    told = [read.facts.trained_before for read in reads if read.facts is not None]
    assert len(told) > 1
    assert set(told) == {was_trained}
