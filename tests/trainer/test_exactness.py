"""What a user's own parts draw at random, count and average goes back with a return, or the ack says what does not."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import Trainer

from agenttune.errors import UserError
from agenttune.trainer.checkpoints import generators
from agenttune.trainer.knobs import KnobRegistry
from tests.trainer.conftest import At, Bench, Points, Result, TinyModel
from tests.trainer.test_branches import Once, losses

pytestmark = pytest.mark.trainer

HOW: dict[str, Any] = {"max_steps": 18, "data_seed": 3}
DRAWS: dict[str, Callable[[Any], float]] = {
    "torch": lambda g: float(torch.rand((), generator=g)),
    "numpy": lambda g: float(g.random()),
    "old numpy": lambda g: float(g.random_sample()),
    "python": lambda g: float(g.random()),
    "of the process": lambda g: float(torch.rand(())) + random.random() + float(np.random.random()),
}


def made(kind: str) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.Generator().manual_seed(5),
        "numpy": lambda: np.random.default_rng(5),
        "old numpy": lambda: np.random.RandomState(5),
        "python": lambda: random.Random(5),
        "of the process": lambda: None,
    }
    return makers[kind]()


class Augmented(Points):
    """Items with noise, from a generator of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__(24)
        self.transform = {"noise": [made(kind)]}
        self.kind = kind

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = DRAWS[self.kind](self.transform["noise"][0])
        return {**super().__getitem__(index), "x": self.x[index] + noise}


class Masking:
    """A collator that draws, as those for masked language models do."""

    def __init__(self, kind: str) -> None:
        self.rng, self.kind = made(kind), kind

    def __call__(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return {**batch, "x": batch["x"] * DRAWS[self.kind](self.rng)}


class Shuffled(Sampler[int]):
    """An order of its own."""

    def __init__(self, size: int, kind: str) -> None:
        self.size, self.kind, self.rng = size, kind, made(kind)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        keys = [DRAWS[self.kind](self.rng) for _ in range(self.size)]
        return iter(sorted(range(self.size), key=keys.__getitem__))


class Noisy(TinyModel):
    """Noise from a generator of a layer, and a running mean that is no part of what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = torch.Generator().manual_seed(3)
        self.running: torch.Tensor
        self.register_buffer("running", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training:
            self.running.mul_(0.9).add_(x.detach().mean(dim=0), alpha=0.1)
            x = x - self.running + 0.1 * torch.randn(x.shape, generator=self.rng).to(x.device)
        return super().forward(x, labels)


def returning(bench: Bench, keep_in: str, save_at: int, **parts: Any) -> Result:
    orders = [
        At(save_at, {"kind": "save_checkpoint", "tag": "mark", "keep_in": keep_in}),
        At(11, {"kind": "load_checkpoint", "checkpoint_id": "mark"}),
    ]
    sampler = parts.pop("sampler", None)

    class Sampling(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return sampler if sampler is not None else super()._get_train_sampler(*args, **kwargs)

    dataset, collator = parts.pop("dataset", Points(24)), parts.pop("collator", None)
    callbacks = [Once(bench.runs_dir, orders)]
    result = bench.trainer(callbacks=callbacks, base=Sampling, **{**HOW, **parts})
    result.trainer.train_dataset = dataset
    result.trainer.data_collator = collator or result.trainer.data_collator
    return result


def assert_exact(result: Result, save_at: int) -> None:
    result.trainer.train()
    found = losses(result)
    ack = result.acks()[-1]
    assert ack.outcome == "applied"
    again = {step: found["branch-1"][step] for step in range(save_at + 1, 12)}
    assert again == {step: found["main"][step] for step in range(save_at + 1, 12)}, ack.message
    assert "does not tell" not in ack.message


@pytest.mark.quick(
    "dataset-torch", "dataset-numpy", "dataset-of the process", "collator-of the process", "sampler-torch"
)
@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *(("dataset", kind) for kind in DRAWS),
        *(("collator", kind) for kind in ("numpy", "of the process")),
        *(("sampler", kind) for kind in ("numpy", "torch", "of the process")),
    ],
)
def test_what_the_data_draws_is_drawn_again_alike(bench: Bench, part: str, kind: str) -> None:
    """In the midst of an epoch of six batches, from disk and, for one kind, at its edges and from memory."""
    parts: dict[str, Callable[[str], Any]] = {
        "dataset": Augmented,
        "collator": Masking,
        "sampler": lambda kind: Shuffled(24, kind),
    }
    places = [("disk", 9)] if kind != "numpy" else [("disk", 7), ("memory", 6), ("memory", 5), ("disk", 1)]
    for i, (keep_in, save_at) in enumerate(places):
        given = {part: parts[part](kind)}
        assert_exact(returning(Bench(bench.path / str(i)), keep_in, save_at, **given), save_at)


@pytest.mark.parametrize("keep_in", ["disk", "memory"])
def test_a_models_own_generators_and_unsaved_buffers_go_back(bench: Bench, keep_in: str) -> None:
    assert_exact(returning(bench, keep_in, 8, model=Noisy()), 8)


def test_accumulation_and_all_of_them_together(bench: Bench) -> None:
    parts = {"dataset": Augmented("numpy"), "collator": Masking("of the process"), "sampler": Shuffled(24, "python")}
    assert_exact(returning(bench, "disk", 7, model=Noisy(), gradient_accumulation_steps=2, **parts), 7)


def test_what_a_checkpoint_does_not_tell_is_in_the_ack(bench: Bench) -> None:
    """That of a plain Trainer, which knows nothing of the generators."""
    parts: dict[str, Any] = {"dataset": Augmented("python"), "sampler": Shuffled(24, "numpy"), "model": Noisy()}
    first = returning(bench, "disk", 8, **parts, save_strategy="steps", save_steps=9)
    first.trainer.train()
    folder = bench.path / "out" / "checkpoint-9"
    for name in ("agenttune.json", "agenttune_extra.pt"):
        (folder / name).unlink()
    orders = [At(11, {"kind": "load_checkpoint", "checkpoint_id": "checkpoint-9"})]
    second = returning(bench, "disk", 17, **parts)
    second.trainer.add_callback(Once(bench.runs_dir, orders))
    second.trainer.train()
    message = next(ack.message for ack in second.acks() if ack.step == 9)
    assert "dataset.transform.noise.0" in message
    assert "sampler.rng" in message
    assert "buffer running, generator rng" in message


class Averaged:
    """An average of the weights that the user keeps, as for evaluation."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.mean = model, torch.zeros(8)

    def update(self) -> None:
        self.mean = 0.9 * self.mean + 0.1 * self.model.get_parameter("first.bias").detach().cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean = state_dict["mean"]


@pytest.mark.parametrize("keep_in", ["disk", "memory"])
def test_what_the_user_registers_goes_back(bench: Bench, keep_in: str) -> None:
    model = TinyModel()
    averaged, seen = Averaged(model), dict[tuple[str, int], torch.Tensor]()
    result = returning(bench, keep_in, 8, model=model)
    result.trainer.register_state("average", averaged)

    class Watching(Once):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            averaged.update()
            seen[result.trainer.interactive.session.branch, state.global_step] = averaged.mean.clone()

    result.trainer.callback_handler.callbacks.insert(0, Watching(bench.runs_dir, []))
    assert_exact(result, 8)
    assert all(torch.equal(seen["branch-1", step], seen["main", step]) for step in (9, 10, 11))


def test_a_state_that_cannot_be_held_is_refused() -> None:
    registry = KnobRegistry()
    with pytest.raises(UserError, match=r"a list without state_dict and load_state_dict\(\)"):
        registry.hold("mean", [])  # type: ignore[arg-type]
    first = Averaged(TinyModel())
    registry.hold("mean", first)
    registry.hold("mean", first)
    with pytest.raises(UserError, match="another state is registered as 'mean'"):
        registry.hold("mean", Averaged(TinyModel()))


def test_generators_are_found_where_users_put_them_and_data_is_not_searched() -> None:
    inner = Augmented("torch")
    rows = [random.Random(1)] * 100_000
    found = generators.find({"dataset": {"wrapped": inner, "rows": rows, "rng": made("numpy"), "seed": 3}})
    assert set(found) == {"dataset.wrapped.transform.noise.0", "dataset.rng"}


def test_generators_that_a_function_carries_with_it_are_found() -> None:
    dice, urn, deck = made("python"), made("torch"), made("old numpy")

    def collate(items: list[float]) -> float:
        return sum(items) * float(dice.random())

    masking = Masking("numpy")
    carried = {"closure": collate, "partial": functools.partial(max, urn, key=deck), "method": masking.__call__}
    found = generators.find(carried)
    assert set(found) == {"closure.dice", "partial.args.0", "partial.keywords.key", "method.self.rng"}
