"""A loop of your own: what its users rely on beyond what all loops share."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LambdaLR, StepLR
from torch.utils.data import DataLoader, WeightedRandomSampler

import agenttune
from agenttune.errors import UserError
from agenttune.trainer import Options
from agenttune.trainer.checkpoints.checkpoint_files import read_state
from agenttune.trainer.integrations.plain_loop import PlainSession
from tests.integrations.conftest import Desk, open_newest
from tests.integrations.loops import parts_of, update
from tests.trainer.conftest import At, Points, TinyModel
from tests.warm import start

pytestmark = pytest.mark.trainer


def options(path: Path) -> Options:
    return Options(runs_dir=path / "runs", server=False)


def opened(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **how: Any) -> PlainSession:
    return agenttune.session(model=model, optimizer=optimizer, options=options(path), **how)


def rate_run(path: Path, order: str, make: Callable[[Any], Any], every: int = 1) -> tuple[list[float], Any]:
    """Twelve steps with the rate set to 0.5 after the fourth; the rates used, and the ack."""
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler, used = make(optimizer), []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    desk = Desk(path / "runs", [At(4, {"kind": "update_optimizer", "lr": 0.5}, "rate")])
    with opened(path, model, optimizer, scheduler=scheduler) as s:
        for step in range(1, 13):
            optimizer.zero_grad()
            model(Points(4).x, Points(4).y)["loss"].backward()
            optimizer.step()
            if order == "scheduler first" and step % every == 0:
                scheduler.step()
            desk.submit(step)
            s.step()
            if order == "scheduler last" and step % every == 0:
                scheduler.step()
    return used, open_newest(path / "runs").command("rate").ack


def test_a_schedule_that_steps_once_an_epoch_does_not_make_a_held_rate_a_failure(tmp_path: Path) -> None:
    used, ack = rate_run(tmp_path, "scheduler first", lambda o: StepLR(o, 1, gamma=0.5), every=6)
    assert used == pytest.approx([0.1] * 4 + [0.5] * 2 + [0.25] * 6)
    assert (ack.outcome, ack.confirmed_step) == ("applied", 5)
    assert "StepLR has not stepped since" in ack.message


@pytest.mark.parametrize("every", [1, 4])
def test_a_schedule_that_steps_after_the_call_moves_on_from_the_new_rate(tmp_path: Path, every: int) -> None:
    used, ack = rate_run(tmp_path, "scheduler last", lambda o: StepLR(o, 1, gamma=0.5), every)
    assert ack.outcome == "applied"
    assert used[4] == pytest.approx(0.25)


def test_schedules_within_schedules_are_confirmed(tmp_path: Path) -> None:
    def chained(optimizer: Any) -> Any:
        return ChainedScheduler([StepLR(optimizer, 3, gamma=0.5), CosineAnnealingLR(optimizer, 100)])

    used, ack = rate_run(tmp_path, "scheduler first", chained)
    assert (ack.outcome, used[4]) == ("applied", 0.5)


def test_something_else_that_sets_the_rate_is_told(tmp_path: Path) -> None:
    class Fixed(LambdaLR):
        def step(self, epoch: Any = None) -> None:
            super().step(epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = 0.07

    used, ack = rate_run(tmp_path, "scheduler first", lambda o: Fixed(o, lambda t: 1.0))
    assert ack.outcome == "failed"
    assert "something else sets the rate" in ack.message
    assert used[5:] == pytest.approx([0.1] + [0.07] * (len(used) - 6)), "put back as the schedule had it"


def test_metrics_are_what_they_were_when_the_step_ended(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, _ = parts_of(model)
    running = torch.zeros(())
    with opened(tmp_path, model, optimizer) as s:
        for value in (1.0, 2.0, 3.0):
            running += value
            s.step({"loss": running, "accuracy": value / 10, "norm": torch.tensor([value], dtype=torch.float64)})
            running.mul_(1)
        s.step(torch.tensor(4.5, requires_grad=True))
        s.step()
        s.step({"loss": float("nan")})
    rows = [row.values for row in open_newest(tmp_path / "runs").points(sources=["step"])]
    assert [row["loss"] for row in rows[:4]] == [1.0, 3.0, 6.0, 4.5]
    assert [row["accuracy"] for row in rows[:3]] == [0.1, 0.2, 0.3]
    assert [row["norm"] for row in rows[:3]] == [1.0, 2.0, 3.0]
    assert "loss" not in rows[4]
    assert rows[5]["loss"] != rows[5]["loss"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"loss": torch.zeros(3)}, "shape (3,)"),
        ({"loss": "low"}, "is a str"),
        ({3: 1.0}, "a metric's name"),
        ([1.0], "is a list"),
    ],
)
def test_what_is_no_metric_is_refused_by_name(tmp_path: Path, metrics: Any, said: str) -> None:
    model = TinyModel()
    with opened(tmp_path, model, parts_of(model)[0]) as s:
        with pytest.raises(UserError) as caught:
            s.step(metrics)
        assert said in caught.value.message
        assert s.global_step == 0


def test_wrong_arguments_say_what_is_right(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, _ = parts_of(model)
    with pytest.raises(UserError, match=r"not a torch\.optim\.Optimizer"):
        agenttune.session(model=model, optimizer=model)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"not a torch\.nn\.Module"):
        agenttune.session(model=optimizer, optimizer=optimizer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="from 1 on"):
        agenttune.session(model=model, optimizer=optimizer, max_steps=0)
    with pytest.raises(UserError, match="outside of"):
        opened(tmp_path, model, optimizer).step(1.0)
    assert not (tmp_path / "runs").exists()


def test_a_loop_that_does_not_ask_is_left_by_its_with_block(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, scheduler = parts_of(model)
    desk = Desk(tmp_path / "runs", [At(3, {"kind": "stop_training", "save": False}, "stop")])
    done = 0
    with opened(tmp_path, model, optimizer, scheduler=scheduler) as s:
        for step in range(1, 100):
            update(model, optimizer, scheduler, {"x": Points(4).x, "labels": Points(4).y})
            desk.submit(step)
            s.step()
            done = step
    assert done == 3
    info = open_newest(tmp_path / "runs").info()
    assert (info.status, info.step) == ("stopped", 3)


def test_a_run_can_be_made_longer_and_shorter(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, scheduler = parts_of(model)
    orders = [
        At(2, {"kind": "update_training", "max_steps": 9}, "longer"),
        At(4, {"kind": "update_training", "max_steps": 3}, "past"),
        At(4, {"kind": "update_training", "max_grad_norm": 1.0}, "clip"),
        At(5, {"kind": "update_training", "max_steps": 7}, "shorter"),
    ]
    desk = Desk(tmp_path / "runs", orders)
    with opened(tmp_path, model, optimizer, scheduler=scheduler, max_steps=5) as s:
        for batch in s.batches(DataLoader(Points(16), batch_size=4)):
            update(model, optimizer, scheduler, batch)
            desk.submit(s.global_step + 1)
            s.step()
        assert s.global_step == 7
    log = open_newest(tmp_path / "runs")
    acks = {name: log.command(name).ack for name in ("longer", "past", "clip", "shorter")}
    outcomes = [ack.outcome if ack is not None else "" for ack in acks.values()]
    assert outcomes == ["applied", "failed", "failed", "applied"]
    assert "register_knob('max_grad_norm'" in str(acks["clip"] and acks["clip"].message)
    assert log.info().max_steps == 7


def test_the_loops_own_evaluations_are_recorded(tmp_path: Path) -> None:
    model = TinyModel()
    with opened(tmp_path, model, parts_of(model)[0]) as s:
        s.step(1.0)
        s.log_eval({"loss": torch.tensor(0.5), "eval_accuracy": 0.75})
        with pytest.raises(UserError, match="by name"):
            s.log_eval(0.5)  # type: ignore[arg-type]
    (event,) = open_newest(tmp_path / "runs").events(kinds=["evaluated"])
    assert (event.step, event.command_id) == (1, None)
    assert getattr(event.body, "metrics") == {"eval_loss": 0.5, "eval_accuracy": 0.75}


def test_an_evaluation_by_command_leaves_modes_and_gradients_alone(tmp_path: Path) -> None:
    model = TinyModel()
    model.norm.eval()
    optimizer, scheduler = parts_of(model)
    seen: list[tuple[bool, bool]] = []

    def evaluate() -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled()))
        torch.rand(100)
        return {"loss": 1.0}

    desk = Desk(tmp_path / "runs", [At(1, {"kind": "do_evaluate"}, "ask")])
    with opened(tmp_path, model, optimizer, scheduler=scheduler, evaluate=evaluate) as s:
        update(model, optimizer, scheduler, {"x": Points(4).x, "labels": Points(4).y})
        desk.submit(1)
        before = torch.random.get_rng_state()
        s.step()
    assert seen == [(False, False)]
    assert (model.training, model.norm.training) == (True, False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_an_evaluation_the_command_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    model = TinyModel()
    desk = Desk(tmp_path / "runs", [At(1, {"kind": "do_evaluate"}, "ask")])
    with opened(tmp_path, model, parts_of(model)[0]) as s:
        desk.submit(1)
        s.step()
    log = open_newest(tmp_path / "runs")
    ack = log.command("ask").ack
    assert ack is not None
    assert "evaluate=" in ack.message
    assert "do_evaluate" not in log.info().capabilities


def test_hooks_are_gone_after_the_block(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, _ = parts_of(model)
    with opened(tmp_path, model, optimizer):
        assert optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


# -- data ------------------------------------------------------------------------------------------------------------


class Noisy(Points):
    """Draws from the global random state for each row, as augmentations do."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = super().__getitem__(index)
        return {"x": row["x"] + 0.1 * torch.randn(4), "labels": row["labels"]}


class OwnDraws(Points):
    """Draws from generators of its own, for each row and for each batch."""

    def __init__(self) -> None:
        super().__init__(22)
        self.rng, self.dice = np.random.default_rng(4), random.Random(4)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = super().__getitem__(index)
        return {"x": row["x"] + 0.1 * float(self.rng.normal()), "labels": row["labels"]}

    def scaled(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = torch.utils.data.default_collate(rows)
        return {**batch, "x": batch["x"] * self.dice.random()}


def own_draws() -> DataLoader[Any]:
    dataset = OwnDraws()
    return DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=dataset.scaled)


def shuffled(**how: Any) -> DataLoader[Any]:
    return DataLoader(Points(22), batch_size=4, shuffle=True, **how)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": shuffled,
    "own generator": lambda: shuffled(generator=torch.Generator().manual_seed(3)),
    "augmented": lambda: DataLoader(Noisy(22), batch_size=4, shuffle=True),
    "generators of the data's own": own_draws,
    "in order": lambda: DataLoader(Points(22), batch_size=4, drop_last=True),
    "weighted": lambda: DataLoader(
        Points(22), batch_size=4, sampler=WeightedRandomSampler([1.0 + i for i in range(22)], 22)
    ),
    "workers": lambda: shuffled(num_workers=2),
    "no batches": lambda: DataLoader(
        torch.utils.data.TensorDataset(Points(22).x, Points(22).y), batch_size=None, shuffle=True
    ),
}


def drawn_run(path: Path, loader: Any, orders: list[At], steps: int = 20) -> list[float]:
    torch.manual_seed(5)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = CosineAnnealingLR(optimizer, 40)
    desk, losses = Desk(path / "runs", orders), []
    with opened(path, model, optimizer, scheduler=scheduler, max_steps=steps) as s:
        for batch in s.batches(loader):
            rows = batch if isinstance(batch, dict) else {"x": batch[0].unsqueeze(0), "labels": batch[1].unsqueeze(0)}
            loss = update(model, optimizer, scheduler, rows)
            losses.append(float(loss))
            desk.submit(s.global_step + 1)
            s.step({"loss": loss})
    return losses


ALONE: dict[str, list[float]] = {}
"""The losses of a run over each loader that is not interfered with; trained once."""


@pytest.mark.quick("*-8", "shuffled-*", "own generator-6")
@pytest.mark.parametrize("kept_at", [5, 6, 8])
@pytest.mark.parametrize("kind", LOADERS)
def test_going_back_repeats_the_very_same_losses(tmp_path: Path, kind: str, kept_at: int) -> None:
    """Six batches an epoch: 6 is an epoch's end, 8 is in the second."""
    if kind == "workers" and kept_at != 8:
        pytest.skip("one place is enough for what takes worker processes")
    alone = ALONE.get(kind) or ALONE.setdefault(kind, drawn_run(tmp_path / "alone", LOADERS[kind](), []))
    orders = [
        At(kept_at, {"kind": "save_checkpoint", "keep_in": "disk" if kept_at == 8 else "memory"}, "save"),
        At(15, {"kind": "load_checkpoint", "checkpoint_id": "@save"}, "load"),
    ]
    jumped = drawn_run(tmp_path / "jumped", LOADERS[kind](), orders)
    assert jumped[:15] == alone[:15]
    assert jumped[15:] == alone[kept_at:]
    ack = open_newest(tmp_path / "jumped" / "runs").command("load").ack
    assert ack is not None
    assert (ack.outcome, ack.message) == ("applied", "")


def test_an_iterable_that_cannot_go_back_is_drawn_on_and_the_ack_says_so(tmp_path: Path) -> None:
    rows = Points(8)
    batches = [{"x": rows.x[i : i + 2], "labels": rows.y[i : i + 2]} for i in (0, 2, 4, 6)]
    orders = [
        At(3, {"kind": "save_checkpoint", "keep_in": "memory"}, "save"),
        At(6, {"kind": "load_checkpoint", "checkpoint_id": "@save"}, "load"),
    ]
    losses = drawn_run(tmp_path, batches, orders, steps=10)
    assert len(losses) == 13
    ack = open_newest(tmp_path / "runs").command("load").ack
    assert ack is not None
    assert (ack.outcome, ack.step) == ("applied", 3)
    assert "order of the data does not go back" in ack.message


def test_a_loop_that_names_what_it_has_loaded_is_told_what_did_not_come_with_it(tmp_path: Path) -> None:
    freeze = {"layer_name": "first", "operation_name": "requires_grad_", "params": {"requires_grad": False}}
    orders = [
        At(2, {"kind": "model_layer_operation", **freeze}, "freeze"),
        At(3, {"kind": "update_optimizer", "weight_decay": 0.3}, "decay"),
        At(4, {"kind": "save_checkpoint"}, "save"),
    ]
    drawn_run(tmp_path, DataLoader(Points(16), batch_size=4), orders, steps=6)
    ack = open_newest(tmp_path / "runs").command("save").ack
    assert ack is not None
    state = read_state(Path(ack.result["path"]))
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.load_state_dict(state.model)
    optimizer.load_state_dict(state.optimizer)
    how: dict[str, Any] = {"max_steps": 6, "start_step": state.step}
    with opened(tmp_path / "again", model, optimizer, resumed_from=ack.result["path"], **how):
        pass
    (note,) = notes(tmp_path / "again")
    assert "layer first was frozen, is trained" in note
    assert "In force again, with the checkpoint's states: weight_decay" in note
    with opened(tmp_path / "unnamed", model, optimizer, **how):
        pass
    assert notes(tmp_path / "unnamed") == []
    with pytest.raises(UserError, match="there is none at"):
        opened(tmp_path, model, optimizer, resumed_from=tmp_path / "nowhere")


def one_pass(
    s: PlainSession, loader: Any, epochs: int | None, model: TinyModel, optimizer: Any, desk: Desk, most: int | None
) -> list[float]:
    """Losses of the steps of one pass, which the loop leaves after so many batches."""
    losses: list[float] = []
    for batch in s.batches(loader, epochs=epochs):
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        desk.submit(s.global_step + 1)
        s.step({"loss": loss})
        if len(losses) == most:
            break
    return losses


class PassLoop:
    """A loop with an epoch's own code around `batches`: StepLR once a pass, 4 batches a pass."""

    def __init__(self, path: Path, epochs: int | None, orders: list[At] | None = None, passes: int = 5, **how: Any):
        torch.manual_seed(5)
        model = TinyModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler, loader = StepLR(optimizer, 1, gamma=0.5), DataLoader(Told(), batch_size=4, shuffle=True)
        self.told = loader.dataset.epochs  # type: ignore[attr-defined]
        self.passes: list[list[float]] = []
        desk = Desk(path / "runs", orders or [])
        with opened(path, model, optimizer, scheduler=scheduler, **how) as s:
            for _ in range(passes):
                self.passes.append(one_pass(s, loader, epochs, model, optimizer, desk, most=30))
                scheduler.step()
        self.stepped = scheduler.last_epoch


class Told(Points):
    def __init__(self) -> None:
        super().__init__(16)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def notes(path: Path) -> list[str]:
    return [getattr(event.body, "text") for event in open_newest(path / "runs").events(kinds=["note_added"])]


def test_one_pass_a_call_is_the_plain_loops_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def plain() -> list[list[float]]:
        torch.manual_seed(5)
        model = TinyModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler, loader = StepLR(optimizer, 1, gamma=0.5), DataLoader(Points(16), batch_size=4, shuffle=True)
        passes: list[list[float]] = []
        for _ in range(5):
            passes.append([])
            for batch in loader:
                optimizer.zero_grad()
                loss = model(**batch)["loss"]
                loss.backward()
                optimizer.step()
                passes[-1].append(float(loss))
            scheduler.step()
        return passes

    trained = PassLoop(tmp_path, epochs=1)
    assert trained.passes == plain()
    assert trained.told == [0, 1, 2, 3, 4]
    assert notes(tmp_path) == []
    assert "epochs=1" not in caplog.text
    with opened(tmp_path, TinyModel(), parts_of(TinyModel())[0]) as s, pytest.raises(UserError, match="from 1 on"):
        s.batches([1], epochs=0)


def test_a_return_within_passes_goes_on_to_the_end_of_the_pass(tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "save_checkpoint", "keep_in": "memory"}, "save"),
        At(7, {"kind": "load_checkpoint", "checkpoint_id": "@save"}, "load"),
    ]
    trained = PassLoop(tmp_path, epochs=1, orders=orders)
    assert [len(losses) for losses in trained.passes] == [4, 3 + 2, 4, 4, 4]
    assert trained.passes[1][3:] == trained.passes[0][2:], "the pass that it went back to"
    assert trained.told == [0, 1, 0, 1, 2, 3]
    assert trained.stepped == 4, "once for each pass, of the branch in force"


class EvaluatedLoop:
    """A loop that evaluates after each pass: the second is the best, and that state is kept."""

    def __init__(self, path: Path, orders: list[At], leaves_after: int | None = None, **how: Any) -> None:
        torch.manual_seed(5)
        model = TinyModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(Points(16), batch_size=4, shuffle=True)
        self.passes: list[list[float]] = []
        desk = Desk(path / "runs", orders)
        with opened(path, model, optimizer, **how) as s:
            for _ in range(5):
                self.passes.append(one_pass(s, loader, 1, model, optimizer, desk, leaves_after))
                s.log_eval({"loss": [0.5, 0.1, 0.3, 0.4, 0.6][len(self.passes) - 1]})


@pytest.mark.parametrize("leaves_after", [None, 3])
def test_a_state_of_between_two_passes_is_the_beginning_of_the_later_one(
    tmp_path: Path, leaves_after: int | None
) -> None:
    """It was the end of the earlier one: the call handed out nothing more, and the loop evaluated once more."""
    size = leaves_after or 4
    back = At(2 * size + 2, {"kind": "load_checkpoint", "checkpoint_id": "best"}, "load")
    trained = EvaluatedLoop(tmp_path, [back], leaves_after)
    ack = open_newest(tmp_path / "runs").command("load").ack
    assert ack is not None
    assert (ack.outcome, ack.step) == ("applied", 2 * size), ack.message
    first, second, third, *rest = trained.passes
    assert [len(losses) for losses in (first, second)] == [size, size]
    again = third[2:]
    assert len(again) == (size if leaves_after is None else 1), "the loop itself leaves a pass after three batches"
    assert again[:2] == third[: len(again[:2])], "the same batches once more"
    assert [len(losses) for losses in rest] == [size, size]


def test_a_run_with_such_a_state_draws_what_it_would_have_drawn_after_it(tmp_path: Path) -> None:
    alone = EvaluatedLoop(tmp_path / "alone", [])
    back = At(10, {"kind": "load_checkpoint", "checkpoint_id": "best"}, "load")
    with_return = EvaluatedLoop(tmp_path / "back", [back])
    first, second, third, *rest = with_return.passes
    assert [first, second, third[2:], *rest[:1]] == alone.passes[:4]


def test_a_trial_at_the_end_of_a_pass_has_nothing_of_the_loops_code_between_passes(tmp_path: Path) -> None:
    order = {"kind": "probe", "steps": 3, "candidates": [{"kind": "update_optimizer", "lr": 1e-9}]}
    trained = PassLoop(tmp_path, epochs=1, orders=[At(3, order, "probe")], max_steps=20)
    ack = open_newest(tmp_path / "runs").command("probe").ack
    assert ack is not None
    assert ack.outcome == "applied", ack.message
    assert [len(losses) for losses in trained.passes] == [4 + 2 * 3, 4, 4, 4, 4]
    assert trained.stepped == 5


@pytest.mark.parametrize(("steps", "said"), [(20, "has gone through 5 epochs"), (None, "there is no max_steps")])
def test_a_call_that_is_taken_for_one_epoch_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int | None, said: str
) -> None:
    trained = PassLoop(tmp_path, epochs=None, max_steps=steps)
    assert len(trained.passes[0]) == (steps or 30)
    (note,) = notes(tmp_path)
    assert said in note
    assert "epochs=1" in note
    assert caplog.text.count("epochs=1") == 1


class OneShot(torch.utils.data.IterableDataset[Any]):
    """Rows of something that can be read once."""

    def __init__(self) -> None:
        self.rows = iter([{"x": row["x"], "labels": row["labels"]} for row in (Points(12)[i] for i in range(12))])

    def __iter__(self) -> Any:
        return self.rows


ENDING: dict[str, Callable[[], Any]] = {
    "generator": lambda: (batch for batch in DataLoader(Points(12), batch_size=4)),
    "iterator": lambda: iter(DataLoader(Points(12), batch_size=4)),
    "read once": lambda: DataLoader(OneShot(), batch_size=4),
}


@pytest.mark.parametrize("steps", [20, None])
@pytest.mark.parametrize("kind", ENDING)
def test_data_that_ends_ends_the_loop(tmp_path: Path, kind: str, steps: int | None) -> None:
    model = TinyModel()
    optimizer, scheduler = parts_of(model)
    loader = ENDING[kind]()
    with opened(tmp_path, model, optimizer, scheduler=scheduler, max_steps=steps) as s:
        for batch in s.batches(loader):
            s.step({"loss": update(model, optimizer, scheduler, batch)})
        assert not s.should_stop, "it may have other data"
        assert list(s.batches(loader)) == []
        assert s.should_stop, "a loop of passes does not go on for ever"
    info = open_newest(tmp_path / "runs").info()
    assert (info.status, info.step) == ("finished", 3)
    assert notes(tmp_path) == []
    assert info.status_reason == "the data ended at step 3" + (" of 20" if steps else "")


def test_a_trial_that_meets_the_end_of_the_data_is_lost_and_training_ends_there(tmp_path: Path) -> None:
    order = {"kind": "probe", "steps": 3, "candidates": [{"kind": "update_optimizer", "lr": 0.01}]}
    desk = Desk(tmp_path / "runs", [At(2, order, "probe")])
    model = TinyModel()
    optimizer, scheduler = parts_of(model)
    with opened(tmp_path, model, optimizer, scheduler=scheduler, max_steps=20) as s:
        for batch in s.batches(DataLoader(OneShot(), batch_size=4)):
            loss = update(model, optimizer, scheduler, batch)
            desk.submit(s.global_step + 1)
            s.step({"loss": loss})
    log = open_newest(tmp_path / "runs")
    ack = log.command("probe").ack
    assert ack is not None
    assert {trial["problem"] for trial in ack.result["trials"]} == {"UserError: the data ended"}
    assert (log.info().status, log.info().status_reason) == ("finished", "the data ended at step 2 of 20")


def test_an_empty_loader_is_told_instead_of_looping_for_ever(tmp_path: Path) -> None:
    model = TinyModel()
    with opened(tmp_path, model, parts_of(model)[0]) as s, pytest.raises(UserError, match="no batches"):
        next(iter(s.batches([])))


def test_a_function_as_loader_needs_a_dataset(tmp_path: Path) -> None:
    model = TinyModel()
    with opened(tmp_path, model, parts_of(model)[0]) as s, pytest.raises(UserError, match="dataset="):
        s.batches(lambda dataset: DataLoader(dataset, batch_size=2))
    with opened(tmp_path, model, parts_of(model)[0], dataset=Points(8)) as s:
        batch = next(s.batches(lambda dataset: DataLoader(dataset, batch_size=2)))
        assert batch["x"].shape == (2, 4)


# -- the launcher ----------------------------------------------------------------------------------------------------

SCRIPT = """
import torch, agenttune
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with agenttune.session(model=model, optimizer=optimizer, name="mine") as s:
    for _ in range(3):
        model(torch.ones(4, 2)).mean().backward()
        optimizer.step()
        s.step({"loss": 1.0})
    %s
"""


def test_the_launchers_run_is_taken_and_an_exception_is_its_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT % "raise ValueError('out of data')", encoding="utf-8")
    given = {"AGENTTUNE_RUNS_DIR": str(tmp_path), "AGENTTUNE_SERVER_URL": "http://127.0.0.1:9"}
    assert start(script, folder=tmp_path, AGENTTUNE_RUN_ID="given-1", **given).end().code == 1
    info = open_newest(tmp_path).info()
    assert (info.run_id, info.status, info.step) == ("given-1", "failed", 3)
    assert info.status_reason == "ValueError: out of data"


def test_leaving_the_program_inside_the_block_is_an_interruption(tmp_path: Path) -> None:
    model = TinyModel()
    with pytest.raises(SystemExit), opened(tmp_path, model, parts_of(model)[0], name="mine") as s:
        s.step(1.0)
        raise SystemExit(3)
    info = open_newest(tmp_path / "runs").info()
    assert info.run_id.startswith("mine-")
    assert info.status == "interrupted"
