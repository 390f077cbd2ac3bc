"""Interactive datasets: a change is seen by the next sample made, in workers too, and nothing else is ever changed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from agenttune.errors import UserError
from agenttune.trainer.datasets import (
    capture_dataset,
    dataset_as_captured,
    make_interactive_dataset,
    read_dataset,
    restore_dataset,
)
from agenttune.trainer.datasets.parameters import DatasetParameters, parameters_of
from agenttune.trainer.datasets.shared import SharedValues
from agenttune.trainer.datasets.values import decode, encode, fit

pytestmark = pytest.mark.trainer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Noisy(Dataset[Any]):
    """As users of the seed system write them: a constructor's arguments, and attributes read by `__getitem__`."""

    def __init__(self, part: str = "train", limit: int | None = None, noise: float = 0.0) -> None:
        self.part = part
        self.rows = limit or 24
        self.noise = noise
        self.tag = "t"

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(2) * self.noise + torch.tensor([index, self.noise])


class Stream(IterableDataset[Any]):
    def __init__(self, rows: int = 24) -> None:
        self.rows = rows
        self.scale = 1.0

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for index in range(first, self.rows, step):
            yield torch.tensor([float(index), self.scale])


class SetsItself(Dataset[Any]):
    def __init__(self) -> None:
        self.seen = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        self.seen += 1
        return index


class Checked(Dataset[Any]):
    def __init__(self) -> None:
        self.mix = [0.9, 0.1]
        self.depth = 3

    def __len__(self) -> int:
        return 4

    def validate_mix(self, value: list[float]) -> None:
        if abs(sum(value) - 1) > 1e-6:
            raise ValueError("the parts must sum to 1")


InteractiveNoisy = make_interactive_dataset(Noisy, runtime=["noise", "tag"])
InteractiveStream = make_interactive_dataset(Stream, runtime=["scale"])


@make_interactive_dataset
class Decorated(Dataset[Any]):
    """A class under its own name."""


def times_three(example: dict[str, Any], noise: float) -> dict[str, Any]:
    return {**example, "x": example["x"] * 3 + noise}


def given(dataset: object) -> DatasetParameters:
    parameters = parameters_of(dataset)
    assert parameters is not None
    return parameters


def change(dataset: object, **values: Any) -> None:
    """As the command does it."""
    parameters = given(dataset)
    parameters.write(parameters.fit_runtime(dataset, values))


def column(loader: DataLoader[Any] | Iterator[Any]) -> list[float]:
    return [value for batch in loader for value in batch[:, 1].tolist()]


# -- nothing asked, nothing changed --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_with_no_change_samples_are_those_of_the_plain_class(workers: int) -> None:
    passes = []
    for cls in (Noisy, InteractiveNoisy):
        torch.manual_seed(5)
        loader = DataLoader(cls(noise=0.3), batch_size=5, shuffle=True, num_workers=workers)
        passes.append(torch.cat(list(loader)))
    assert torch.equal(passes[0], passes[1])


def test_the_constructor_is_the_same_and_the_object_is_one_of_the_plain_class() -> None:
    dataset = InteractiveNoisy("test", limit=7)
    assert isinstance(dataset, Noisy)
    assert (dataset.part, dataset.rows, dataset.noise, dataset.tag) == ("test", 7, 0.0, "t")
    read = read_dataset(dataset)
    assert (read.type, read.size, read.interactive) == ("Noisy", 7, True)
    assert read.initialization == {"part": "test", "limit": 7}
    assert read.runtime == {"noise": 0.0, "tag": "t"}


def test_a_plain_dataset_can_be_read_too() -> None:
    read = read_dataset(Noisy())
    assert (read.type, read.size, read.interactive, read.initialization, read.runtime) == ("Noisy", 24, False, {}, {})
    assert read_dataset(Stream()).size is None


# -- a change is seen where samples are made -----------------------------------------------------------------------


def test_a_change_is_seen_by_the_next_sample() -> None:
    dataset = InteractiveNoisy()
    loader = iter(DataLoader(dataset, batch_size=4))
    assert column([next(loader)]) == [0.0] * 4  # type: ignore[arg-type]
    change(dataset, tag="new", noise=2)
    assert dataset.tag == "new"
    later = torch.cat(list(loader))
    assert bool((later[:, 1] >= 2.0).all())


@pytest.mark.quick("fork-*")
@pytest.mark.parametrize(("start", "persistent"), [("fork", False), ("fork", True), ("spawn", True)])
def test_a_change_reaches_running_workers(start: str, persistent: bool) -> None:
    dataset = InteractiveStream()
    workers = 1 if start == "spawn" else 2  # each that is spawned imports torch
    loader = DataLoader(
        dataset, batch_size=2, num_workers=workers, multiprocessing_context=start, persistent_workers=persistent
    )
    under_way = iter(loader)
    first = next(under_way)
    assert first[:, 1].tolist() == [1.0, 1.0]
    change(dataset, scale=2)
    scales = column(under_way)
    # What was fetched ahead (two batches a worker) is old; the very workers that made it make new ones after that.
    assert scales[-4:] == [2.0] * 4
    assert set(scales) <= {1.0, 2.0}
    change(dataset, scale=0.5)
    assert column(loader) == [0.5] * 24


def test_a_worker_cannot_set_a_runtime_parameter_for_itself() -> None:
    dataset = make_interactive_dataset(SetsItself, runtime=["seen"])()
    assert dataset[0] == 0
    assert dataset.seen == 1
    with pytest.raises(UserError, match="cannot be set inside a data-loader worker"):
        list(DataLoader(dataset, num_workers=1, multiprocessing_context="fork"))
    assert dataset.seen == 1


# -- old scripts ---------------------------------------------------------------------------------------------------


def test_names_can_be_given_to_the_constructor_as_in_the_seed_system() -> None:
    made = make_interactive_dataset(Noisy)
    dataset = made(part="x", noise=0.5, interactive_parameter_names=["noise"])
    assert read_dataset(dataset).runtime == {"noise": 0.5}
    assert read_dataset(dataset).initialization == {"part": "x", "limit": None}
    change(dataset, noise=0.25)
    again = pickle.loads(pickle.dumps(dataset))
    assert (again.noise, again.part, len(again)) == (0.25, "x", 24)


def test_a_class_can_be_decorated_and_a_subclass_may_set_parameters_after_its_base() -> None:
    class Child(InteractiveNoisy):  # type: ignore[misc, valid-type]
        def __init__(self, factor: float) -> None:
            super().__init__(part="child")
            self.noise = factor

    dataset = Child(2.0)
    assert dataset.noise == 2.0
    assert read_dataset(dataset).initialization == {"factor": 2.0}
    assert type(pickle.loads(pickle.dumps(Decorated()))) is Decorated


# -- datasets.Dataset ----------------------------------------------------------------------------------------------


def hub_rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"x": [1.0, 2.0, 3.0, 4.0], "labels": [0, 1, 0, 1], "text": list("abcd")})


def test_a_hub_dataset_gets_a_transform_with_runtime_parameters() -> None:
    rows = hub_rows()
    dataset = make_interactive_dataset(rows, transform=times_three, runtime={"noise": 0.0})
    assert dataset[1] == {"x": 6.0, "labels": 1, "text": "b"}
    assert (len(dataset), dataset.column_names, dataset.features) == (4, ["x", "labels", "text"], rows.features)
    change(dataset, noise=0.5)
    assert [item["x"] for item in dataset[1:3]] == [6.5, 9.5]
    assert dataset["labels"][:2] == [0, 1]
    dataset.noise = 1.0
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert [batch["x"].tolist() for batch in loader] == [[4.0, 7.0], [10.0, 13.0]]
    assert read_dataset(dataset).type == "Dataset"


def test_a_hub_dataset_reaches_spawned_workers_and_an_iterable_one_streams() -> None:
    dataset = make_interactive_dataset(hub_rows(), transform=times_three, runtime={"noise": 0.0})
    change(dataset, noise=2.0)
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied[0]["x"] == 5.0
    stream = make_interactive_dataset(hub_rows().to_iterable_dataset(), transform=times_three, runtime={"noise": 0.0})
    assert isinstance(stream, IterableDataset)
    under_way = iter(stream)
    assert next(under_way)["x"] == 3.0
    change(stream, noise=1.0)
    assert [item["x"] for item in under_way] == [7.0, 10.0, 13.0]
    assert sorted(x for batch in DataLoader(stream, batch_size=2) for x in batch["x"].tolist()) == [
        4.0,
        7.0,
        10.0,
        13.0,
    ]


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "asked", "expected"),
    [
        (0.5, 2, 2.0),
        (0.5, 0.25, 0.25),
        (3, 4, 4),
        (True, False, False),
        ("a", "b", "b"),
        ([0.9, 0.1], [1, 0], [1.0, 0.0]),
        ((1, 2), [3, 4], (3, 4)),
        ([1.0, 0], [0.5, 0.5], [0.5, 0.5]),
        ((0, 1.0), [1, 0], (1.0, 0.0)),
        ([[1.0, 0], [0, 1]], [[0.5, 0.5], [0.25, 1]], [[0.5, 0.5], [0.25, 1.0]]),
        ([1, 0], [2, 3], [2, 3]),
        ({"a": 0.5}, {"a": 1}, {"a": 1.0}),
        (None, 3, 3),
        (None, None, None),
    ],
)
def test_a_value_takes_the_type_of_the_current_one(current: Any, asked: Any, expected: Any) -> None:
    found = fit("p", asked, current)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("current", "asked"),
    [
        (0.5, "1"),
        (0.5, True),
        (0.5, None),
        (0.5, float("nan")),
        (3, 4.0),
        (3, True),
        (True, 1),
        ("t", 5),
        ([0.9, 0.1], 0.5),
        ([0.9, 0.1], [1.0]),
        ([0.9, 0.1], [[1], [0]]),
        ((1, 2), [1.5, 2]),
        ([1.0, 0], [True, 0.5]),
        ([1.0, "a"], ["a", 1.0]),
        ({"a": 0.5}, {"b": 0.5}),
        ({"a": 0.5}, [0.5]),
    ],
)
def test_another_type_is_refused_and_the_message_says_what_is_taken(current: Any, asked: Any) -> None:
    with pytest.raises(UserError, match=r"^p\S* takes .*now .*, not ") as refused:
        fit("p", asked, current)
    assert refused.value.field is not None
    assert refused.value.allowed


def test_none_is_taken_where_it_was_declared_or_the_parameter_began_as_none() -> None:
    declared = make_interactive_dataset(Noisy, runtime=["noise"], optional=["noise"])()
    change(declared, noise=None)
    change(declared, noise=0.5)
    began = make_interactive_dataset(Noisy, runtime={"cap": None})()
    change(began, cap=4)
    change(began, cap=None)
    assert (declared.noise, began.cap) == (0.5, None)


def test_one_bad_name_or_value_changes_nothing() -> None:
    dataset = InteractiveNoisy(noise=0.5)
    with pytest.raises(UserError, match=r"'nose' is no runtime parameter .* it has: noise, tag$"):
        change(dataset, noise=1.0, nose=2.0)
    with pytest.raises(UserError, match="tag takes a text"):
        change(dataset, noise=1.0, tag=5)
    with pytest.raises(UserError, match="'part' is changed by update_dataset"):
        change(dataset, noise=1.0, part="test")
    assert given(dataset).reread() == {"noise": 0.5, "tag": "t"}


def test_a_check_of_the_users_refuses_with_its_reason() -> None:
    made = make_interactive_dataset(
        Checked, runtime=["mix", "depth"], checks={"depth": lambda depth: "too deep" if depth > 9 else True}
    )
    dataset = made()
    with pytest.raises(UserError, match=r"mix \[0.5, 0.1\] is refused by the dataset: the parts must sum to 1"):
        change(dataset, mix=[0.5, 0.1])
    with pytest.raises(UserError, match="too deep"):
        change(dataset, depth=10)
    change(dataset, mix=[0.5, 0.25, 0.25], depth=9)
    assert (dataset.mix, dataset.depth) == ([0.5, 0.25, 0.25], 9)


def test_a_value_too_large_for_the_shared_block_is_refused() -> None:
    dataset = InteractiveNoisy()
    with pytest.raises(UserError, match=r"would take 1\d+ bytes; there is room for 32768"):
        change(dataset, tag="x" * 100_000)
    assert dataset.tag == "t"
    change(dataset, tag="x" * 30_000)
    assert len(given(dataset).reread()["tag"]) == 30_000


def test_a_change_cut_off_half_way_leaves_the_old_values() -> None:
    """Killed before the version is written, with half a payload in the idle half of the block."""
    values = SharedValues({"a": 1})
    values.write({"a": 2})
    idle = values._halves[(values._head[0] + 1) % 2]
    idle[:20] = bytes(range(20))
    assert values.reread() == {"a": 2}
    values.write({"a": 3})
    assert values.reread() == {"a": 3}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (make_interactive_dataset(Noisy, runtime=["nose"]), "has no attribute 'nose' after its constructor"),
        (make_interactive_dataset(Noisy, runtime={"x": object()}), "is a object; it can be a number"),
        (lambda: make_interactive_dataset(Noisy, runtime=["a b"]), "given by name"),
        (lambda: make_interactive_dataset(Noisy, runtime=["noise"], checks={"nose": bool}), "not among the runtime"),
        (lambda: make_interactive_dataset(Noisy, runtime=["noise"], transform=times_three), "transform belongs to"),
        (lambda: make_interactive_dataset(Noisy(), runtime={"noise": 0.1}), "give transform="),
        (lambda: make_interactive_dataset(Noisy(), runtime=["noise"], transform=times_three), "has no attribute"),
        (lambda: make_interactive_dataset(InteractiveNoisy(), transform=times_three), "interactive already"),
        (lambda: make_interactive_dataset(5, transform=times_three), "a dataset or a dataset class is expected"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused_at_once(how: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        how()


# -- copies and checkpoints ----------------------------------------------------------------------------------------


def test_a_copy_is_independent() -> None:
    dataset = InteractiveNoisy(limit=6, noise=0.5)
    for copied in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert isinstance(copied, Noisy)
        assert (copied.noise, len(copied)) == (0.5, 6)
        change(dataset, noise=0.75)
        assert copied.noise == 0.5
        change(dataset, noise=0.5)
    assert type(copy.deepcopy(dataset)) is type(dataset)


def test_what_is_captured_goes_through_json_and_comes_back_exactly() -> None:
    values = {"a": (1, [2.5, None]), "b": {"x": {1: "y"}}, "c": float("inf"), "d": True, "e": "é"}
    dataset = make_interactive_dataset(Noisy, runtime={**values, "noise": 0.0})()
    captured = json.loads(json.dumps(capture_dataset(dataset), allow_nan=False))
    dataset.a, dataset.c, dataset.noise = (2, [1.0, 3]), 0.0, 7.0
    restore_dataset(dataset, captured)
    assert given(dataset).reread() == {**values, "noise": 0.0}
    assert type(dataset.a) is tuple
    assert decode(encode({"__agenttune__": [1]})) == {"__agenttune__": [1]}


def test_a_checkpoint_of_another_dataset_is_refused_and_one_from_before_a_reload_builds_the_old_dataset() -> None:
    dataset = InteractiveNoisy(limit=6, noise=0.5)
    captured = capture_dataset(dataset)
    longer = InteractiveNoisy(limit=9, noise=0.1)
    with pytest.raises(UserError, match="other arguments than the one of the checkpoint: limit"):
        restore_dataset(longer, captured)
    assert longer.noise == 0.1
    old = dataset_as_captured(longer, captured)
    assert isinstance(old, Noisy)
    assert (len(old), old.noise, len(longer), longer.noise) == (6, 0.5, 9, 0.1)
    assert dataset_as_captured(dataset, captured) is dataset
    with pytest.raises(UserError, match="other runtime parameters: noise, tag; this one has: scale"):
        restore_dataset(InteractiveStream(), captured)
    restore_dataset(Noisy(), capture_dataset(Noisy()))
