"""Knobs: bounds as given, and the Trainer's own ones change what the loop does, not only an attribute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback

from agenttune.errors import UserError
from agenttune.trainer.integrations.hf_knobs import register_trainer_knobs
from agenttune.trainer.knobs import KnobRegistry, make_knob
from tests.trainer.conftest import At, Bench, Result, TinyModel
from tests.trainer.test_layers import Tokens, tiny_gpt2

pytestmark = pytest.mark.trainer


def knob(name: str, value: Any) -> dict[str, Any]:
    return {"kind": "set_knob", "name": name, "value": value}


class Offer(TrainerCallback):  # type: ignore[misc]
    """Registers the trainer's knobs when training begins."""

    trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        register_trainer_knobs(self.trainer, self.trainer.interactive.registry)


def run(bench: Bench, *orders: At, model: Any = None, data: Any = None, **how: Any) -> Result:
    offer = Offer()
    result = bench.trainer(orders, model=model, callbacks=[offer], **how)
    offer.trainer = result.trainer
    if data is not None:
        result.trainer.train_dataset = data
    result.trainer.train()
    return result


def names(result: Result) -> set[str]:
    return {k.name for k in result.bodies("knobs_read")[-1].knobs if k.command == "set_knob"}


def rows(result: Result, key: str) -> list[int]:
    return [row["step"] for row in result.trainer.state.log_history if key in row]


# -- the user's own ------------------------------------------------------------------------------------------------


def test_bounds_are_a_pair_and_hold() -> None:
    box = {"value": 0.5}
    registry = KnobRegistry()
    registry.register(make_knob("share", lambda: box["value"], lambda v: box.update(value=v), "", (0, 1), "a share"))
    (state,) = registry.states()
    assert (state.minimum, state.maximum, state.description) == (0, 1, "a share")
    registry.set("share", 1)
    assert box["value"] == 1.0
    with pytest.raises(UserError, match="takes 0 to 1"):
        registry.set("share", 1.01)
    assert box["value"] == 1.0


def test_a_bound_may_be_open() -> None:
    high: dict[str, Any] = {"bounds": (None, 3)}
    assert make_knob("x", lambda: 1, print, **high).minimum is None
    assert make_knob("x", lambda: 1, print, bounds=(0, float("inf"))).maximum is None


def test_a_whole_number_under_fractional_bounds_is_no_count() -> None:
    held: dict[str, Any] = {"share": 0, "rows": 3}
    registry = KnobRegistry()
    registry.register(make_knob("share", lambda: held["share"], lambda v: held.update(share=v), bounds=(0.0, 1.0)))
    registry.register(make_knob("rows", lambda: held["rows"], lambda v: held.update(rows=v), bounds=(0, 9)))
    registry.set("share", 0.25)
    assert held["share"] == 0.25
    with pytest.raises(UserError, match="is a int"):
        registry.set("rows", 2.5)


@pytest.mark.parametrize("bounds", [(1, 0), (0,), (0, 1, 2), "01", (0, "1"), (float("nan"), 1), (True, 2), 5])
def test_what_is_no_pair_of_bounds_is_refused(bounds: Any) -> None:
    with pytest.raises(UserError, match="bounds"):
        make_knob("x", lambda: 1, print, bounds=bounds)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_name_that_no_command_could_carry_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="128"):
        make_knob(name, lambda: 1, print)


# -- the Trainer's own ---------------------------------------------------------------------------------------------


class NextTokens(Tokens):
    """The first token is nobody's next one; however labels are counted, they then are as many as are predicted."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self.rows[index].clone()
        labels[0] = -100
        return {"input_ids": self.rows[index], "labels": labels}


def test_label_smoothing_changes_the_loss_that_is_trained(bench: Bench) -> None:
    """All weights stay as they are, so each loss can be computed by hand from the model."""
    how: dict[str, Any] = {"learning_rate": 0.0, "per_device_train_batch_size": 64, "evaluates": False}
    still: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = tiny_gpt2(**still)
    data = NextTokens(256)
    orders = [At(2, knob("label_smoothing", 0.5)), At(4, knob("label_smoothing", 0.0))]
    result = run(bench, *orders, model=model, data=data, max_steps=6, **how)
    assert [ack.outcome for ack in result.acks()] == ["applied", "applied"], result.acks()
    logits = model.cpu()(data.rows).logits[:, :-1].detach().reshape(-1, 256)
    labels = data.rows[:, 1:].reshape(-1)
    plain = float(nn.functional.cross_entropy(logits, labels))
    smoothed = float(nn.functional.cross_entropy(logits, labels, label_smoothing=0.5))
    losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
    assert abs(plain - smoothed) > 1e-3
    expected = [plain] * 2 + [smoothed] * 2 + [plain] * 2
    assert losses == pytest.approx(expected, abs=1.1e-4)  # transformers 4 rounds to 4 digits


def test_label_smoothing_can_be_turned_down_and_out_of_bounds_is_refused(bench: Bench) -> None:
    orders = [At(2, knob("label_smoothing", 0.0)), At(3, knob("label_smoothing", 1.5))]
    result = run(bench, *orders, model=tiny_gpt2(), data=Tokens(256), label_smoothing_factor=0.2, evaluates=False)
    first, second = result.acks()
    assert (first.outcome, first.changes[0].previous, first.changes[0].effective) == ("applied", 0.2, 0.0)
    assert (second.outcome, result.trainer.label_smoother.epsilon) == ("failed", 0.0)


class OwnLoss(Trainer):  # type: ignore[misc]
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def regression() -> BertForSequenceClassification:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=256, num_labels=1, **sizes))


@pytest.mark.parametrize(
    "how",
    [{}, {"model": tiny_gpt2, "data": True, "base": OwnLoss}, {"model": regression, "data": True}],
    ids=["regression without a config", "a loss of the user's", "regression"],
)
def test_label_smoothing_is_offered_only_where_it_means_something(bench: Bench, how: dict[str, Any]) -> None:
    given = dict(how)
    model = given.pop("model", lambda: None)()
    data: Tokens | None = OneLabel() if given.pop("data", False) and model.config.num_labels == 1 else None
    data = Tokens(256) if data is None and model is not None else data
    result = run(bench, model=model, data=data, max_steps=2, evaluates=False, **given)
    assert "label_smoothing" not in names(result)
    assert "logging_steps" in names(result)


class OneLabel(Tokens):
    def __init__(self) -> None:
        super().__init__(256)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": torch.tensor(0.5)}


def test_intervals_are_those_that_the_loop_keeps(bench: Bench) -> None:
    orders = [
        At(2, knob("logging_steps", 5)),
        At(2, knob("eval_steps", 3)),
        At(2, knob("save_steps", 4)),
        At(2, knob("save_steps", 0)),
    ]
    intervals = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10}
    result = run(bench, *orders, **intervals)
    assert [ack.outcome for ack in result.acks()] == ["applied"] * 3 + ["failed"]
    assert rows(result, "loss") == [1, 2, 5, 10]
    assert rows(result, "eval_loss") == [3, 6, 9, 12]
    saved = {path.name for path in (bench.path / "out").glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-8", "checkpoint-12"}


def test_an_interval_that_does_not_count_steps_is_no_knob(bench: Bench) -> None:
    result = run(bench)
    assert {"eval_steps", "save_steps"}.isdisjoint(names(result))
    assert "logging_nan_inf_filter" in names(result)


def test_noise_on_embeddings_can_be_switched_off(bench: Bench) -> None:
    still: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    how: dict[str, Any] = {"learning_rate": 0.0, "per_device_train_batch_size": 64, "evaluates": False}
    order = At(3, knob("neftune_noise_alpha", 0.0))
    result = run(bench, order, model=tiny_gpt2(**still), data=Tokens(256), neftune_noise_alpha=500.0, **how)
    assert result.ack.outcome == "applied"
    losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
    assert len(set(losses[:3])) == 3
    assert max(losses[3:]) - min(losses[3:]) < 1e-5


def test_the_filter_that_hides_nan_can_be_switched_off(bench: Bench) -> None:
    order = At(2, knob("logging_nan_inf_filter", False))
    result = run(bench, order, model=TinyModel(0.0, poison_at=5), logging_nan_inf_filter=True, max_steps=6)
    losses = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
    assert losses[4] != losses[4]  # NaN, and not the 0.0 that the filter makes of it


def test_a_knob_of_the_users_stays_under_its_name(bench: Bench) -> None:
    offer = Offer()
    result = bench.trainer([At(2, knob("logging_steps", 0.5))], callbacks=[offer])
    offer.trainer = result.trainer
    mine = {"value": 0.1}
    result.trainer.register_knob("logging_steps", lambda: mine["value"], lambda v: mine.update(value=v))
    result.trainer.train()
    assert mine["value"] == 0.5
    assert result.trainer.state.logging_steps == 1
