"""A mixture draws the same samples under the same weights, wherever it is drawn from, and follows its weights live."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from agenttune.errors import UserError
from agenttune.trainer.datasets import (
    Mixture,
    SourceCollator,
    SourceLosses,
    attach_sources,
    capture_dataset,
    make_interactive_dataset,
    read_dataset,
    restore_dataset,
)
from agenttune.trainer.datasets.draws import Permutation, boundaries, key_of, shares
from agenttune.trainer.datasets.parameters import parameters_of

pytestmark = pytest.mark.trainer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Rows(Dataset[Any]):
    """Row `i` is `first + i`."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor(self.first + index)}


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(range(3))


def two(wiki: float = 0.7, code: float = 0.3, size: int | None = 200, seed: int = 0, rows: int = 1000) -> Mixture:
    weights = {"wiki": wiki, "code": code}
    return Mixture({"wiki": Rows(0, rows), "code": Rows(100_000, rows)}, weights=weights, size=size, seed=seed)


def weigh(mixture: Mixture, **weights: Any) -> None:
    """As the command does it."""
    parameters = parameters_of(mixture)
    assert parameters is not None
    parameters.write(parameters.fit_runtime(mixture, {"weights": weights}))


def drawn(mixture: Mixture, indices: Sequence[int] | None = None) -> list[tuple[str, int]]:
    return [mixture.draw(index) for index in (range(len(mixture)) if indices is None else indices)]


def values(batches: Any) -> list[int]:
    return [value for batch in batches for value in batch["x"].tolist()]


# -- orders --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(max_examples=40, deadline=None)
def test_a_permutation_gives_every_place_once(size: int, key: int) -> None:
    order = Permutation(size, key)
    assert sorted(map(order, range(size))) == list(range(size))


@pytest.mark.parametrize("size", [3, 40, 300])
def test_orders_are_spread_evenly_over_keys(size: int) -> None:
    """Chi-squared over where the first place goes; far beyond its 99.9 % point only if orders are lopsided."""
    count = 20 * size
    found = Counter(Permutation(size, key_of("even", key))(0) for key in range(count))
    chi = sum((found[place] - 20) ** 2 / 20 for place in range(size))
    assert chi < size - 1 + 4 * math.sqrt(2 * size)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(any), st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_shares_follow_the_weights_to_one_draw_and_add_up(weights: list[float], size: int) -> None:
    found, total = shares(weights, size), math.fsum(weights)
    assert sum(found) == size == boundaries(weights, size)[-1]
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - weight / total * size) <= 1 + 1e-6 * size
        assert weight > 0 or share == 0


# -- what is drawn -------------------------------------------------------------------------------------------------


def test_an_epoch_has_exactly_the_shares_and_no_item_twice() -> None:
    found = drawn(two())
    assert Counter(source for source, _ in found) == {"wiki": 140, "code": 60}
    assert len(set(found)) == 200
    first_half = Counter(source for source, _ in found[:100])
    assert 50 <= first_half["wiki"] <= 90


def test_epochs_go_on_through_a_source_before_any_item_comes_again() -> None:
    mixture = two(rows=140)
    seen: Counter[tuple[str, int]] = Counter()
    for epoch in range(7):
        mixture.set_epoch(epoch)
        seen.update(drawn(mixture))
    assert {count for (source, _), count in seen.items() if source == "wiki"} == {7}
    assert {count for (source, _), count in seen.items() if source == "code"} == {3}
    assert len(seen) == 280


def test_a_seed_gives_the_same_draws_and_another_seed_or_epoch_gives_others() -> None:
    assert drawn(two(seed=3)) == drawn(two(seed=3))
    assert drawn(two(seed=3)) != drawn(two(seed=4))
    mixture = two(seed=3)
    first = drawn(mixture)
    mixture.set_epoch(1)
    assert drawn(mixture) != first
    mixture.set_epoch(0)
    assert drawn(mixture) == first


def test_the_draws_of_a_seed_are_fixed_for_ever() -> None:
    """A run continued with a later version of agenttune must draw the same."""
    mixture = two(size=1000, seed=7)
    assert [mixture.draw(index) for index in (0, 1, 999)] == [("wiki", 18), ("code", 614), ("wiki", 395)]


def test_a_draw_costs_the_same_from_sources_of_any_size() -> None:
    mixture = Mixture({"a": range(10**15), "b": range(10**15)}, weights={"a": 1, "b": 1}, size=10**12)
    found = drawn(mixture, range(500))
    assert len(set(found)) == 500
    assert {source for source, _ in found} == {"a", "b"}
    assert max(item for _, item in found) > 10**14


@pytest.mark.quick("0-*", "2-fork")
@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (1, "spawn")])
def test_workers_and_batch_size_make_no_difference(workers: int, start: str | None) -> None:
    mixture = two()
    expected = [item + (100_000 if source == "code" else 0) for source, item in drawn(mixture)]
    loader = DataLoader(
        mixture,
        batch_size=20,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=workers > 0,
    )
    assert values(loader) == expected
    weigh(mixture, wiki=0, code=1)
    assert all(value >= 100_000 for value in values(loader))
    mixture.set_epoch(1)
    expected = [item + (100_000 if source == "code" else 0) for source, item in drawn(mixture)]
    assert values(loader) == expected


# -- live weights --------------------------------------------------------------------------------------------------


def test_a_change_of_weights_holds_from_the_next_draw_and_repeats_nothing() -> None:
    mixture = two(wiki=0.9, code=0.1)
    before = drawn(mixture, range(100))
    weigh(mixture, wiki=0.1, code=0.9)
    after = drawn(mixture, range(100, 200))
    assert Counter(s for s, _ in before)["wiki"] > 80
    assert Counter(s for s, _ in after)["code"] > 80
    assert len(set(before) | set(after)) == 200
    weigh(mixture, wiki=0, code=5)
    assert {s for s, _ in drawn(mixture)} == {"code"}


def test_a_run_continued_from_a_checkpoint_draws_what_the_first_one_drew() -> None:
    mixture = two()
    weigh(mixture, wiki=0.5, code=0.5)
    mixture.set_epoch(1)
    weigh(mixture, wiki=0.2, code=0.8)
    saved = json.loads(json.dumps(capture_dataset(mixture)))
    rest = drawn(mixture, range(80, 200))
    mixture.set_epoch(2)
    weigh(mixture, wiki=1, code=0)
    later = two()
    for target in (mixture, later):
        restore_dataset(target, saved)
        assert target.epoch == 1
        assert drawn(target, range(80, 200)) == rest
    mixture.set_epoch(2)
    later.set_epoch(2)
    assert drawn(mixture) == drawn(later)


def test_weights_of_earlier_epochs_decide_where_a_source_goes_on() -> None:
    steady, changed = two(), two()
    weigh(changed, wiki=0.5, code=0.5)
    for mixture in (steady, changed):
        mixture.set_epoch(1)
    weigh(changed, wiki=0.7, code=0.3)
    assert drawn(steady) != drawn(changed)
    assert not set(drawn(steady)) & set(drawn(two()))


def test_weights_are_normalized_and_read_back_in_the_sources_order() -> None:
    mixture = two()
    weigh(mixture, code=6, wiki=2)
    assert read_dataset(mixture).runtime == {"weights": {"wiki": 0.25, "code": 0.75}}
    assert list(mixture.weights) == ["wiki", "code"]
    assert read_dataset(mixture).initialization == {"size": 200, "seed": 0}
    assert Mixture({"a": range(30), "b": range(10)}).weights == {"a": 0.75, "b": 0.25}
    weigh(mixture, wiki=1e308, code=1e308)
    assert mixture.weights == {"wiki": 0.5, "code": 0.5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"wiki": 0.5}, "weights name every source once: wiki, code; not wiki"),
        ({"wiki": 0.5, "code": 0.3, "news": 0.2}, "weights name every source once: wiki, code; not wiki, code, news"),
        ({"wiki": -0.1, "code": 1.1}, r"weights.wiki is a finite number, 0 or more, not -0.1"),
        ({"wiki": float("nan"), "code": 1.0}, "weights.wiki is a finite number"),
        ({"wiki": 1.0, "code": float("inf")}, "weights.code is a finite number"),
        ({"wiki": True, "code": 1.0}, "weights.wiki is a finite number"),
        ({"wiki": "1", "code": 1.0}, "weights.wiki is a finite number"),
        ({"wiki": 0, "code": 0.0}, "weights are all zero"),
    ],
)
def test_weights_that_are_none_are_refused_and_the_old_ones_stay(weights: dict[str, Any], message: str) -> None:
    mixture = two()
    with pytest.raises(UserError, match=message):
        weigh(mixture, **weights)
    assert mixture.weights == {"wiki": 0.7, "code": 0.3}
    with pytest.raises(UserError, match=message):
        Mixture(mixture.sources, weights=weights)


@pytest.mark.parametrize("value", [[0.2, 0.8], 1, None, "even"])
def test_weights_of_another_kind_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="weights name every source once"):
        two().fit_weights(value)


def test_sources_that_cannot_be_drawn_from_are_refused() -> None:
    with pytest.raises(UserError, match=r"source 'stream' is iterable \(Endless\): a mixture draws items by"):
        Mixture({"rows": Rows(0, 3), "stream": Endless()})
    with pytest.raises(UserError, match="source 'none' is empty"):
        Mixture({"none": Rows(0, 0)})
    with pytest.raises(UserError, match="at least one source"):
        Mixture({})
    with pytest.raises(UserError, match="size is the number of draws"):
        Mixture({"a": Rows(0, 3)}, size=0)
    with pytest.raises(IndexError):
        two()[200]


def test_a_mixture_of_interactive_datasets_follows_both() -> None:
    def plus(item: dict[str, Any], shift: int) -> dict[str, Any]:
        return {"x": item["x"] + shift}

    inner = make_interactive_dataset(Rows(0, 5), transform=plus, runtime={"shift": 0})
    mixture = Mixture({"only": inner}, size=5)
    inner.shift = 50
    assert sorted(values(DataLoader(mixture, batch_size=5))) == [50, 51, 52, 53, 54]


# -- the loss of each source ---------------------------------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, outputs)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.linear(features)}


def batch_of(sources: Sequence[int], **tensors: torch.Tensor) -> dict[str, Any]:
    """A batch as the collator makes it."""
    mixture = Mixture({f"s{i}": [{"i": torch.tensor(0)}] for i in range(max(sources) + 1)})
    samples = []
    for source in sources:
        weigh(mixture, **{name: float(name == f"s{source}") for name in mixture.names})
        samples.append(mixture[0])
    batch: dict[str, Any] = SourceCollator(default_collate)(samples)
    del batch["i"]
    return {**tensors, **batch}


def losses_of(model: nn.Module, sources: list[int], batch: dict[str, Any], **how: Any) -> dict[str, float]:
    losses = SourceLosses([f"s{i}" for i in range(max(sources) + 1)], **how)
    given = batch_of(sources, **batch)
    losses.begin(given)
    assert set(given) == set(batch)
    losses.add(model, model(**given))
    return {name: value.item() for name, value in losses.finish().items()}


def test_losses_of_texts_are_those_of_the_model_for_each_source_alone() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel  # not above: spawned workers import this file

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    tokens = torch.randint(0, 17, (4, 9))
    labels = tokens.clone()
    labels[0, 5:] = -100
    sources = [1, 0, 1, 1]
    found = losses_of(model, sources, {"input_ids": tokens, "labels": labels})
    for name, rows in (("loss/s0", [1]), ("loss/s1", [0, 2, 3])):
        alone = model(input_ids=tokens[rows], labels=labels[rows]).loss.item()
        assert found[name] == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    ("outputs", "labels", "reference"),
    [
        (4, torch.tensor([0, 3, 2]), functional.cross_entropy),
        (1, torch.tensor([0.5, -1.0, 2.0]), lambda z, y: functional.mse_loss(z.squeeze(-1), y)),
        (2, torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), functional.binary_cross_entropy_with_logits),
    ],
)
def test_losses_of_classes_numbers_and_labels(outputs: int, labels: torch.Tensor, reference: Any) -> None:
    model, x = Classifier(outputs), torch.arange(9.0).view(3, 3) / 9
    found = losses_of(model, [0, 2, 0], {"features": x, "labels": labels})
    assert set(found) == {"loss/s0", "loss/s2"}
    for name, rows in (("loss/s0", [0, 2]), ("loss/s2", [1])):
        alone = reference(model(x, labels)["logits"][rows], labels[rows]).item()
        assert found[name] == pytest.approx(alone, rel=1e-5)


def test_a_function_of_the_users_gives_the_losses_and_micro_batches_are_taken_together() -> None:
    losses = SourceLosses(["s0", "s1"], lambda output, batch: (output["logits"].squeeze(-1) - batch["labels"]).abs())
    model = Classifier(1)
    expected = []
    for shift in (0.0, 1.0):
        tensors = {"features": torch.ones(2, 3), "labels": torch.tensor([shift, 5.0])}
        batch = batch_of([1, 1], **tensors)
        losses.begin(batch)
        losses.add(model, model(**batch))
        expected += (model(**tensors)["logits"].squeeze(-1) - tensors["labels"]).abs().tolist()
    assert {name: value.item() for name, value in losses.finish().items()} == {
        "loss/s1": pytest.approx(sum(expected) / 4)
    }
    assert losses.finish() == {}


def test_a_model_without_usable_output_is_reported_once_and_never_fatal(caplog: pytest.LogCaptureFixture) -> None:
    losses = SourceLosses(["s0"])
    for _ in range(2):
        batch = batch_of([0], features=torch.ones(1, 3))
        losses.begin(batch)
        assert set(batch) == {"features"}
        losses.add(nn.Linear(1, 1), {"loss": torch.tensor(1.0)})
    assert losses.finish() == {}
    assert [record.getMessage() for record in caplog.records] == [
        "the loss of each source is not recorded: ValueError: the model's output has no logits; give the mixture a "
        "sample_loss, a function of the model's output and the batch that returns one loss a sample"
    ]


def test_samples_keep_their_keys_and_random_states_are_left_alone() -> None:
    mixture = two()
    assert dict(mixture[0]).keys() == {"x"}
    assert isinstance(Mixture({"t": [(1, 2)]})[0], tuple)
    assert Mixture({"t": [7]})[0] == 7
    state = torch.get_rng_state()
    model, x, labels = Classifier(4), torch.ones(2, 3), torch.tensor([1, 2])
    torch.set_rng_state(state)
    losses_of(model, [0, 0], {"features": x, "labels": labels})
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_of_another_dataset_is_left_as_it_is() -> None:
    loader = DataLoader(Rows(0, 4), batch_size=2)
    collate = loader.collate_fn
    assert attach_sources(loader, loader.dataset) is None
    assert loader.collate_fn is collate


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_a_mixture_tells_where_samples_come_from(workers: int) -> None:
    mixture = two()
    loader = DataLoader(mixture, batch_size=50, num_workers=workers)
    losses = attach_sources(loader, mixture)
    assert losses is not None
    attach_sources(loader, mixture)
    told = []
    for batch in loader:
        losses.begin(batch)
        told += [
            (["wiki", "code"][source], value)
            for source, value in zip(losses.sources_of_batch(), batch["x"].tolist(), strict=True)
        ]
        assert set(batch) == {"x"}
    assert told == [(source, item + (100_000 if source == "code" else 0)) for source, item in drawn(mixture)]
