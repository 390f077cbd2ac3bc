"""The two dataset commands, at the handlers and under a real Trainer: what the run draws, not what the ack says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import datasets
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers import Trainer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.events import DatasetRead
from agenttune.protocol.proposals import CommandRecord, Proposal, State
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.commands.apply import apply_command
from agenttune.trainer.commands.outcomes import Done
from agenttune.trainer.datasets import Mixture, attach_sources, make_interactive_dataset
from agenttune.trainer.knobs import KnobRegistry
from agenttune.trainer.run_state import RunState
from tests.trainer.conftest import AUTHOR, At, Bench, Points, Result, Submitter

pytestmark = pytest.mark.trainer

RUNTIME, RELOAD = "update_dataset_runtime_hyperparameters", "update_dataset"


class Marked(Dataset[Any]):
    """Points whose first number tells the `mark`, the length and the index; every sample made is `seen`."""

    def __init__(self, rows: int = 16, mark: float = 1.0, fails: bool = False) -> None:
        self.points = Points(rows)
        self.rows = rows
        self.mark = mark
        self.noise = torch.rand(1).item()
        if fails:
            raise OSError("no such part: nowhere")

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = self.points[index]
        told = torch.tensor([self.mark, float(self.rows)])
        return {"x": torch.cat([told, item["x"][2:]]), "labels": item["labels"]}


class Reloads(Marked):
    """With a method of its own, that can stop half way."""

    def reload_dataset(self, rows: int, mark: float, fails: bool) -> None:
        self.rows = rows
        self.points = Points(rows)
        if fails:
            raise OSError("stopped half way")
        self.how = "reloaded"


MarkedLive = make_interactive_dataset(Marked, runtime=["mark"])
ReloadsLive = make_interactive_dataset(Reloads, runtime=["mark"])


@dataclass
class FakeAdapter:
    """A loop that does what it is told and remembers it."""

    dataset: Any
    refuses: str = ""
    done: list[str] = field(default_factory=list)
    capabilities: tuple[str, ...] = (RUNTIME, RELOAD)

    def refusal(self, kind: str) -> str:
        return "not here"

    def train_dataset(self) -> Any:
        return self.dataset

    def redraw(self) -> str:
        if self.refuses:
            raise UserError(self.refuses)
        self.done.append("redraw")
        return "drawn anew"

    def replacement(self, dataset: Any) -> Callable[[], str]:
        if self.refuses:
            raise UserError(self.refuses)

        def change_over() -> str:
            self.dataset = dataset
            self.done.append("replace")
            return "replaced"

        return change_over


def run_state(adapter: FakeAdapter) -> RunState:
    return RunState(cast(Adapter, adapter), KnobRegistry())


def apply(adapter: FakeAdapter, kind: str, **values: Any) -> Done:
    proposal = Proposal.model_validate({"command": {"kind": kind, "values": values}, "author": AUTHOR})
    outcome = apply_command(run_state(adapter), CommandRecord(proposal=proposal, state=State.QUEUED, submitted_seq=1))
    assert isinstance(outcome, Done)
    return outcome


# -- the handlers --------------------------------------------------------------------------------------------------


def test_a_runtime_change_is_read_back_redrawn_and_recorded() -> None:
    adapter = FakeAdapter(MarkedLive(mark=0.5))
    done = apply(adapter, RUNTIME, mark=2)
    (change,) = done.changes
    assert (change.name, change.previous, change.requested, change.effective) == ("mark", 0.5, 2, 2.0)
    assert (done.message, adapter.done) == ("drawn anew", ["redraw"])
    (event,) = done.events
    assert isinstance(event, DatasetRead)
    assert (event.runtime, event.initialization, event.size) == ({"mark": 2.0}, {"rows": 16, "fails": False}, 16)
    (expectation,) = done.expectations
    assert expectation.expected == expectation.read() == [2.0]
    adapter.dataset.mark = 3.0
    assert expectation.read() == [3.0]
    adapter.dataset = Points(4)
    assert expectation.read() is None


def test_weights_of_a_mixture_are_a_runtime_parameter() -> None:
    adapter = FakeAdapter(Mixture({"wiki": Points(8), "code": Points(8)}))
    done = apply(adapter, RUNTIME, weights={"wiki": 1, "code": 3})
    assert done.changes[0].effective == {"wiki": 0.25, "code": 0.75}
    assert done.changes[0].previous == {"wiki": 0.5, "code": 0.5}
    assert done.expectations[0].read() == [{"wiki": 0.25, "code": 0.75}]


def test_a_loop_that_cannot_draw_anew_leaves_the_old_value() -> None:
    adapter = FakeAdapter(MarkedLive(mark=0.5), refuses="cannot go back")
    with pytest.raises(UserError, match="cannot go back"):
        apply(adapter, RUNTIME, mark=2)
    assert adapter.dataset.mark == 0.5
    old = adapter.dataset
    with pytest.raises(UserError, match="cannot go back"):
        apply(adapter, RELOAD, rows=8)
    assert adapter.dataset is old


def test_a_reload_builds_a_new_dataset_and_keeps_runtime_values() -> None:
    old = MarkedLive(rows=16)
    adapter = FakeAdapter(old)
    apply(adapter, RUNTIME, mark=7)
    state = torch.get_rng_state()
    done = apply(adapter, RELOAD, rows=8)
    assert torch.equal(torch.get_rng_state(), state), "the constructor's draws must not move the run's random state"
    assert adapter.dataset is not old
    assert (len(adapter.dataset), adapter.dataset.mark, len(old), old.mark) == (8, 7.0, 16, 7.0)
    (change,) = done.changes
    assert (change.name, change.previous, change.effective, done.message) == ("rows", 16, 8, "replaced")
    assert isinstance(done.events[0], DatasetRead)
    assert (done.events[0].size, done.events[0].runtime) == (8, {"mark": 7.0})
    apply(adapter, RUNTIME, mark=9)
    assert (adapter.dataset.mark, old.mark) == (9.0, 7.0)


@pytest.mark.parametrize("made", [MarkedLive, ReloadsLive])
def test_a_reload_that_raises_leaves_the_old_dataset_whole(made: Any) -> None:
    old = made(rows=16)
    adapter = FakeAdapter(old)
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=r"the old one stays in use: OSError: (no such part|stopped half way)"):
        apply(adapter, RELOAD, rows=8, fails=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert adapter.dataset is old
    assert (len(old), len(old.points), adapter.done) == (16, 16, [])
    assert apply(adapter, RELOAD, rows=12).changes[0].previous == 16


def test_the_classs_own_reload_works_on_a_copy_and_the_constructor_stands_in_where_there_can_be_none() -> None:
    old = ReloadsLive(rows=16)
    adapter = FakeAdapter(old)
    apply(adapter, RELOAD, rows=8)
    assert (adapter.dataset.how, len(adapter.dataset), len(old)) == ("reloaded", 8, 16)
    adapter.dataset.generator = (i for i in range(3))
    done = apply(adapter, RELOAD, rows=4)
    assert not hasattr(adapter.dataset, "how")
    assert len(adapter.dataset) == 4
    assert "built by the constructor, not by reload_dataset: it cannot be copied" in done.message


def test_a_runtime_value_that_no_longer_fits_gives_way_and_the_ack_says_so() -> None:
    class Sources(Dataset[Any]):
        def __init__(self, names: list[str]) -> None:
            self.parts = [1.0] + [0.0] * (len(names) - 1)

    adapter = FakeAdapter(make_interactive_dataset(Sources, runtime=["parts"])(names=["a"]))
    done = apply(adapter, RELOAD, names=["a", "b"])
    assert adapter.dataset.parts == [1.0, 0.0]
    assert "runtime parameter parts is now [1.0, 0.0], the old value does not fit" in done.message


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RUNTIME, {"mark": 3.0, "marc": 1}, "'marc' is no runtime parameter of this dataset; it has: mark$"),
        (RUNTIME, {"rows": 8}, "it has: mark; 'rows' is changed by update_dataset$"),
        (RUNTIME, {"mark": "big"}, r"mark takes a number \(now 1.0\), not 'big'"),
        (RELOAD, {"rows": 8, "rose": 1}, "'rose' is no initialization parameter of this dataset; it has: rows, fails$"),
        (RELOAD, {"mark": 2.0}, "'mark' is changed by update_dataset_runtime_hyperparameters$"),
        (RELOAD, {"rows": "8"}, r"rows takes an integer \(now 16\), not '8'"),
        (RELOAD, {"rows": None}, "rows takes an integer"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_has_changed(kind: str, values: dict[str, Any], message: str) -> None:
    old = MarkedLive()
    adapter = FakeAdapter(old)
    with pytest.raises(UserError, match=message) as refused:
        apply(adapter, kind, **values)
    assert refused.value.field is not None
    assert refused.value.allowed is not None
    assert (adapter.dataset is old, old.mark, len(old), adapter.done) == (True, 1.0, 16, [])


@pytest.mark.parametrize("kind", [RUNTIME, RELOAD])
def test_a_plain_dataset_or_loop_is_told_how_to_become_interactive(kind: str) -> None:
    with pytest.raises(UserError, match=r"the training dataset is a Points, without .*make_interactive_dataset"):
        apply(FakeAdapter(Points(4)), kind, rows=8)
    with pytest.raises(UserError, match="no training dataset known"):
        apply(FakeAdapter(None), kind, rows=8)
    with pytest.raises(NotSupported, match="not here"):
        apply(FakeAdapter(MarkedLive(), capabilities=()), kind, rows=8)


# -- under a real Trainer ------------------------------------------------------------------------------------------


class Watching(Trainer):  # type: ignore[misc]
    """Notes what each step is trained on."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("fed", []).append({name: value.clone() for name, value in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)


def train(bench: Bench, dataset: Any, orders: list[At], base: type[Any] = Watching, **how: Any) -> Result:
    result = bench.trainer(orders, base=base, **how)
    result.trainer.train_dataset = dataset
    result.trainer.train()
    result.losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
    return result


def marks(result: Result) -> list[float]:
    """The mark that each step was trained on; a step has no two."""
    found = [batch["x"][:, 0].unique().tolist() for batch in result.trainer.fed]
    assert all(len(values) == 1 for values in found)
    return [values[0] for values in found]


def command(kind: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "values": values}


class MarkedStream(IterableDataset[Any]):
    """The same samples in their order, shared out among workers."""

    def __init__(self, rows: int = 64) -> None:
        self.rows, self.mark = Marked(rows), 1.0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for index in range(first, len(self.rows), step):
            item = self.rows[index]
            yield {**item, "x": torch.cat([torch.tensor([self.mark]), item["x"][1:]])}


StreamLive = make_interactive_dataset(MarkedStream, runtime=["mark"])


@pytest.mark.parametrize(
    ("made", "workers", "persistent"),
    [
        (MarkedLive, 0, False),
        (MarkedLive, 2, False),
        (MarkedLive, 2, True),
        (StreamLive, 0, False),
        (StreamLive, 2, True),
    ],
)
def test_a_runtime_change_is_in_the_very_next_batch(bench: Bench, made: Any, workers: int, persistent: bool) -> None:
    orders = [At(5, command(RUNTIME, mark=3.0))]
    how: dict[str, Any] = {"dataloader_num_workers": workers, "dataloader_persistent_workers": persistent}
    untouched = train(bench, made(rows=64), [], form="plain", **how)
    result = train(bench, made(rows=64), orders, **how)
    assert result.ack.outcome == "applied"
    labels, expected = ([batch["labels"].tolist() for batch in r.trainer.fed] for r in (result, untouched))
    assert labels == expected, "only the mark changes, not which samples are drawn"
    assert marks(result) == [1.0] * 5 + [3.0] * 7
    (read_back,) = result.bodies("read_back")
    assert (read_back.held, read_back.found) == (True, {"dataset.mark": [3.0]})


def test_an_interactive_dataset_that_is_never_changed_trains_as_the_plain_one(bench: Bench) -> None:
    plain = train(bench, Marked(rows=64), [], form="plain")
    live = train(bench, MarkedLive(rows=64), [])
    assert plain.losses == live.losses
    assert len(plain.losses) == 12


def test_a_reload_keeps_steps_and_optimizer_and_a_failing_one_keeps_everything(bench: Bench) -> None:
    orders = [
        At(3, command(RELOAD, fails=True), "fails"),
        At(5, command(RELOAD, rows=8), "works"),
        At(7, command(RUNTIME, mark=4.0), "later"),
    ]
    result = train(bench, MarkedLive(rows=64), orders)
    failed, worked, later = result.acks()
    assert (failed.outcome, worked.outcome, later.outcome) == ("failed", "applied", "applied")
    assert "OSError: no such part: nowhere" in failed.message
    sizes = [batch["x"][0, 1].item() for batch in result.trainer.fed]
    assert sizes == [64.0] * 5 + [8.0] * 7
    assert marks(result) == [1.0] * 7 + [4.0] * 5
    assert result.trainer.state.global_step == 12
    moments = list(result.trainer.optimizer.state.values())
    assert {int(moment["step"]) for moment in moments} == {12}


def shifted(example: dict[str, Any], shift: float) -> dict[str, Any]:
    return {"x": torch.tensor(example["x"]) + shift, "labels": float(len(example["text"]))}


def test_a_hub_dataset_trains_with_its_unknown_columns_removed_after_the_transform(bench: Bench) -> None:
    rows = datasets.Dataset.from_dict({"x": [[0.0] * 4] * 64, "text": ["abc"] * 64})
    dataset = make_interactive_dataset(rows, transform=shifted, runtime={"shift": 1.0})
    result = train(bench, dataset, [At(5, command(RUNTIME, shift=3.0))])
    assert marks(result) == [1.0] * 5 + [3.0] * 7
    assert all(set(batch) == {"x", "labels"} for batch in result.trainer.fed)
    assert result.trainer.fed[0]["labels"].tolist() == [3.0] * 4


class Once(Submitter):
    """Each order is given the first time only that its step ends."""

    def submit(self, step: int) -> None:
        super().submit(step)
        self.orders = [order for order in self.orders if order.step != step]


class PerSource(Watching):
    """What `make_interactive` does for a mixture."""

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        self.losses = attach_sources(loader, self.train_dataset)
        self.by_step: list[dict[str, float]] = []
        return loader

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.losses is not None:
            self.losses.begin(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.losses is not None:
            found = {name: value.item() for name, value in self.losses.finish().items()}
            self.by_step.append({**found, "all": loss.item()})
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        if self.losses is None or not self.losses.is_waiting:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
        self.losses.add(model, outputs)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loss_of_each_source_is_the_models_own_and_costs_the_run_nothing(bench: Bench, workers: int) -> None:
    def mixture() -> Mixture:
        return Mixture({"low": Marked(rows=16), "high": Marked(rows=32, mark=5.0)}, weights={"low": 1, "high": 3})

    plain = train(bench, mixture(), [], form="plain", dataloader_num_workers=workers)
    result = train(bench, mixture(), [], base=PerSource, form="plain", dataloader_num_workers=workers)
    assert result.losses == plain.losses
    for fed, step in zip(result.trainer.fed, result.trainer.by_step, strict=True):
        assert set(fed) == {"x", "labels"}
        low = int((fed["x"][:, 0] == 1.0).sum())
        expected = ([step["loss/low"]] * low if low else []) + ([step["loss/high"]] * (4 - low) if low < 4 else [])
        assert sum(expected) / 4 == pytest.approx(step["all"], rel=1e-4)
    assert {name for step in result.trainer.by_step for name in step} == {"loss/low", "loss/high", "all"}


def test_weights_change_under_a_real_trainer(bench: Bench) -> None:
    dataset = Mixture({"low": Marked(rows=64), "high": Marked(rows=64, mark=5.0)}, weights={"low": 1, "high": 0})
    orders = [At(5, command(RUNTIME, weights={"low": 0, "high": 1}))]
    result = train(bench, dataset, orders, dataloader_num_workers=2)
    assert marks(result) == [1.0] * 5 + [5.0] * 7
    assert result.bodies("dataset_read")[-1].runtime == {"weights": {"low": 0.0, "high": 1.0}}


def test_a_jump_back_puts_weights_epoch_and_an_earlier_dataset_back(bench: Bench) -> None:
    """Both passes over the steps after the checkpoint draw the same, whatever was changed in between."""
    dataset = Mixture({"low": Marked(rows=20), "high": Marked(rows=20, mark=5.0)}, weights={"low": 1, "high": 1})
    orders = [
        At(4, command(RUNTIME, weights={"low": 1, "high": 3})),
        At(13, {"kind": "save_checkpoint", "tag": "mark"}),
        At(15, command(RUNTIME, weights={"low": 0, "high": 1})),
        At(17, command(RELOAD, size=16)),
        At(21, {"kind": "load_checkpoint", "checkpoint_id": "mark"}),
    ]
    result = train(bench, dataset, [], callbacks=[Once(bench.runs_dir, orders)], max_steps=24, data_seed=3)
    steady = train(
        Bench(bench.path / "steady"),
        Mixture({"low": Marked(rows=20), "high": Marked(rows=20, mark=5.0)}, weights={"low": 1, "high": 1}),
        orders[:1],
        max_steps=24,
        data_seed=3,
    )
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 5
    fed = [batch["x"].tolist() for batch in result.trainer.fed]
    expected = [batch["x"].tolist() for batch in steady.trainer.fed]
    assert len(fed) == 21 + 11
    assert fed[:15] == expected[:15]
    assert fed[15:21] != expected[15:21]
    assert fed[21:] == expected[13:]


def test_the_loss_of_each_source_is_among_the_metrics_of_a_run(bench: Bench) -> None:
    dataset = Mixture({"low": Marked(rows=40), "high": Marked(rows=40, mark=5.0)})
    result = train(bench, dataset, [])
    found = {name: result.series(f"loss/{name}") for name in dataset.names}
    assert all(len(values) >= 6 for values in found.values())
    points = result.log().points(limit=100, sources=["step"])
    for fed, point in zip(result.trainer.fed, points, strict=True):
        low = int((fed["x"][:, 0] == 1.0).sum())
        total = low * point.values.get("loss/low", 0.0) + (4 - low) * point.values.get("loss/high", 0.0)
        assert total / 4 == pytest.approx(point.values["step_loss"], rel=1e-4)
