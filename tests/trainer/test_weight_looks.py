"""Looks at the weights: how straight their way is, how large steps are, by layer; and training does not notice."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from agenttune.protocol.events import NoteAdded, WeightsSampled
from agenttune.protocol.weight_looks import WeightLook
from agenttune.trainer.layers.weight_sampler import LAYER_COORDINATES, WeightSampler
from agenttune.trainer.recording.weight_looks import WeightLooks, straightness, update_ratios
from tests.trainer.conftest import At, Bench, TinyModel

pytestmark = pytest.mark.trainer


class Loop:
    """As much of a loop as is looked at."""

    def __init__(self, model: nn.Module, max_steps: int | None = 300) -> None:
        self._model, self._max_steps = model, max_steps
        self._optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def model(self) -> nn.Module:
        return self._model

    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def max_steps(self) -> int | None:
        return self._max_steps


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.LayerNorm(20))


def zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()


def looks_at(model: nn.Sequential, steps: int, move: Any, max_steps: int = 300, stretch: Any = lambda step: 0) -> Any:
    """The looks of so many steps, in each of which `move` moves the weights."""
    loop, looks = Loop(model, max_steps), WeightLooks()
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    found: list[WeightLook] = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            move(step)
        if step >= sampler.due_step or sampler.stretch != stretch(step):
            found.append(looks.add(sampler.look(step, stretch(step))))
    return found


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
def test_straightness_is_that_of_the_way_whatever_the_scale_of_a_layer(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    start, way = (torch.randn(4, 64, generator=draw, dtype=torch.float64) for _ in range(2))
    sized = torch.tensor([[1.0], [scale], [1.0], [1 / scale]], dtype=torch.float64)
    counts = torch.full((4,), 64.0, dtype=torch.float64)
    straight = straightness(start * 0, way * sized, 2 * way * sized, counts)
    back = straightness(start * 0, way * sized, 0 * way, counts)
    assert straight == pytest.approx(1)
    assert back == pytest.approx(-1)
    assert abs(straightness(start * 0, way * sized, way * sized + start * sized, counts)) < 0.5
    assert math.isnan(straightness(start, start, start, counts))
    assert math.isnan(straightness(start, start * math.nan, start, counts))


def test_weights_of_zero_do_not_move_or_move_beyond_all_measure() -> None:
    before, now = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 4.5]])
    ratios = update_ratios(before, now, 1).tolist()
    assert ratios[0] == 0.0
    assert math.isnan(ratios[1])
    assert ratios[2] == pytest.approx(0.1)


def test_a_straight_way_and_one_of_chance_are_told_apart() -> None:
    model = layers()
    ways = [torch.randn_like(p) for p in model.parameters()]

    def straight(step: int) -> None:
        for parameter, way in zip(model.parameters(), ways, strict=True):
            parameter.add_(way, alpha=1e-3)

    def random(step: int) -> None:
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)

    found = looks_at(model, 60, straight)
    assert found[-1].straightness > 0.99
    found = looks_at(model, 600, random, max_steps=2000)
    assert abs(found[-1].straightness) < 0.3
    sizes = [look.update_ratio for look in found if look.steps]
    assert len({look.steps for look in found}) > 3
    assert max(sizes) < 1.5 * min(sizes)  # steps of the same size, however many lie between two looks
    assert found[-1].early_update_ratio == max(
        look.update_ratio for look in found if look.steps > 0 and look.step <= 21
    )


def test_a_layer_that_jumps_stops_or_dies_is_seen_in_its_own_figures() -> None:
    model = layers()

    def move(step: int) -> None:
        for name, parameter in model.named_parameters():
            if name.startswith("0") and step > 40:
                continue
            factor = 100 if name.startswith("2") and step > 40 else 1
            parameter.add_(torch.randn_like(parameter), alpha=1e-3 * factor)
        if step == 50:
            zero(model[3])

    found = looks_at(model, 60, move)
    before, now = (next(look for look in found if look.step >= at) for at in (36, 48))
    assert set(before.ratios) == {"0", "2", "3"}
    assert now.ratios["2"] > 30 * before.ratios["2"]
    assert now.ratios["0"] == 0.0 < before.ratios["0"]
    last = looks_at(model, 1, lambda step: zero(model[3]))[-1]
    assert last.rms["3"] == 0.0
    assert last.rms["0"] > 0


def test_looks_are_close_at_first_and_a_hundredth_of_a_long_run_apart_later() -> None:
    steps = [look.step for look in looks_at(layers(), 900, lambda step: None, max_steps=2000)]
    assert steps[:6] == [1, 2, 3, 4, 5, 6]
    assert {b - a for a, b in zip(steps[-11:], steps[-10:], strict=False)} == {20}
    assert len(steps) < 60


def test_a_change_begins_a_new_stretch_that_is_looked_at_at_once() -> None:
    found = looks_at(layers(), 60, lambda step: None, stretch=lambda step: step > 30)
    assert {look.since_step for look in found} == {1, 31}
    first = next(look for look in found if look.since_step == 31)
    assert (first.step, first.steps) == (31, 0)
    assert math.isnan(first.straightness)
    assert math.isnan(first.update_ratio)


def test_shards_and_quantized_weights_are_left_out_and_said() -> None:
    model = layers()
    model[0].weight.to_local = lambda: None  # type: ignore[union-attr]  # as FSDP's have it
    model[0].register_parameter("bias", None)
    sampler: Any = WeightSampler(Loop(model))  # type: ignore[arg-type]
    sample = sampler.look(1, 0)
    assert sample.names == ("2", "3")
    assert sample.sizes == (LAYER_COORDINATES, 20)
    assert "1 layers" in sampler.skipped


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_a_run_is_looked_at_and_a_command_begins_a_stretch(bench: Bench, form: str) -> None:
    orders = [At(20, {"kind": "update_optimizer", "lr": 5e-4}, "c1")]
    result = bench.run(form=form, max_steps=40, orders=orders)
    log = result.log()
    looks = [e.body.look for e in log.events(kinds=["weights_sampled"]) if isinstance(e.body, WeightsSampled)]
    assert {look.since_step for look in looks} == {0, 20, 21}  # applied at 20, and confirmed a step later
    assert set(looks[0].ratios) == {name for name, m in TinyModel().named_modules() if m._parameters}
    told = [p for p in log.points(sources=["step"]) if "update_ratio" in p.values]
    assert [p.step for p in told] == [look.step for look in looks if look.steps]
    assert all(0 < p.values["update_ratio"] < 1 for p in told)
    assert any("path_straightness" in p.values for p in told)


def test_weights_that_cannot_be_looked_at_end_nothing(bench: Bench) -> None:
    class Late(TinyModel):
        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_code.co_filename.endswith("weight_sampler.py"):
                raise RuntimeError("a model can be anything")
            return super().named_modules(*args, **kwargs)

    result = bench.run(model=Late(), max_steps=6)
    assert len(result.losses) == 6
    log = result.log()
    assert not log.events(kinds=["weights_sampled"])
    assert not [e for e in log.events(kinds=["note_added"]) if isinstance(e.body, NoteAdded)]


def test_a_layer_that_begins_at_zero_does_not_count_for_the_size_of_updates() -> None:
    """An adapter's second half: its first updates are all that it consists of."""
    model = layers()
    with torch.no_grad():
        zero(model[2])
    loop, looks = Loop(model), WeightLooks()
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.note_zeros()
    for step in range(1, 12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-4)
        if step >= sampler.due_step or sampler.stretch != 0:
            look = looks.add(sampler.look(step, 0))
    assert look.since_step == 1
    assert look.ratios["2"] > 0.2
    assert look.early_update_ratio < 0.01


def test_a_layer_of_one_number_is_not_looked_at() -> None:
    """Seen: a gate that went through zero was taken for a layer that jumps, and frozen."""
    model = nn.Sequential(nn.Linear(40, 30), nn.PReLU(), nn.Linear(30, 20))
    sampler: Any = WeightSampler(Loop(model))  # type: ignore[arg-type]
    assert sampler.look(1, 0).names == ("0", "2")
    assert sampler.skipped == ""


@pytest.mark.parametrize("from_zero", [(), (0, 2)], ids=["a layer alone", "all matrices from zero"])
def test_where_no_layer_tells_the_size_of_updates_is_not_known(from_zero: tuple[int, ...]) -> None:
    """Seen: linear probes, whose first updates are larger than their weights at any rate, were begun anew in vain."""
    model = layers() if from_zero else nn.Sequential(nn.Linear(40, 30))
    with torch.no_grad():
        for i in from_zero:
            zero(model[i])
    loop, looks = Loop(model), WeightLooks()
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.note_zeros()
    for step in range(1, 12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if step >= sampler.due_step or sampler.stretch != 0:
            look = looks.add(sampler.look(step, 0))
    assert look.ratios["0"] > 0.1
    assert math.isnan(look.update_ratio)
    assert math.isnan(look.early_update_ratio)
    assert not math.isnan(look.straightness)


TABLES_AND_LAYERS: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "embeddings": (lambda: [nn.Embedding(30, 8), nn.Embedding(30, 8), nn.Linear(8, 6)], "2"),
    "bags": (lambda: [nn.EmbeddingBag(30, 8), nn.EmbeddingBag(30, 8), nn.Embedding(9, 8), nn.Linear(8, 6)], "3"),
    "nothing but tables": (lambda: [nn.Embedding(30, 8), nn.Embedding(30, 8)], "0"),
}


@pytest.mark.parametrize("kind", TABLES_AND_LAYERS)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_under_sgd_tables_do_not_count_for_the_size_of_updates_beside_other_layers(kind: str, optimizer: Any) -> None:
    """Seen at a good rate: 9e-5 of five tables hid 0.009 and 0.08 of the layers behind, and it was raised tenfold."""
    made, counts = TABLES_AND_LAYERS[kind]
    model = nn.Sequential(*made())
    loop, looks = Loop(model), WeightLooks()
    loop._optimizer = optimizer(model.parameters(), lr=0.1)
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.note_zeros()
    for step in range(1, 12):
        with torch.no_grad():
            for layer in model:
                alpha = 1e-4 if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) else 1e-2
                for parameter in layer.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=alpha)
        if step >= sampler.due_step or sampler.stretch != 0:
            look = looks.add(sampler.look(step, 0))
    counted = counts if optimizer is torch.optim.SGD else "0"
    assert look.update_ratio == pytest.approx(look.ratios[counted], rel=0.5)
    assert len(look.ratios) == len(model), "they are told all the same"


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_the_first_update_counts_however_large_it_is(bench: Bench, form: str) -> None:
    """Adam's first one is as large as the rate: after it, weights are so large that no later one looks large."""
    result = bench.run(form=form, max_steps=8, learning_rate=20.0)
    looks = [e.body.look for e in result.log().events(kinds=["weights_sampled"]) if isinstance(e.body, WeightsSampled)]
    known = [look for look in looks if look.step <= 6 and not math.isnan(look.early_update_ratio)]
    assert known
    assert known[0].early_update_ratio > 3
    assert known[0].since_step == 0


class GroupedLoop(Loop):
    """With a rate for each part of the model."""

    def __init__(self, model: nn.Sequential, rates: list[float]) -> None:
        super().__init__(model)
        parts = [{"params": part.parameters(), "lr": rate} for part, rate in zip(model, rates, strict=True)]
        self._optimizer = torch.optim.AdamW(parts)


@pytest.mark.parametrize(
    ("rates", "is_high"),
    [
        ((1e-5, 1e-3), False),
        ((1e-5, 1e-1), True),
        ((1e-3, 1e-1), True),
        ((1e-5, 1e-5, 1e-1), True),
        ((1e-3,) * 3, False),
    ],
    ids=["usual", "the head's", "both a hundredfold", "one of three", "one rate for all"],
)
def test_a_rate_that_is_too_high_for_one_group_is_not_hidden_by_the_layers_of_the_others(
    rates: tuple[float, ...], is_high: bool
) -> None:
    """Seen: encoder and head at a hundred times their rates read 0.4 to 0.6, and no rule acted."""
    torch.manual_seed(0)
    encoders = [nn.Sequential(*(nn.Linear(32, 32) for _ in range(6))) for _ in rates[1:]]
    model = nn.Sequential(*encoders, nn.Linear(32, 4))
    loop, looks = GroupedLoop(model, list(rates)), WeightLooks()
    sampler = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.note_zeros()
    sampler.begin(0, 0)
    for step in range(1, 12):
        loop.optimizer().zero_grad()
        (model(torch.randn(16, 32)) - 1.0).square().mean().backward()
        loop.optimizer().step()
        sample = sampler.look(step, 0)
        assert sample is not None
        look = looks.add(sample)
    assert (look.early_update_ratio > 0.6) is is_high


@pytest.mark.parametrize("warm_up", [0, 200])
def test_the_size_of_early_updates_is_that_at_the_end_of_a_warm_up(warm_up: int) -> None:
    """Seen: in a long warm-up the first twenty steps are tiny, and a rate that is right was raised tenfold after it."""
    model = layers()
    loop, found = Loop(model, 1000), WeightLooks()
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.begin(0, 0)
    looks: list[WeightLook] = []
    for step in range(1, 401):
        rate = min(1.0, step / warm_up) if warm_up else 1.0
        loop.optimizer().param_groups[0]["lr"] = rate
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * rate * parameter.std() * torch.randn_like(parameter))
        if step >= sampler.due_step or sampler.stretch != 0:
            looks.append(found.add(sampler.look(step, 0)))
    assert looks[-1].early_update_ratio == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam])
def test_early_updates_are_told_as_they_are_once_an_optimizer_has_settled(kind: Any) -> None:
    """Seen: RMSprop's first step is ten times its later ones: a good rate was taken for one that is far too high."""
    model = layers()
    loop, found = Loop(model, 1000), WeightLooks()
    loop._optimizer = kind(model.parameters(), lr=0.002)
    sampler: Any = WeightSampler(loop)  # type: ignore[arg-type]
    sampler.begin(0, 0)
    looks: list[WeightLook] = []
    draw = torch.Generator().manual_seed(0)
    for step in range(1, 26):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        loop.optimizer().step()
        if step >= sampler.due_step or sampler.stretch != 0:
            looks.append(found.add(sampler.look(step, 0)))
    assert looks[-1].early_update_ratio < 3 * looks[-1].update_ratio
