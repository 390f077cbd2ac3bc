"""What a user's program logs is in the run's log: whatever its names, once, and never taken for another row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer

from agenttune.trainer.recording.logged_rows import LoggedRows, split
from tests.trainer.conftest import At, Bench

pytestmark = pytest.mark.trainer

NAMES = st.sampled_from(["reward", "eval_loss", "eval_runtime", "generate_runtime", "test_loss", "loss", "epoch"])
ROWS = st.dictionaries(NAMES, st.floats(allow_nan=False), min_size=1, max_size=4)


class Told:
    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any], int]] = []
        self.logged = LoggedRows(self._take("log"), self._take("eval"))

    def _take(self, source: str) -> Any:
        return lambda row, step: self.rows.append((source, dict(row), step))


@given(st.lists(st.tuples(ROWS, st.sampled_from(["row", "same object", "copy with more", "told alone"]))))
def test_each_row_is_told_once_under_what_it_is(sequence: list[tuple[dict[str, float], str]]) -> None:
    told, expected = Told(), []
    for step, (row, how) in enumerate(sequence):
        if how == "row":
            told.logged.log(row, step)
            expected.append(("log", row, step))
            continue
        more = {**row, "eval_entropy": 0.5} if how == "copy with more" else row
        if how != "told alone":
            told.logged.log(more, step)
        told.logged.evaluate(row, step)
        expected.append(("eval", more, step))
    told.logged.flush()
    assert told.rows == expected


def test_a_users_row_that_equals_an_earlier_one_is_told_twice() -> None:
    told = Told()
    told.logged.log({"reward": 1.0}, 3)
    told.logged.log({"reward": 1.0}, 3)
    told.logged.flush()
    assert told.rows == [("log", {"reward": 1.0}, 3)] * 2


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2.0),
        (np.bool_(True), 1.0),
        (np.array([0.25]), 0.25),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor([[2]]), 2.0),
        (float("inf"), float("inf")),
    ],
)
def test_what_counts_as_a_number(value: Any, number: float) -> None:
    assert split({"name": value}) == ({"name": number}, {})


def test_what_is_no_number_is_kept_as_text_and_rows_within_a_row_are_taken_apart() -> None:
    row: Mapping[str, Any] = {
        "phase": "warm",
        "rewards": {"format": 1.0, "style": {"terse": 0.5}},
        "per_class": [1, 2],
        "grid": torch.zeros(2),
        "huge": 10**400,
        "z": 1 + 2j,
        "nothing": None,
    }
    values, texts = split(row)
    assert values == {"rewards/format": 1.0, "rewards/style/terse": 0.5}
    assert texts.keys() == {"phase", "per_class", "grid", "huge", "z"}
    assert texts["per_class"] == "[1, 2]"
    assert max(map(len, texts.values())) <= 500


class Talkative(Trainer):  # type: ignore[misc]
    """Logs rows of its own while it trains and while it evaluates, as RL trainers do."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            self.log({"reward": 1.0, "generate_runtime": 0.1, "phase": "rollout"})
        else:
            self.log({"eval_reward": 2.0, "judge_runtime": 0.2})
        return super().compute_loss(*args, **kwargs)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "mean_length": 7}, *args, **kwargs)  # a copy, as TRL's trainers make


@pytest.mark.parametrize("form", ["make_interactive", "callback"])
def test_rows_of_a_trainer_that_logs_its_own(bench: Bench, form: str) -> None:
    orders = [At(2, {"kind": "do_evaluate"})] if form == "make_interactive" else []
    result = bench.run(orders, form=form, base=Talkative, max_steps=3, eval_strategy="steps", eval_steps=3)
    assert result.series("reward", "log") == [1.0] * 3
    assert result.series("generate_runtime", "log") == [0.1] * 3
    evaluations = 2 if orders else 1
    assert result.series("eval_reward", "log") == [2.0] * evaluations
    assert len(result.series("eval_loss", "eval")) == evaluations
    assert result.series("mean_length", "eval") == [7.0] * evaluations
    assert result.series("eval_loss", "log") == []
    assert len(result.series("train_runtime", "log")) == 1
    assert result.bodies("logged")[0].texts == {"phase": "rollout"}
    assert [row["step"] for row in result.trainer.state.log_history if "loss" in row] == [1, 2, 3]


def test_another_prefix_is_an_evaluation_too(bench: Bench) -> None:
    class Tested(Trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 1 and not getattr(self, "tested", False):
                self.tested = True
                self.evaluate(metric_key_prefix="test")
            return super().training_step(*args, **kwargs)

    result = bench.run(base=Tested, max_steps=3)
    assert len(result.series("test_loss", "eval")) == 1
    assert result.series("test_loss", "log") == []
