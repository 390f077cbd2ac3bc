"""Guardian at rates too high for Adam, under the real Trainer: it begins again lower, or lowers where it stands."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Trainer

from agenttune.protocol.commands import LoadCheckpoint, UpdateOptimizer
from tests.trainer.conftest import Bench, Result
from tests.trainer.test_higher_rate import Classifier, Clouds, final, trained

pytestmark = pytest.mark.trainer


class Evaluated(Trainer):  # type: ignore[misc]
    """Has rows of the same kind held out."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**(given | {"eval_dataset": Clouds(500)}))


def alone(bench: Bench, **how: Any) -> Result:
    given: dict[str, Any] = {"model": Classifier(), "evaluates": False, "per_device_train_batch_size": 16}
    result = Bench(bench.path / "alone").trainer([], form="plain", **given, **how)
    result.trainer.train_dataset = Clouds(4000)
    result.trainer.train()
    return result


def test_steps_of_half_of_the_weights_are_begun_again_with_a_tenth(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"lr_scheduler_type": "constant", "max_steps": 160}
    result = trained(bench, monkeypatch, 0.03, optim="adamw_torch", **how)
    [record] = result.records()
    assert record.proposal.rationale.startswith("begin_lower: ")
    assert isinstance(record.command, LoadCheckpoint)
    assert record.command.lr == pytest.approx(0.006, rel=0.3)
    assert final(result) < 0.8 * final(alone(bench, learning_rate=0.03, optim="adamw_torch", **how))


HIGH: dict[str, Any] = {"max_steps": 500, "optim": "adamw_torch"}
SHOWN: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 20, "per_device_eval_batch_size": 500}


def test_a_standstill_at_a_high_rate_that_stays_ends_by_a_lower_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First steps of a third of the weights."""
    how = HIGH | {"lr_scheduler_type": "constant"}
    result = trained(bench, monkeypatch, 0.02, base=Evaluated, **how, **SHOWN)
    first = result.records()[0]
    assert first.proposal.rationale.startswith("lower_flat: ")
    assert isinstance(first.command, UpdateOptimizer)
    assert first.command.lr == pytest.approx(0.003, rel=0.3)
    assert final(result) < 0.8 * final(alone(bench, learning_rate=0.02, **how))


def test_a_high_rate_whose_plan_falls_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    how = HIGH | {"lr_scheduler_type": "linear"}
    assert trained(bench, monkeypatch, 0.02, base=Evaluated, **how, **SHOWN).records() == []
