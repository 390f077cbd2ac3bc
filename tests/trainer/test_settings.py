"""Clipping, accumulation and the run's length: each acts as its ack says, and no data is lost or scaled wrongly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from tests.trainer.conftest import At, Bench, Points, TinyModel

pytestmark = pytest.mark.trainer


def training(**values: Any) -> dict[str, Any]:
    return {"kind": "update_training", **values}


def test_clipping_can_be_tightened_and_switched_off(bench: Bench) -> None:
    orders = [At(3, training(max_grad_norm=1e-3)), At(6, training(max_grad_norm=0.0))]

    def build(model: nn.Module) -> Any:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)

    moved: list[float] = []

    class Ruler(TrainerCallback):  # type: ignore[misc]
        last: torch.Tensor | None = None

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = torch.cat([p.detach().flatten().clone() for p in kwargs["model"].parameters()])
            moved.append(float((now - self.last).norm()) if self.last is not None else 0.0)
            self.last = now

    result = bench.run(orders, build=build, callbacks=[Ruler()])
    assert [ack.outcome for ack in result.acks()] == ["applied", "applied"]
    assert moved[3:6] == pytest.approx([1e-5] * 3, rel=1e-2)
    assert all(distance > 0.02 for distance in moved[6:])
    assert result.knob("max_grad_norm").effective == 0.0
    assert result.trainer.args.max_grad_norm == 0.0


class Ledger(Trainer):  # type: ignore[misc]
    """Notes the examples of every micro-batch and the update that they went into."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[tuple[int, list[float]]] = []

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        self.rows.append((self.state.global_step, inputs["x"][:, 0].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


def batches_of(rows: list[tuple[int, list[float]]]) -> list[int]:
    """Micro-batches per update."""
    steps = [step for step, _ in rows]
    return [steps.count(step) for step in sorted(set(steps))]


@pytest.mark.parametrize(
    ("start", "new", "at", "expected"),
    [
        # 64 rows in batches of 4: 16 micro-batches an epoch
        (1, 4, 4, [1] * 4 + [4] * 3 + [4] * 4),
        (4, 2, 1, [4] + [2] * 6 + [2] * 8),
        (4, 3, 1, [4] * 3 + [3, 1] + [3] * 5 + [1]),  # waits until 12 are done
        (2, 5, 1, [2] * 5 + [5, 1] + [5] * 3 + [1]),  # waits until 10 are done
        (4, 8, 0, [8, 8, 8, 8]),
    ],
)
def test_accumulation_changes_at_a_whole_group_and_every_row_is_still_seen(
    bench: Bench, start: int, new: int, at: int, expected: list[int]
) -> None:
    result = bench.run(
        [At(at, training(gradient_accumulation_steps=new))],
        base=Ledger,
        max_steps=len(expected),
        gradient_accumulation_steps=start,
    )
    assert result.ack.outcome == "applied", result.ack.message
    assert batches_of(result.trainer.rows) == expected
    everything = sorted(float(v) for v in Points(64).x[:, 0])
    first_epoch = [value for _, row in result.trainer.rows[:16] for value in row]
    assert sorted(first_epoch) == pytest.approx(everything)
    second_epoch = [value for _, row in result.trainer.rows[16:32] for value in row]
    assert sorted(second_epoch) == pytest.approx(everything[: len(second_epoch)] if not second_epoch else everything)


@pytest.mark.parametrize(("start", "new"), [(2, 4), (4, 2)])
def test_gradients_are_scaled_by_the_new_accumulation(bench: Bench, start: int, new: int) -> None:
    """Without shuffling and dropout, the losses after the change are those of a run that had it from there on."""

    class Ordered(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def run(orders: list[At], model: nn.Module, accumulation: int, steps: int) -> list[float]:
        result = bench.run(
            orders,
            model=model,
            base=Ordered,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            lr_scheduler_type="constant",
            optim="sgd",
            learning_rate=0.05,
            max_grad_norm=0.0,
        )
        return [row["loss"] for row in result.trainer.state.log_history if "loss" in row]

    changed = TinyModel(0.0)
    run([At(16 // start, training(gradient_accumulation_steps=new))], changed, start, 16 // start + 16 // new)
    plain = TinyModel(0.0)
    run([], plain, start, 16 // start)
    run([], plain, new, 16 // new)
    for a, b in zip(changed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_shorter_run_ends_there_and_a_past_end_is_refused(bench: Bench) -> None:
    result = bench.run([At(4, training(max_steps=4)), At(4, training(max_steps=7))])
    refused, applied = result.acks()
    assert (refused.outcome, applied.outcome) == ("failed", "applied")
    assert "not after the current step 4" in refused.message
    assert result.trainer.state.global_step == 7
    assert result.log().info().max_steps == 7
    assert result.log().info().status == "finished"


@pytest.mark.parametrize("by_epochs", [True, False])
def test_a_longer_run_goes_past_its_planned_epochs(bench: Bench, by_epochs: bool) -> None:
    length = {"max_steps": -1, "num_train_epochs": 1} if by_epochs else {"max_steps": 16}
    result = bench.run([At(4, training(max_steps=40))], **length)
    assert result.ack.outcome == "applied"
    assert "update_schedule" in result.ack.message
    assert result.trainer.state.global_step == 40
    assert result.trainer.state.num_train_epochs == 3
    assert result.log().info().step == 40


def test_the_planned_number_of_epochs_is_kept_and_shown(bench: Bench) -> None:
    shown: list[int] = []

    class Reader(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            shown.append(state.num_train_epochs)

    result = bench.run(callbacks=[Reader()], max_steps=-1, num_train_epochs=2)
    assert shown == [2]
    assert (result.trainer.state.global_step, result.trainer.state.num_train_epochs) == (32, 2)


def test_the_callback_alone_refuses_what_it_cannot_do_and_names_the_way(bench: Bench) -> None:
    orders = [
        At(3, training(max_steps=40)),
        At(3, training(gradient_accumulation_steps=2)),
        At(3, {"kind": "do_evaluate"}),
        At(3, training(max_steps=14, max_grad_norm=0.5)),
    ]
    result = bench.run(orders, form="callback")
    *refused, applied = result.acks()
    assert [ack.outcome for ack in refused] == ["failed"] * 3
    assert all("make_interactive" in ack.message for ack in refused)
    assert applied.outcome == "applied"
    assert result.trainer.state.global_step == 14
    assert "do_evaluate" not in result.bodies("run_started")[0].capabilities
