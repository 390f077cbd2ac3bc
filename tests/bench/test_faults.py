"""Faults: development and test apart, the same for all contenders, and what each does to a training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agenttune.bench.catalog import TASKS, open_task, task_facts
from agenttune.bench.faults import (
    DEVELOPMENT_SEEDS,
    FAULTS,
    HOSTILE_TEXTS,
    TEST_SEEDS,
    draw,
    fault_kind,
    faulty_recipe,
    kinds_needing,
    refusal,
)
from agenttune.bench.tasks.hf_training import HfTask
from agenttune.bench.tasks.injection import Injector, make_injector
from agenttune.bench.tasks.injection.layers import large_parts
from agenttune.bench.training import Fault, Live, Recipe, Split
from agenttune.detectors import DETECTOR_NAMES
from agenttune.errors import ConfigError, TaskDataMissing, UserError

RECIPE = Recipe(lr=1e-2, schedule="linear", warmup_frac=0.1, steps=100, eval_every=10)
KINDS = sorted(FAULTS)


# -- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_values_and_onsets_of_development_and_test_never_meet(name: str) -> None:
    kind = fault_kind(name)
    assert kind.development.keys() == kind.test.keys()
    for parameter, development in kind.development.items():
        test = kind.test[parameter]
        assert development.low <= development.high
        assert test.low <= test.high
        assert development.high < test.low or test.high < development.low, parameter


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 9_999), st.integers(1, 5_000))
def test_what_is_drawn_is_of_its_range_and_the_same_for_everybody(name: str, seed: int, steps: int) -> None:
    kind = fault_kind(name)
    for split, start in (("development", 0), ("test", TEST_SEEDS.start)):
        fault = draw(kind, "mnist_cnn", start + seed, split, steps)  # type: ignore[arg-type]
        assert fault == draw(kind, "mnist_cnn", start + seed, split, steps)  # type: ignore[arg-type]
        spans = dict(kind.development if split == "development" else kind.test)
        onset = spans.pop("onset_frac", None)
        assert fault.values.keys() == spans.keys()
        for parameter, span in spans.items():
            assert span.low * (1 - 1e-9) <= float(fault.values[parameter]) <= span.high * (1 + 1e-9)
        if onset is None:
            assert fault.step == 0
        else:
            assert round(onset.low * steps) <= fault.step <= round(onset.high * steps)


def test_a_seed_of_the_other_range_is_refused() -> None:
    kind = fault_kind("lr_x10")
    for seed, split in ((DEVELOPMENT_SEEDS.stop, "development"), (0, "test")):
        with pytest.raises(ConfigError, match=f"seed {seed} is not of the {split} range"):
            draw(kind, "mnist_cnn", seed, split, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_says_how_it_is_found_or_that_all_is_well(name: str) -> None:
    kind = fault_kind(name)
    assert kind.name == name
    assert set(kind.findings) <= set(DETECTOR_NAMES)
    assert kind.is_healthy == (not kind.findings) == (kind.group in ("healthy", "false alarm"))


def test_a_fault_that_there_is_not_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'lr_x10'.*healthy"):
        fault_kind("lr_10")


def test_a_task_that_cannot_suffer_a_kind_says_what_it_can() -> None:
    assert refusal(fault_kind("lr_x10"), "quadratic", []) == ""
    assert refusal(fault_kind("dead_layer"), "cnn", kinds_needing("saturating layers")) == ""
    said = refusal(fault_kind("dead_layer"), "quadratic", ["nan_gradient"])
    assert "quadratic cannot suffer dead_layer, which needs saturating layers" in said
    assert "nan_gradient" in said
    assert "frozen_layer" not in said


def test_the_recipe_is_left_as_the_fault_has_it() -> None:
    def left(name: str) -> Recipe:
        return faulty_recipe(RECIPE, draw(fault_kind(name), "mnist_cnn", 3, "development", RECIPE.steps))

    assert left("healthy") == left("nan_gradient") == RECIPE
    assert left("lr_x100").lr == pytest.approx(1, rel=0.21)
    assert left("lr_x0.01").lr == pytest.approx(1e-4, rel=0.26)
    assert left("collapsed_schedule").decay_after_frac == pytest.approx(0.115, abs=0.036)
    assert (left("no_warmup").warmup_frac, left("no_warmup").schedule) == (0.0, "cosine")
    assert (left("plateau").warmup_frac, left("plateau").schedule) == (0.1, "constant")
    for kind in FAULTS.values():
        assert (left(kind.name) != RECIPE) == kind.is_recipe


# -- what is done ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Learns which of three numbers is largest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.layers(inputs))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def batch(step: int, rows: int = 32) -> dict[str, torch.Tensor]:
    inputs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(step))
    return {"inputs": inputs, "labels": inputs.argmax(1)}


class Loop(Live):
    """A plain loop that can go back, and try steps and undo them."""

    def __init__(self, fault: Fault | None, seed: int = 0, optimizer: type[Any] = torch.optim.Adam) -> None:
        torch.manual_seed(seed)
        self.recipe, self.step, self.total_steps = RECIPE, 0, 0
        self.net = Net()
        self.optimizer = optimizer(self.net.parameters(), lr=RECIPE.lr)
        self.injector = make_injector(fault, self.net, seed)
        self.injector.started(self, None)
        self.seen: list[dict[str, torch.Tensor]] = []

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def scale_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def save(self) -> tuple[Any, Any, int]:
        return copy.deepcopy((self.net.state_dict(), self.optimizer.state_dict(), self.step))

    def load(self, saved: Any, clear_optimizer: bool = False) -> None:
        weights, optimizer, self.step = copy.deepcopy(saved)
        self.net.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)

    def take_up(self, step: int, copies: int) -> None:
        raise NotImplementedError

    def evaluate(self) -> float:
        with torch.no_grad():
            return float(self.net.eval()(**batch(-1, rows=512))["loss"])

    def stop(self) -> None:
        raise NotImplementedError

    def steps(self, count: int, is_trial: bool = False) -> Loop:
        for _ in range(count):
            self.net.train()
            inputs = self.injector.before_forward(batch(self.step), self.step)
            self.seen.append(inputs)
            self.optimizer.zero_grad()
            self.net(**inputs)["loss"].backward()
            self.injector.after_backward(self.step)
            self.optimizer.step()
            self.step += 1
            self.injector.after_step(self.step, is_trial)
        return self

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])


def drawn(name: str, seed: int = 0, steps: int = RECIPE.steps, split: Split = "development") -> Fault:
    return draw(fault_kind(name), "net", seed, split, steps)


SPOILT = ["corrupt_batch", "corrupt_burst", "label_noise", "nan_gradient"]
STRUCK = ["dead_layer", "unstable_layer", "layer_dropout", "scaled_layer"]
ACCIDENTS = ["nan_gradient", "dead_layer", "scaled_layer", "reset_layer"]
RATES = ["bad_intervention", "bad_intervention_raise"]


@pytest.fixture(scope="module")
def untroubled() -> float:
    return Loop(None).steps(RECIPE.steps).evaluate()


@pytest.mark.parametrize("name", [*SPOILT, *STRUCK, "bad_intervention_raise"])
def test_a_fault_does_damage_the_same_each_time(name: str, untroubled: float) -> None:
    troubled, again = (Loop(drawn(name)).steps(RECIPE.steps).evaluate() for _ in range(2))
    assert troubled == again or (math.isnan(troubled) and math.isnan(again))
    assert not troubled <= 1.1 * untroubled


@pytest.mark.parametrize("name", ["healing_spike", "noisy_evals", "missing_evals", "hostile_text", "rare_evals"])
def test_a_false_alarm_does_none(name: str, untroubled: float) -> None:
    assert Loop(drawn(name)).steps(RECIPE.steps).evaluate() == pytest.approx(untroubled, rel=0.15)


def test_a_healing_spike_is_high_and_leaves_no_gradient() -> None:
    fault = drawn("healing_spike")
    loop = Loop(fault).steps(fault.step)
    before = loop.weights()
    losses = [loop.net(**inputs)["loss"].item() for inputs in loop.steps(1).seen[-2:]]
    assert losses[1] > 2 * losses[0]
    assert all(not p.grad.any() for p in loop.net.parameters() if p.grad is not None)
    assert not torch.equal(loop.weights(), before)  # momentum goes on


def test_a_curriculum_begins_with_a_part_of_the_data_and_comes_to_all_of_it() -> None:
    fault = drawn("curriculum")
    loop = Loop(fault)
    seen = loop.steps(fault.step + 5).seen
    parts = [set(inputs["labels"].tolist()) for inputs in seen]
    everything = set().union(*parts)
    early = set().union(*parts[: fault.step])
    assert early < everything
    assert all(
        torch.equal(inputs["labels"], batch(fault.step + n)["labels"]) for n, inputs in enumerate(seen[fault.step :])
    )


@pytest.mark.parametrize("name", ["corrupt_burst", "label_noise", "mixture_shift", "overfitting", "healing_spike"])
def test_a_return_meets_the_same_data_again(name: str) -> None:
    fault = drawn(name)
    loop = Loop(fault).steps(fault.step - 5)
    saved = loop.save()
    first = loop.steps(30).seen[-30:]
    loop.load(saved)
    again = loop.steps(30).seen[-30:]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    untouched, touched = first[4], first[6]
    assert torch.equal(untouched["labels"], batch(fault.step - 1)["labels"])
    assert not all(torch.equal(touched[key], batch(fault.step + 1)[key]) for key in touched) or name == "overfitting"


@pytest.mark.parametrize("name", [*ACCIDENTS, *RATES, "bad_intervention_freeze"])
def test_an_accident_happens_once_though_training_goes_back(name: str) -> None:
    fault = drawn(name)
    loop = Loop(fault).steps(fault.step - 2)
    saved = loop.save()
    rates, flags = loop.lr, [p.requires_grad for p in loop.net.parameters()]
    loop.steps(12)
    loop.load(saved)
    for parameter, flag in zip(loop.net.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    quiet = Loop(None)
    quiet.load(saved)
    assert torch.equal(loop.steps(12).weights(), quiet.steps(12).weights())
    assert loop.lr == rates


@pytest.mark.parametrize("back", range(1, 7))
def test_an_explosion_is_over_after_a_return_into_its_midst(back: int) -> None:
    fault = Fault(kind="nan_gradient", step=10, values={"growing_steps": 4})
    loop, states = Loop(fault).steps(10), {}
    for _ in range(5):
        states[loop.step] = loop.save()
        loop.steps(1)
    assert loop.weights().isnan().any()
    loop.load(states[max(10, loop.step - back)])
    assert loop.steps(10).weights().isfinite().all()


@pytest.mark.parametrize("name", ["nan_gradient", "dead_layer"])
def test_an_accident_in_a_trial_that_is_undone_is_still_to_come(name: str) -> None:
    fault = drawn(name)
    loop, alone = Loop(fault).steps(fault.step - 3), Loop(fault).steps(RECIPE.steps)
    saved = loop.save()
    for _ in range(2):
        tried = loop.steps(10, is_trial=True).weights()
        assert tried.isnan().any() or (tried < -10).any()  # it happens in the trial too
        loop.load(saved)
    assert torch.equal(loop.steps(RECIPE.steps - loop.step).weights().nan_to_num(0), alone.weights().nan_to_num(0))


def test_an_operator_does_nothing_in_a_trial() -> None:
    fault = drawn("bad_intervention")
    loop = Loop(fault).steps(fault.step - 1)
    saved = loop.save()
    assert loop.steps(5, is_trial=True).lr == RECIPE.lr
    loop.load(saved)
    assert loop.steps(1).lr == pytest.approx(RECIPE.lr * float(fault.values["rate_factor"]))


# -- layers -----------------------------------------------------------------------------------------------------------


def layer_of(loop: Loop) -> Any:
    assert loop.injector.layer is not None
    return loop.net.get_submodule(loop.injector.layer)


def test_seeds_strike_several_layers_each_always_the_same() -> None:
    struck = {seed: Loop(drawn("unstable_layer", seed), seed).injector.layer for seed in range(8)}
    assert struck == {seed: Loop(drawn("unstable_layer", seed), seed).injector.layer for seed in range(8)}
    assert set(struck.values()) == {"layers.3"}  # the others have but few of the weights
    dead = {Loop(drawn("dead_layer", seed), seed).steps(1).injector.layer for seed in range(8)}
    assert dead == {"layers.0", "layers.3"}  # what no ReLU follows cannot die


def test_a_layer_that_begins_anew_has_weights_as_at_first_but_not_the_same() -> None:
    fault = drawn("reset_layer")
    loop = Loop(fault)
    first = layer_of(loop).weight.detach().clone()
    now = layer_of(loop.steps(fault.step)).weight.detach()
    assert torch.equal(now.flatten().sort().values, first.flatten().sort().values)
    assert not torch.equal(now, first)


def test_a_layer_without_gradients_moves_no_more_and_the_others_do() -> None:
    fault = drawn("lost_gradients")
    loop = Loop(fault).steps(fault.step)
    layer, head = layer_of(loop).weight.detach().clone(), loop.net.head.weight.detach().clone()
    loop.steps(10)
    assert torch.equal(layer_of(loop).weight, layer)
    assert not torch.equal(loop.net.head.weight, head)


def test_no_gradient_comes_through_a_dead_layer() -> None:
    fault = drawn("dead_layer")
    loop = Loop(fault).steps(RECIPE.steps)
    first: Any = loop.net.get_submodule("layers.0")
    assert not layer_of(loop).weight.grad.any()
    assert not first.weight.grad.any()
    assert loop.evaluate() == pytest.approx(math.log(3), rel=0.05)
    layer_of(loop).reset_parameters()
    assert loop.steps(60).evaluate() < 0.5


def test_a_part_that_is_frozen_matters_but_leaves_something_to_train() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(12)))
    assert set(large_parts(nn.Sequential(blocks, nn.Linear(8, 2)))) == {"0.0"}  # one block of many
    assert set(large_parts(Net())) == {"layers.3"}


def test_a_frozen_layer_can_be_trained_again() -> None:
    loop = Loop(drawn("frozen_layer"))
    layer = layer_of(loop)
    before = layer.weight.detach().clone()
    loop.steps(10)
    assert torch.equal(layer.weight, before)
    layer.requires_grad_(True)
    loop.steps(10)
    assert not torch.equal(layer.weight, before)


def test_an_unstable_layer_holds_still_when_it_is_frozen(untroubled: float) -> None:
    fault = drawn("unstable_layer")
    loop = Loop(fault).steps(fault.step)
    layer_of(loop).requires_grad_(False)
    assert loop.steps(RECIPE.steps - fault.step).evaluate() < 1.3 * untroubled


def test_a_layer_drops_what_it_is_given_until_it_is_told_otherwise(untroubled: float) -> None:
    loop = Loop(drawn("layer_dropout"))
    assert loop.injector.layer == "layers.2"
    layer_of(loop).p = 0.0
    assert loop.steps(RECIPE.steps).evaluate() == pytest.approx(untroubled)


def test_a_model_without_such_a_layer_is_told_so() -> None:
    with pytest.raises(UserError, match="no layer that layer_dropout can strike"):
        make_injector(drawn("layer_dropout"), nn.Linear(2, 2), 0)


class Functional(nn.Module):
    """Activations that are no modules, as transformers' models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.other = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        up = self.up(x)
        # GPT-2's approximation of GELU, in Python
        bent = 0.5 * up * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (up + 0.044715 * torch.pow(up, 3.0))))
        return (self.other(self.down(bent) + x),)


def test_a_layer_dies_before_an_activation_written_out() -> None:
    model = Functional()
    injector = make_injector(Fault(kind="dead_layer", step=1, values={"saturation": 30.0}), model, 0)
    model(torch.randn(2, 4))
    assert injector.layer == "up"


# -- data of other tasks ----------------------------------------------------------------------------------------------


def texts() -> dict[str, torch.Tensor]:
    tokens = torch.arange(48).reshape(4, 12)
    return {"input_ids": tokens, "labels": tokens.clone(), "attention_mask": torch.ones(4, 12, dtype=torch.long)}


def numbers() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(16, 2), "labels": torch.arange(16.0)}


def images() -> dict[str, torch.Tensor]:
    return {"images": torch.rand(8, 1, 4, 4)}


@pytest.mark.parametrize("made", [texts, numbers, images], ids=lambda made: str(made.__name__))
@pytest.mark.parametrize("name", ["corrupt_batch", "label_noise", "mixture_shift", "overfitting"])
def test_batches_keep_their_shape_and_the_loops_own_are_left_alone(name: str, made: Any) -> None:
    if name == "label_noise" and made is images:
        pytest.skip("images without labels cannot have wrong ones; such tasks do not list it")
    fault = drawn(name)
    injector = make_injector(fault, nn.Linear(2, 2), 0)
    given_batch = made()
    before = {key: value.clone() for key, value in given_batch.items()}
    got = injector.before_forward(given_batch, fault.step)
    assert got.keys() == before.keys()
    for key, value in got.items():
        assert (value.shape, value.dtype) == (before[key].shape, before[key].dtype)
        assert torch.equal(given_batch[key], before[key])
    if name != "overfitting":
        assert any(not torch.equal(got[key], before[key]) for key in got)
    if "attention_mask" in got:
        assert got["attention_mask"].all()


def test_ignored_labels_stay_ignored() -> None:
    fault = Fault(kind="label_noise", values={"noise_frac": 1.0})
    labels = torch.tensor([[-100, -100, 5, 6, 7, 8, 9, -100]])
    got = make_injector(fault, None, 0).before_forward({"labels": labels}, 1)["labels"]
    assert torch.equal(got == -100, labels == -100)
    assert sorted(got[labels != -100].tolist()) == [5, 6, 7, 8, 9]


def test_a_shifted_mixture_leaves_out_classes() -> None:
    fault = Fault(kind="mixture_shift", values={"shifted_frac": 1.0})
    labels = torch.arange(40) % 10
    got = make_injector(fault, None, 0).before_forward({"x": labels.float(), "labels": labels}, 1)
    assert set(got["labels"].tolist()) <= {0, 2, 4, 6, 8}
    assert torch.equal(got["x"], got["labels"].float())  # rows stay whole


# -- reports ----------------------------------------------------------------------------------------------------------


def shown(injector: Injector, steps: range) -> Iterator[float]:
    for step in steps:
        yield injector.evaluation({"eval_loss": 1.0, "eval_runtime": 2.0}, step, "eval_loss")["eval_loss"]


def test_evaluations_are_noisy_rare_or_missing_the_same_each_time() -> None:
    noisy = make_injector(drawn("noisy_evals"), None, 0)
    values = list(shown(noisy, range(40)))
    assert values == list(shown(noisy, range(40)))
    assert 0.05 < torch.tensor(values).std() < 0.5
    rare = make_injector(drawn("rare_evals"), None, 0)
    assert rare.eval_every(10) in (30, 40)
    missing = make_injector(drawn("missing_evals"), None, 0)
    made = [missing.evaluates(step) for step in range(100)]
    assert 10 < sum(made) < 60
    assert made == [missing.evaluates(step) for step in range(100)]


def test_hostile_text_is_in_the_log_from_its_onset_on() -> None:
    texts = {split: set[str]() for split in ("development", "test")}
    for split, start in (("development", 0), ("test", TEST_SEEDS.start)):
        for seed in range(start, start + 30):
            fault = drawn("hostile_text", seed, split=split)  # type: ignore[arg-type]
            injector = make_injector(fault, None, seed)
            assert injector.log_row(fault.step - 1) == {}
            texts[split].add(injector.log_row(fault.step)["note"])
    assert texts == {"development": set(HOSTILE_TEXTS[:3]), "test": set(HOSTILE_TEXTS[3:])}


# -- the tasks --------------------------------------------------------------------------------------------------------

NETWORKS = [facts.name for facts in TASKS.values() if facts.tier == 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_suffers_what_its_facts_say(name: str) -> None:
    facts = task_facts(name)
    task = open_task(facts)
    assert isinstance(task, HfTask)
    try:
        parts = task.parts(0, "development")
    except TaskDataMissing as error:
        pytest.skip(error.message)
    rows = [parts.train_dataset[i] for i in range(parts.batch_size)]
    given_batch = parts.collator(rows)
    weights = copy.deepcopy(parts.model.state_dict())
    for kind in facts.faults:
        fault = drawn(kind, steps=10)
        parts.model.load_state_dict(weights)
        injector = make_injector(fault, parts.model, 0)
        injector.started(Loop(None), None)
        torch.manual_seed(0)
        for step in range(fault.step, fault.step + 2):
            inputs = injector.before_forward(given_batch, step)
            parts.model(**inputs)["loss"].backward()
            injector.after_backward(step)
            injector.after_step(max(1, step))
        assert (injector.layer is not None) == fault_kind(kind).strikes_layer, kind
        for parameter in parts.model.parameters():
            parameter.requires_grad_(True)
