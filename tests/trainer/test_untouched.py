"""With no command, attaching agenttune changes no loss; and every metric is told as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.trainer.conftest import Bench, TinyModel

pytestmark = pytest.mark.trainer


def test_two_hundred_losses_are_bit_identical_in_all_forms(bench: Bench) -> None:
    how: dict[str, Any] = {"max_steps": 200, "rows": 100, "eval_strategy": "steps", "eval_steps": 60, "warmup_steps": 5}
    plain = bench.run(form="plain", **how)
    assert len(plain.losses) == 200
    for form in ("make_interactive", "callback"):
        attached = bench.run(form=form, **how)
        assert attached.losses == plain.losses
        assert attached.witness.used == plain.witness.used
        steps = attached.series("step_loss")
        assert len(steps) == 200
        assert steps == pytest.approx(plain.losses, abs=1e-4)  # 4.x logs four digits
        evaluations = [row["eval_loss"] for row in plain.trainer.state.log_history if "eval_loss" in row]
        assert attached.series("eval_loss", "eval") == evaluations


@pytest.mark.parametrize("accumulation", [1, 3])
def test_accumulation_and_ragged_epochs_are_untouched_too(bench: Bench, accumulation: int) -> None:
    how: dict[str, Any] = {
        "max_steps": -1,
        "num_train_epochs": 2,
        "rows": 70,
        "gradient_accumulation_steps": accumulation,
    }
    plain, attached = bench.run(form="plain", **how), bench.run(**how)
    assert attached.losses == plain.losses
    assert attached.trainer.state.global_step == plain.trainer.state.global_step
    assert attached.series("step_loss") == pytest.approx(plain.losses, abs=1e-4)
    called_back = bench.run(form="callback", **how)
    if accumulation == 1:
        assert called_back.series("step_loss") == pytest.approx(plain.losses, abs=1e-4)


def test_a_row_holds_what_the_step_really_used(bench: Bench) -> None:
    result = bench.run(max_steps=6)
    points = result.log().points(sources=["step"])
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert [point.values["lr"] for point in points] == [used[0] for used in result.witness.used]
    assert {point.values["base_lr"] for point in points} == {1e-3}
    norms = [row["grad_norm"] for row in result.trainer.state.log_history if "grad_norm" in row]
    assert [point.values["step_grad_norm"] for point in points] == pytest.approx(norms)
    assert all(point.values["step_time_s"] > 0 and point.values["samples_per_s"] > 0 for point in points)
    assert max(point.values.get("memory_bytes", 0.0) for point in points) > 1e7
    assert result.series("learning_rate", "log") == [used[0] for used in result.witness.used]


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_a_nan_is_told_even_where_the_trainers_filter_hides_it(bench: Bench, form: str) -> None:
    model = TinyModel(poison_at=4)
    result = bench.run(model=model, form=form, logging_nan_inf_filter=True, logging_steps=2, max_steps=8)
    hidden = [row["loss"] for row in result.trainer.state.log_history if "loss" in row]
    assert all(math.isfinite(loss) for loss in hidden)
    steps = result.series("step_loss")
    assert [math.isnan(loss) for loss in steps] == [False] * 3 + [True] * 5
    assert [math.isnan(loss) for loss in result.series("loss", "log")] == [False, True, True, True]


def test_a_language_model_reports_tokens_and_trains_alike(bench: Bench) -> None:
    import torch

    class Text(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.arange(index, index + 16) % 50
            return {"input_ids": ids, "labels": ids}

    def model() -> GPT2LMHeadModel:
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))

    losses = []
    for form in ("plain", "make_interactive", "callback"):
        result = bench.trainer(form=form, model=model(), max_steps=6, gradient_accumulation_steps=2)
        result.trainer.train_dataset = Text()
        result.trainer.train()
        losses.append([row["loss"] for row in result.trainer.state.log_history if "loss" in row])
        if form != "plain":
            assert result.series("step_loss") == pytest.approx(losses[0], abs=1e-3)
            assert all(rate > 0 for rate in result.series("tokens_per_s"))
    assert losses[1] == losses[0]
    assert losses[2] == losses[0]
