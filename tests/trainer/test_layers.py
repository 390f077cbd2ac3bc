"""A layer that was frozen, reset or changed is so in model and optimizer; what is refused has changed nothing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)

from agenttune.protocol.proposals import Ack
from agenttune.trainer.commands.layer_freezing import _wrappers
from agenttune.trainer.integrations.plain_adapter import PlainAdapter
from agenttune.trainer.layers.layer import find_layer
from agenttune.trainer.layers.layer_changes import LayerChanges
from agenttune.trainer.layers.reset import clear_state, reset
from agenttune.trainer.layers.weight_sampler import WeightSampler
from tests.trainer.conftest import At, Bench, Result, TinyModel
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer


def operation(layer: str, name: str, **params: Any) -> dict[str, Any]:
    return {"kind": "model_layer_operation", "layer_name": layer, "operation_name": name, "params": params}


def freeze(layer: str) -> dict[str, Any]:
    return operation(layer, "requires_grad_", requires_grad=False)


def update(layer: str, name: str, value: Any) -> dict[str, Any]:
    return {"kind": "model_layer_parameter_update", "layer_name": layer, "param_name": name, "value": value}


def tiny_gpt2(**changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 256, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**(sizes | {"bos_token_id": 0, "eos_token_id": 0} | changes)))


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, attention_dropout=0.0, **sizes))


def std(tensor: torch.Tensor) -> float:
    return float(tensor.detach().std())


class Weights(TrainerCallback):  # type: ignore[misc]
    """Keeps a copy of all tensors after each step, and which of them the optimizer knows."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.known: list[set[str]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.steps.append({n: t.detach().clone() for n, t in model.state_dict().items()})
        self.known.append({n for n, p in model.named_parameters() if optimizer.state.get(p)})


class Watched:
    """A run with the weights after each of its steps."""

    def __init__(self, bench: Bench, orders: Sequence[At], **how: Any) -> None:
        self.weights = Weights()
        self.result: Result = bench.trainer(orders, **how)
        self.result.trainer.add_callback(self.weights)

    def run(self) -> Watched:
        self.result.trainer.train()
        return self

    def at(self, step: int, name: str) -> torch.Tensor:
        return self.weights.steps[step - 1][name].cpu()

    @property
    def ack(self) -> Ack:
        return self.result.ack

    def has_moved(self, name: str, first: int, last: int) -> bool:
        return not torch.equal(self.at(first, name), self.at(last, name))


def sgd(model: nn.Module) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)


# -- freezing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [None, sgd], ids=["adamw", "sgd-momentum"])
@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_a_frozen_layer_keeps_every_bit_and_the_others_go_on(bench: Bench, build: Any, form: str) -> None:
    run = Watched(bench, [At(4, freeze("first"))], build=build, form=form, weight_decay=0.1).run()
    assert run.ack.outcome == "applied", run.ack.message
    assert run.has_moved("first.weight", 3, 4)
    assert not run.has_moved("first.weight", 4, 12)
    assert not run.has_moved("first.bias", 4, 12)
    assert run.has_moved("second.weight", 4, 12)
    (change,) = run.ack.changes
    assert (change.name, change.previous, change.effective) == ("first.requires_grad", True, False)
    (check,) = run.result.bodies("read_back")
    assert check.held
    assert set(check.expected) == {"first.requires_grad", "first.weights"}


def test_a_layer_that_was_frozen_by_command_is_trained_again(bench: Bench) -> None:
    orders = [At(3, freeze("first")), At(6, operation("first", "requires_grad_", requires_grad=True))]
    run = Watched(bench, orders).run()
    assert [ack.outcome for ack in run.result.acks()] == ["applied", "applied"]
    assert not run.has_moved("first.weight", 3, 6)
    assert run.has_moved("first.weight", 6, 7)
    assert all(check.held for check in run.result.bodies("read_back"))


def test_what_the_optimizer_does_not_hold_cannot_be_trained(bench: Bench) -> None:
    model = TinyModel()
    model.first.requires_grad_(False)
    run = Watched(bench, [At(3, operation("first", "requires_grad_", requires_grad=True))], model=model).run()
    assert run.ack.outcome == "failed"
    assert "first.weight" in run.ack.message
    assert "trainable and freeze them by command" in run.ack.message
    assert not model.first.weight.requires_grad
    assert not run.has_moved("first.weight", 1, 12)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"requires_grad": "False"}, "is a bool, not 'False'"),
        ({"requires_grad": 0}, "is a bool, not 0"),
        ({"grad": False}, "it takes: requires_grad"),
    ],
)
def test_only_a_truth_value_freezes(bench: Bench, params: dict[str, Any], said: str) -> None:
    run = Watched(bench, [At(3, operation("first", "requires_grad_", **params))]).run()
    assert run.ack.outcome == "failed"
    assert said in run.ack.message
    assert run.has_moved("first.weight", 3, 12)


def test_the_last_trained_layer_cannot_be_frozen(bench: Bench) -> None:
    orders = [At(2, freeze("")), At(3, freeze("first")), At(4, freeze("norm")), At(5, freeze("second"))]
    run = Watched(bench, orders).run()
    assert [ack.outcome for ack in run.result.acks()] == ["failed", "applied", "applied", "failed"]
    assert "nothing would be left to train" in run.result.acks()[0].message
    assert run.has_moved("second.weight", 5, 12)


@pytest.mark.parametrize("build", [sgd, lambda m: (torch.optim.AdamW(m.parameters(), weight_decay=0.5), None)])
def test_a_gradient_that_is_already_there_moves_nothing_once_the_layer_is_frozen(build: Any) -> None:
    """A plain loop may drop gradients only after the boundary."""
    model = TinyModel(0.0)
    optimizer, _ = build(model)
    loop: Any = type("Loop", (), {"model": lambda self: model, "optimizer": lambda self: optimizer})()
    for _ in range(2):
        model(torch.ones(2, 4), torch.zeros(2))["loss"].backward()
        optimizer.step()
    before = model.first.weight.detach().clone()
    other = model.second.weight.detach().clone()
    apply(run_state_of(loop), freeze("first"))
    optimizer.step()
    assert torch.equal(model.first.weight, before)
    assert not torch.equal(model.second.weight, other)


def test_a_layer_that_something_else_moves_is_reported(bench: Bench) -> None:
    class Meddler(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                kwargs["model"].first.weight.data[0, 0] += 1e-7

    result = bench.run([At(3, freeze("first"))], callbacks=[Meddler()])
    (check,) = result.bodies("read_back")
    assert not check.held
    assert check.expected["first.weights"] != check.found["first.weights"]


def test_embeddings_under_reentrant_checkpointing_stay_trained(bench: Bench) -> None:
    """Frozen, they would leave nothing that needs a gradient at the blocks' inputs, and nothing would be trained."""
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    run = token_run(bench, [At(2, freeze("transformer.wte"))], tiny_gpt2(), max_steps=4, **reentrant)
    assert run.ack.outcome == "failed"
    assert "use_reentrant" in run.ack.message
    assert run.has_moved("transformer.h.0.mlp.c_fc.weight", 2, 4)


# -- new weights ---------------------------------------------------------------------------------------------------


def test_a_reset_layer_starts_anew_and_the_optimizer_forgets_it(bench: Bench) -> None:
    run = Watched(bench, [At(5, operation("first", "reset_parameters"))], learning_rate=1e-6).run()
    assert run.ack.outcome == "applied", run.ack.message
    far = (run.at(6, "first.weight") - run.at(4, "first.weight")).abs().max()
    assert far > 0.1
    assert run.ack.result == {"parameters": 40, "optimizer_state_cleared": 40, "kept": []}
    assert "forgot its state of 40" in run.ack.message
    assert not run.has_moved("second.weight", 5, 5)
    (change,) = run.ack.changes
    assert change.previous != change.effective
    optimizer = run.result.trainer.optimizer.optimizer
    first, second = (run.result.trainer.model.get_parameter(f"{n}.weight") for n in ("first", "second"))
    assert (int(optimizer.state[first]["step"]), int(optimizer.state[second]["step"])) == (7, 12)
    assert first.abs().max() <= 0.5 + 1e-3  # uniform within 1/sqrt(4), as Linear begins


def kinds_of(make: Callable[[], nn.Module], loaded: bool, folder: Path) -> nn.Module:
    model = make()
    if not loaded:
        return model
    model.save_pretrained(folder)  # type: ignore[operator]
    return type(model).from_pretrained(folder)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("loaded", [False, True], ids=["made", "from_pretrained"])
def test_gpt2_is_reset_as_gpt2_begins(tmp_path: Path, loaded: bool) -> None:
    model: Any = kinds_of(tiny_gpt2, loaded, tmp_path)
    for parameter in model.parameters():
        parameter.data.fill_(5.0)
    for name in ("transformer.wte", "transformer.h.0", "transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_proj"):
        assert reset(model, name).kept == []
    block = model.transformer.h[0]
    assert std(model.transformer.wte.weight) == pytest.approx(0.02, rel=0.05)  # not the 1.0 of torch's Embedding
    assert std(block.attn.c_attn.weight) == pytest.approx(0.02, rel=0.05)
    assert std(block.mlp.c_proj.weight) == pytest.approx(0.01, rel=0.05)  # 0.02 / sqrt(2 * 2 layers)
    assert std(model.transformer.h[1].mlp.c_proj.weight) == pytest.approx(0.01, rel=0.05)
    assert torch.equal(block.ln_1.weight, torch.ones(64))
    assert torch.equal(block.ln_1.bias, torch.zeros(64))
    assert torch.equal(model.transformer.wpe.weight, torch.full((32, 64), 5.0))
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, torch.full((64, 256), 5.0))
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("loaded", [False, True], ids=["made", "from_pretrained"])
def test_llama_is_reset_as_llama_begins(tmp_path: Path, loaded: bool) -> None:
    model: Any = kinds_of(tiny_llama, loaded, tmp_path)
    rotary = model.model.rotary_emb.inv_freq.clone()
    for parameter in model.parameters():
        parameter.data.fill_(5.0)
    assert reset(model, "").kept == []
    assert std(model.model.embed_tokens.weight) == pytest.approx(0.02, rel=0.05)
    assert std(model.model.layers[0].self_attn.q_proj.weight) == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.model.norm.weight, torch.ones(64))
    assert torch.equal(model.model.rotary_emb.inv_freq, rotary)


def test_a_plain_model_is_reset_by_its_layers_own_ways() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4))
    model(torch.randn(8, 4) * 9) if False else model[1](torch.randn(8, 4) * 9)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    assert reset(model, "").kept == []
    assert all(bool((p.abs() < 2).all()) for p in model.parameters())
    assert torch.equal(model[1].running_var, torch.ones(4))  # type: ignore[arg-type]


class Scale(nn.Module):
    """A user's layer with a parameter that nothing knows how to initialize."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = 2.0
        self.width = 4
        self.factor = nn.Parameter(torch.full((4,), 3.0))
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.inner = nn.Linear(4, 4)

    def shrink(self, by: float = 0.5) -> float:
        self.factor.mul_(by)
        self.temperature = self.temperature * by
        return by

    def rebuild(self) -> None:
        self.factor = nn.Parameter(torch.zeros(4))

    def explode(self) -> None:
        self.factor.mul_(float("inf"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.factor / self.temperature  # type: ignore[no-any-return]


class WithScale(TinyModel):
    """The tiny model behind a user's own layer."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.scale = Scale()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return super().forward(self.scale(x), labels)


def test_what_nothing_can_initialize_is_named_and_kept(bench: Bench) -> None:
    orders = [At(3, operation("scale", "reset_parameters"))]
    run = Watched(bench, orders, model=WithScale(), learning_rate=1e-6).run()
    assert run.ack.outcome == "applied"
    assert run.ack.result["kept"] == ["scale.factor"]
    assert "scale.factor" in run.ack.message
    assert torch.allclose(run.at(12, "scale.factor"), torch.full((4,), 3.0), atol=1e-3)
    alone = Scale()
    del alone.inner
    with pytest.raises(Exception, match="allow_layer_operation"):
        reset(nn.ModuleDict({"scale": alone}), "scale")
    assert torch.equal(alone.factor, torch.full((4,), 3.0))


def test_a_tied_head_is_named_and_stays_tied(bench: Bench) -> None:
    model = tiny_gpt2()
    run = token_run(bench, [At(3, operation("lm_head", "reset_parameters"))], model)
    assert run.ack.outcome == "applied", run.ack.message
    assert "transformer.wte.weight" in run.ack.message
    assert model.lm_head.weight is model.transformer.wte.weight
    assert run.ack.result["optimizer_state_cleared"] == 256 * 64


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adam, torch.optim.RMSprop])
def test_an_optimizer_goes_on_after_it_forgot_a_layer(kind: Any) -> None:
    """Adagrad makes its state when it is built, and would miss it."""
    layer = nn.Linear(2, 2)
    optimizer = kind(layer.parameters(), lr=0.1)
    for _ in range(2):
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert clear_state(optimizer, list(layer.parameters())) == 6
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert all(float(state["step"]) == 1.0 for state in optimizer.state.values())


# -- hyperparameters -----------------------------------------------------------------------------------------------


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, vocabulary: int) -> None:
        self.rows = torch.randint(0, vocabulary, (64, 8), generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def token_run(bench: Bench, orders: Sequence[At], model: Any, **how: Any) -> Watched:
    run = Watched(bench, orders, model=model, evaluates=False, **how)
    run.result.trainer.train_dataset = Tokens(model.config.vocab_size)
    return run.run()


def test_dropout_takes_effect_on_the_next_step(bench: Bench) -> None:
    run = Watched(bench, [At(4, update("drop", "p", 0.9))]).run()
    (change,) = run.ack.changes
    assert (change.name, change.previous, change.effective) == ("drop.p", 0.1, 0.9)
    assert run.result.bodies("read_back")[0].held
    plain = bench.run()
    assert run.result.trainer.state.log_history[3]["loss"] == plain.losses[3]
    assert run.result.trainer.state.log_history[4]["loss"] != plain.losses[4]
    assert run.result.trainer.model.drop.p == 0.9


def test_gpt2_and_llama_use_what_was_set(bench: Bench) -> None:
    """Two forwards in training mode differ if, and only if, there is dropout."""
    gpt2, llama = tiny_gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), tiny_llama()
    path = "transformer.h.0.attn.attn_dropout"
    run = token_run(bench, [At(3, update(path, "p", 0.5))], gpt2, max_steps=6)
    assert run.ack.changes[0].name == f"{path}.p"
    layer = "model.layers.0.self_attn"
    other = Bench(bench.path / "llama")
    run = token_run(other, [At(3, update(layer, "attention_dropout", 0.5))], llama, max_steps=6)
    assert run.ack.changes[0].effective == 0.5
    for model in (gpt2.cpu(), llama.cpu()):
        model.train()
        ids = torch.arange(8)[None]
        assert not torch.equal(model(ids).logits, model(ids).logits)


def test_an_epsilon_changes_what_the_norm_gives(bench: Bench) -> None:
    model = tiny_llama()
    run = token_run(bench, [At(3, update("model.norm", "variance_epsilon", 100.0))], model, max_steps=6)
    assert run.ack.outcome == "applied"
    normed = model.cpu().model.norm(torch.ones(1, 1, 64))
    assert float(normed.detach().abs().max()) < 0.15  # 1 / sqrt(1 + 100), not 1


class Gained(TinyModel):
    """With a parameter of the model's own, in none of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.shift: torch.Tensor
        self.register_buffer("shift", torch.zeros(8))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = self.second(self.drop(self.norm(torch.relu(self.first(x)) * self.gain + self.shift))).squeeze(-1)
        return {"logits": y} if labels is None else {"loss": ((y - labels) ** 2).mean(), "logits": y}


def test_a_parameter_that_lies_in_no_layer_is_frozen_by_its_name(bench: Bench) -> None:
    train = operation("gain", "requires_grad_", requires_grad=True)
    orders = [At(3, freeze("gain")), At(3, freeze("gain")), At(9, train), At(10, operation("gain", "reset_parameters"))]
    run = Watched(bench, [*orders, At(10, freeze("shift"))], model=Gained(), max_steps=12).run()
    frozen, again, trained, reset_it, buffer = run.result.acks()
    assert (frozen.outcome, frozen.message) == ("applied", again.message)
    assert [(c.name, c.previous, c.effective) for c in frozen.changes] == [("gain.requires_grad", True, False)]
    assert frozen.message.startswith("8 parameters are no longer trained")
    assert run.has_moved("gain", 2, 3)
    assert not run.has_moved("gain", 3, 9)
    assert run.has_moved("gain", 9, 10)
    assert all(run.has_moved("first.weight", step, step + 1) for step in range(1, 12)), "the rest goes on"
    assert trained.outcome == "applied"
    assert all(check.held for check in run.result.bodies("read_back"))
    assert (reset_it.outcome, "requires_grad_ takes it by this name" in reset_it.message) == ("failed", True)
    assert buffer.outcome == "failed"


MODELS: list[Callable[[], nn.Module]] = [
    Gained,
    TinyModel,
    tiny_gpt2,
    tiny_llama,
    lambda: nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.MultiheadAttention(4, 2), nn.BatchNorm1d(4))),
]


@pytest.mark.parametrize("make", MODELS)
def test_each_layer_that_a_finding_may_name_can_be_frozen_and_trained_by_that_name(
    make: Callable[[], nn.Module],
) -> None:
    model = make()
    adapter = PlainAdapter(model, torch.optim.SGD(model.parameters(), lr=0.1), None, None, None, None, None)
    sampler = WeightSampler(adapter)
    sampler.begin(0, 0)
    sample = sampler.look(1, 0)
    assert sample is not None
    assert len(sample.names) > 2
    for name in sample.names:
        assert find_layer(adapter, name, takes_parameter=True).parameters()


REFUSED = [
    (update("drop", "p", 1.5), "between 0 and 1"),
    (update("drop", "p", "0.5"), "is a float"),
    (update("drop", "p", True), "is a float"),
    (update("norm", "eps", 0.0), "above 0"),
    (update("drop", "training", False), "no parameter 'training'"),
    (update("drop", "inplace", True), "allow_layer_parameter('inplace')"),
    (update("first", "in_features", 5), "mostly is fixed"),
    (update("first", "forward", 1), "no parameter 'forward'"),
    (update("first", "weight", "abc"), "takes a number"),
    (update("first", "weight", [1.0, 2.0]), "has 32 elements (shape [8, 4]), not 2"),
    (update("first", "weight", 1e300), "does not fit float32"),
    (update("frist", "p", 0.5), "no layer 'frist'; there is: first"),
    (update("first.weight", "p", 0.5), "is a tensor of layer 'first'"),
    (update("drop", "q", 0.5), "there is: p"),
    (operation("first", "eval"), "there is: reset_parameters, requires_grad_"),
    (operation("first", "__setattr__", value=1), "no operation '__setattr__'"),
    (operation("drop", "reset_parameters"), "there is: none"),
    (operation("first", "reset_parameters", std=1.0), "it takes: no parameters"),
    (operation("nowhere", "reset_parameters"), "no layer 'nowhere'"),
]


def test_what_cannot_be_is_refused_with_what_can_and_changes_nothing(bench: Bench) -> None:
    run = Watched(bench, [At(3, command) for command, _ in REFUSED], max_steps=6).run()
    for (command, said), ack in zip(REFUSED, run.result.acks(), strict=True):
        assert (command, ack.outcome, ack.step) == (command, "failed", 3)
        assert said in ack.message, command
    assert run.result.bodies("model_read")[1:] == []
    assert [row["loss"] for row in run.result.trainer.state.log_history if "loss" in row] == bench.run(
        max_steps=6
    ).losses


def test_a_long_list_of_layers_is_cut_with_the_closest_first() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))

    class Loop:
        def model(self) -> nn.Module:
            return nn.ModuleDict({"blocks": model})

    with pytest.raises(Exception, match=r"blocks\.17") as caught:
        find_layer(Loop(), "block.17")  # type: ignore[arg-type]
    allowed = caught.value.allowed  # type: ignore[attr-defined]
    assert len(allowed) == 20
    assert "blocks.17" in allowed[:5]
    assert "282 more" in str(caught.value)


def test_bert_names_the_dropout_that_its_attention_uses() -> None:
    """In transformers 4 the attention's own dropout layer is never called; an ack for it would be a lie."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=16, hidden_dropout_prob=0.0, **sizes))
    bench_loop: Any = type("Loop", (), {"model": lambda self: model, "optimizer": lambda self: sgd(model)[0]})()
    run_state = run_state_of(bench_loop)
    path = "bert.encoder.layer.0.attention.self"
    if hasattr(model.get_submodule(path), "dropout_prob"):
        with pytest.raises(Exception, match="'dropout_prob' of layer"):
            apply(run_state, update(f"{path}.dropout", "p", 0.0))
        apply(run_state, update(path, "dropout_prob", 0.0))
    else:
        apply(run_state, update(f"{path}.dropout", "p", 0.0))
    apply(run_state, update("dropout", "p", 0.0))
    model.train()
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("how", ["torch_compile", "in place"])
def test_a_compiled_model_takes_the_change(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # TrainingArguments leaves this in the environment, where later tests and their processes would find it.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    model = TinyModel(0.0)
    orders = [At(3, update("drop", "p", 0.5)), At(3, freeze("first")), At(3, operation("second", "reset_parameters"))]
    changes: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "eager"}
    if how == "in place":
        model.compile(backend="eager")
        changes = {}
    run = Watched(bench, orders, model=model, learning_rate=1e-6, max_steps=6, **changes).run()
    assert [ack.outcome for ack in run.result.acks()] == ["applied"] * 3, run.result.acks()
    assert "compiled anew" in run.result.acks()[0].message
    assert not run.has_moved("first.weight", 3, 6)
    assert float((run.at(4, "second.weight") - run.at(2, "second.weight")).abs().max()) > 1e-3
    losses = [row["loss"] for row in run.result.trainer.state.log_history if "loss" in row]
    plain = bench.run(model=TinyModel(0.0), learning_rate=1e-6, max_steps=6).losses
    assert losses[:3] == pytest.approx(plain[:3], rel=1e-3)
    assert losses[3:] != pytest.approx(plain[3:], rel=1e-3)


# -- tensors -------------------------------------------------------------------------------------------------------


def test_weights_and_buffers_are_written_in_place(bench: Bench) -> None:
    orders = [
        At(3, update("scale", "factor", [1.0, 2.0, 3.0, 4.0])),
        At(3, update("scale", "count", 7)),
        At(3, update("scale", "count", 1.5)),
        At(3, update("scale.inner", "bias", 0.25)),
    ]
    model = WithScale()
    kept = model.scale.factor
    run = Watched(bench, orders, model=model, learning_rate=1e-7).run()
    assert [ack.outcome for ack in run.result.acks()] == ["applied", "applied", "failed", "applied"]
    assert torch.allclose(run.at(12, "scale.factor"), torch.tensor([1.0, 2.0, 3.0, 4.0]), atol=1e-3)
    assert torch.allclose(run.at(12, "scale.inner.bias"), torch.full((4,), 0.25), atol=1e-3)
    assert run.at(12, "scale.count").tolist() == [7, 7]
    assert model.scale.factor is kept
    assert run.result.acks()[0].changes[0].effective == [1.0, 2.0, 3.0, 4.0]
    assert "does not fit int64" in run.result.acks()[2].message


# -- what the user allows ------------------------------------------------------------------------------------------


def run_state_of(loop: Any) -> Any:
    from agenttune.trainer.knobs import KnobRegistry
    from agenttune.trainer.run_state import RunState

    return RunState(loop, KnobRegistry())


def apply(run_state: Any, command: dict[str, Any]) -> Any:
    from agenttune.protocol.commands import parse_command
    from agenttune.trainer.commands.outcomes import HANDLERS

    return HANDLERS[command["kind"]](run_state, None, parse_command(command))  # type: ignore[arg-type]


def test_an_operation_runs_only_if_the_user_allowed_it(bench: Bench) -> None:
    orders = [
        At(2, operation("scale", "shrink", by=0.25)),
        At(2, operation("scale", "shrink", by="much")),
        At(2, operation("scale", "explode")),
        At(2, operation("first", "noise", std=0.0)),
        At(2, operation("scale", "rebuild")),
    ]
    model = WithScale()
    run = Watched(bench, orders, model=model, learning_rate=1e-6)
    rules = run.result.trainer.interactive.registry.layers
    rules.allow_operation("shrink")
    rules.allow_operation("explode")
    rules.allow_operation("noise", lambda layer, std: layer.weight.mul_(std))
    factor = model.scale.factor
    run.run()
    shrunk, mistyped, exploded, silenced, unallowed = run.result.acks()
    assert [a.outcome for a in (shrunk, silenced)] == ["applied", "applied"]
    assert [a.outcome for a in (mistyped, exploded, unallowed)] == ["failed"] * 3
    assert torch.allclose(run.at(4, "scale.factor"), torch.full((4,), 0.75), atol=1e-3)
    assert model.scale.temperature == 0.5
    assert model.scale.factor is factor
    assert shrunk.result == {"returned": 0.25}
    assert {c.name for c in shrunk.changes} == {"scale.temperature", "scale.weights"}
    assert float(run.at(3, "first.weight").abs().max()) < 1e-3
    assert "by is a float" in mistyped.message
    assert "put back" in exploded.message
    assert "no operation 'rebuild'" in unallowed.message


def test_new_tensors_are_refused_and_put_back(bench: Bench) -> None:
    model = WithScale()
    run = Watched(bench, [At(2, operation("scale", "rebuild"))], model=model)
    run.result.trainer.interactive.registry.layers.allow_operation("rebuild")
    factor = model.scale.factor
    run.run()
    assert run.ack.outcome == "failed"
    assert "would not train" in run.ack.message
    assert model.scale.factor is factor
    assert run.has_moved("scale.factor", 2, 12)


def test_attributes_of_a_users_layer(bench: Bench) -> None:
    """A float of theirs is offered; a whole number may be a shape, and waits for their word."""
    orders = [At(2, update("scale", "temperature", 8)), At(2, update("scale", "width", 5))]
    model = WithScale()
    run = Watched(bench, orders, model=model).run()
    first, second = run.result.acks()
    assert (first.outcome, second.outcome) == ("applied", "failed")
    assert model.scale.temperature == 8.0
    assert "up to that class" in first.message
    allowed = WithScale()
    run = Watched(Bench(bench.path / "b"), orders[1:], model=allowed)
    run.result.trainer.interactive.registry.layers.allow_parameter("width")
    assert run.run().ack.outcome == "applied"
    assert allowed.scale.width == 5


@pytest.mark.parametrize("name", ["_apply", "requires_grad_", "a.b", ""])
def test_only_a_plain_name_can_be_allowed(name: str) -> None:
    from agenttune.trainer.layers.permissions import LayerRules

    with pytest.raises(Exception, match="name"):
        LayerRules().allow_operation(name)


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_branch_gets_the_values_of_its_checkpoint() -> None:
    model = TinyModel(0.1)
    loop: Any = type("Loop", (), {"model": lambda self: model, "optimizer": lambda self: sgd(model)[0]})()
    run_state = run_state_of(loop)
    changes: LayerChanges = run_state.layers
    apply(run_state, update("drop", "p", 0.3))
    saved = changes.capture()
    assert saved == {"drop": {"p": 0.3}}
    apply(run_state, update("drop", "p", 0.7))
    apply(run_state, update("norm", "eps", 0.5))
    frozen = apply(run_state, freeze("first"))
    restored = changes.restore(saved)
    assert {(c.name, c.previous, c.effective) for c in restored} == {
        ("drop.p", 0.7, 0.3),
        ("norm.eps", 0.5, 1e-5),
        ("first.weight.requires_grad", False, True),
        ("first.bias.requires_grad", False, True),
    }
    assert (model.drop.p, model.norm.eps, model.first.weight.requires_grad) == (0.3, 1e-5, True)
    assert [e.read() for e in frozen.expectations] == [None, None]  # changed by right: no false alarm
    assert changes.restore({"drop": {"p": 0.3}}) == []
    with pytest.raises(Exception, match=r"no dropp\.p"):
        changes.restore({"dropp": {"p": 0.1}})


def test_a_new_process_takes_over_what_a_checkpoint_says() -> None:
    model = TinyModel(0.1)
    changes = LayerChanges(type("Loop", (), {"model": lambda self: model})())
    changes.restore({"drop": {"p": 0.6}, "first.weight": {"requires_grad": False}})
    assert (model.drop.p, model.first.weight.requires_grad) == (0.6, False)
    assert changes.capture() == {"drop": {"p": 0.6}, "first.weight": {"requires_grad": False}}


# -- several processes ---------------------------------------------------------------------------------------------

SCRIPT = """
    import json, os, sys
    from pathlib import Path
    import torch
    from tests.trainer.conftest import At, Bench, Submitter, TinyModel
    from tests.trainer.test_layers import freeze, operation

    torch.set_num_threads(1)
    folder, rank, unused = Path(sys.argv[1]), int(os.environ["RANK"]), sys.argv[2] == "True"
    model = TinyModel()
    model.norm.requires_grad_(False)
    build = lambda m: (torch.optim.SGD(m.parameters(), lr=0.1), None)
    orders = [
        At(3, freeze("first")),
        At(5, operation("second", "reset_parameters")),
        At(7, operation("first", "requires_grad_", requires_grad=True)),
        At(7, operation("norm", "requires_grad_", requires_grad=True)),
    ]
    how = {"ddp_backend": "gloo", "ddp_find_unused_parameters": unused, "seed": 7}
    result = Bench(folder).trainer(orders, model=model, build=build, max_steps=10, **how)
    if rank:
        result.trainer.remove_callback(Submitter)
        torch.manual_seed(rank)
    result.trainer.train()
    (folder / f"rank{rank}.json").write_text(json.dumps([p.tolist() for p in model.parameters()]))
"""


def test_ddp_is_found_within_a_compiled_model() -> None:
    """`torch_compile` puts a module of its own around DDP's."""
    inner = TinyModel()
    compiled = torch.compile(inner, backend="eager")
    prepared = type("Accelerator", (), {"_models": [compiled]})()
    trainer = type("Loop", (), {"accelerator": prepared, "model_wrapped": compiled})()
    assert _wrappers(type("Adapter", (), {"trainer": trainer})()) == [inner]


@pytest.mark.parametrize("unused", [True, False])
def test_ranks_stay_the_same(tmp_path: Path, unused: bool) -> None:
    """Each rank draws its own random numbers, and DDP shares only what was trained when it was set up."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(tmp_path), str(unused), folder=tmp_path, ACCELERATE_DYNAMO_BACKEND="no"):
        assert ended.code == 0, ended.err[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    acks = Result(None, None, tmp_path / "runs").acks()  # type: ignore[arg-type]
    frozen, fresh, thawed, late = acks
    assert [frozen.outcome, thawed.outcome] == (["applied"] * 2 if unused else ["failed", "applied"]), frozen.message
    assert unused or "find_unused_parameters" in frozen.message
    assert (fresh.outcome, late.outcome) == ("applied", "failed")
    assert "wrapped for several processes" in late.message
