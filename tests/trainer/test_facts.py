"""What an expert asks first of a training is told, true at the start and after each change, by every kind of loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import agenttune
from agenttune.protocol.run_facts import Rhythm, RunFacts
from agenttune.trainer import Options
from agenttune.trainer.integrations.model_facts import chance_of, model_facts
from tests.integrations.conftest import Trained, Witness, open_newest
from tests.integrations.lightning_module import Module
from tests.trainer.conftest import At, Bench, Points, TinyModel

pytestmark = pytest.mark.trainer


def gpt2(vocabulary: int = 65) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=8, n_embd=8, n_layer=1, n_head=1))


def bert(**given: Any) -> BertForSequenceClassification:
    shape = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return BertForSequenceClassification(BertConfig(**shape, intermediate_size=8, **given))


class Text(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.full((8,), index % 20)
        return {"input_ids": ids, "labels": ids}


def test_a_trainers_run_tells_model_data_batch_and_plan(bench: Bench) -> None:
    result = bench.trainer(
        [At(3, {"kind": "update_training", "gradient_accumulation_steps": 4, "max_steps": 10})],
        model=gpt2(),
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        eval_delay=6,
        save_strategy="epoch",
        logging_steps=2,
    )
    result.trainer.train_dataset = result.trainer.eval_dataset = Text()
    result.trainer.train()
    first, last = result.bodies("knobs_read")[0].facts, result.log().info().facts
    assert isinstance(first, RunFacts)
    assert isinstance(last, RunFacts)
    assert (first.model, first.optimizer) == ("GPT2LMHeadModel", "AdamW")
    assert first.parameters == first.trainable == sum(p.numel() for p in result.trainer.model.parameters())
    assert first.tied == ["transformer.wte.weight = lm_head.weight"]
    assert (first.batch_size, first.samples, first.epoch_steps, first.epochs) == (4, 40, 5, 2)
    assert first.chance_loss == pytest.approx(math.log(65))
    assert first.evaluation == Rhythm(every=3, first=6)
    assert (first.saving, first.logging) == (Rhythm(every=1, unit="epochs"), Rhythm(every=2))
    # With four micro-batches a step an epoch is shorter in steps, and what is planned reaches further into the data.
    assert last.epoch_steps == 3
    assert last.epochs == pytest.approx(10 / 3)


def test_an_interval_that_was_changed_live_is_told_as_it_is_now(bench: Bench) -> None:
    orders = [At(3, {"kind": "set_knob", "name": "eval_steps", "value": 5})]
    result = bench.run(orders, eval_strategy="steps", eval_steps=4)
    facts = result.log().info().facts
    assert facts is not None
    assert facts.evaluation == Rhythm(every=5)


def test_frozen_layers_are_told_apart_from_trained_ones(bench: Bench) -> None:
    order = {"kind": "model_layer_operation", "layer_name": "first", "operation_name": "requires_grad_"}
    result = bench.run([At(2, {**order, "params": {"requires_grad": False}})])
    facts = result.log().info().facts
    assert facts is not None
    assert facts.parameters is not None
    assert facts.trainable == facts.parameters - 40


def test_the_callback_alone_tells_what_it_can_see(bench: Bench) -> None:
    facts = bench.run(form="callback").log().info().facts
    assert facts is not None
    assert (facts.batch_size, facts.samples, facts.epoch_steps) == (4, 64, 16)
    assert facts.epochs == pytest.approx(12 / 16)


def test_a_loop_of_ones_own_tells_its_data_once_it_draws_it(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = Options(runs_dir=tmp_path / "runs", server=False)
    with agenttune.session(model=model, optimizer=optimizer, max_steps=24, options=options) as s:
        for batch in s.batches(DataLoader(Points(64), batch_size=8)):
            optimizer.zero_grad()
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            if s.step({"loss": loss}):
                break
    log = open_newest(tmp_path / "runs")
    facts = log.info().facts
    assert facts is not None
    assert (facts.model, facts.optimizer, facts.batch_size, facts.samples) == ("TinyModel", "SGD", 8, 64)
    assert (facts.epoch_steps, facts.epochs) == (8, 3.0)
    assert [e.body.size for e in log.events(kinds=["dataset_read"])] == [64]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"val_check_interval": 4}, Rhythm(every=4)),
        ({"check_val_every_n_epoch": 2}, Rhythm(every=2, unit="epochs")),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2}, Rhythm(every=4)),
        ({"val_check_interval": 5}, None),  # 5, 10, 15, 21, ...: it begins anew with each epoch
        ({"limit_val_batches": 0}, None),
    ],
)
def test_lightning_tells_its_plan(tmp_path: Path, given: dict[str, Any], expected: Rhythm | None) -> None:
    trained = Trained(TinyModel(), Witness(), tmp_path / "runs")
    callback = agenttune.LightningCallback(options=Options(runs_dir=trained.runs_dir, server=False))
    trainer = lightning.Trainer(
        max_steps=6, max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], default_root_dir=tmp_path, **given,
    )  # fmt: skip
    trainer.fit(Module(trained.model), DataLoader(Points(64), batch_size=4), DataLoader(Points(8), batch_size=4))
    facts = trained.log().info().facts
    assert facts is not None
    assert facts.evaluation == expected
    assert (facts.model, facts.optimizer, facts.batch_size, facts.samples) == ("Module", "AdamW", 4, 64)
    assert facts.epoch_steps == (8 if "accumulate_grad_batches" in given else 16)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (gpt2(50), math.log(50)),
        (bert(num_labels=4), math.log(4)),
        (bert(num_labels=4, problem_type="multi_label_classification"), math.log(2)),
        (bert(num_labels=1), None),
        (bert(num_labels=3, problem_type="regression"), None),
        (nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 10)), math.log(10)),
        (nn.Sequential(nn.Linear(2, 1)), None),
        (nn.LSTM(2, 3), None),
    ],
)
def test_the_chance_level_is_told_where_the_loss_is_known(model: nn.Module, loss: float | None) -> None:
    found = chance_of(model)
    assert found.get("chance_loss") == (None if loss is None else pytest.approx(loss))
    assert bool(found.get("chance_of")) == (loss is not None)


def test_a_loss_of_the_trainers_own_has_no_known_chance_level(bench: Bench) -> None:
    result = bench.trainer(model=gpt2(), max_steps=2)
    result.trainer.train_dataset = Text()
    result.trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: outputs["logits"].mean()
    result.trainer.train()
    facts = result.log().info().facts
    assert facts is not None
    assert (facts.model, facts.chance_loss) == ("GPT2LMHeadModel", None)


def test_tied_weights_count_once_and_are_named() -> None:
    model = nn.Module()
    model.inner, model.outer = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    model.outer.weight = model.inner.weight
    assert model_facts(model)["tied"] == ["inner.weight = outer.weight"]
    assert model_facts(model)["parameters"] == 16


def test_layers_through_which_next_to_nothing_comes_are_named() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.99), nn.Sequential(nn.Dropout2d(0.97)))
    assert model_facts(model)["dropping"] == {"1": 0.99, "2.0": 0.97}


@given(
    st.integers(1, 50),
    st.sampled_from(["steps", "epochs"]),
    st.integers(0, 200),
    st.integers(0, 400),
    st.integers(1, 9),
)
def test_what_is_due_next_is_the_first_multiple_that_counts(
    every: int, unit: Any, first: int, step: int, length: int
) -> None:
    due = Rhythm(every=every, unit=unit, first=first).next_after(step, length)
    in_steps = 1 if unit == "steps" else length
    expected = next(s for s in range(step + 1, 10**6) if s % (every * in_steps) == 0 and s >= first * in_steps)
    assert due == expected


def test_nobody_knows_when_an_epoch_of_unknown_length_ends() -> None:
    assert Rhythm(every=1, unit="epochs").next_after(10, None) is None
