"""The seed's tuner reads the rate in use and writes it back for "Same": the run must not notice."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from agenttune import make_interactive
from agenttune.protocol.proposals import Change
from agenttune.server.app import create_app
from agenttune.server.v1_compat.learning_rates import says
from agenttune.trainer import Options
from tests.v1_compat.client import V1Client, args_of
from tests.v1_compat.conftest import Trainer as Playing
from tests.v1_compat.training import Net, Sums

STEPS = 16
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "constant_with_warmup": {"warmup_steps": 5},
    "linear with warm-up": {"lr_scheduler_type": "linear", "warmup_steps": 5},
}
Rates = list[list[float]]


class Tuner(TrainerCallback):  # type: ignore[misc]
    """Answers each row of the log with the same rate, as it was shown or as `printed` prints it."""

    def __init__(self, client: TestClient | None, printed: str = "", late_rows: int = 0) -> None:
        self.client, self.printed, self.late_rows = client, printed, late_rows
        self.rates: Rates = []
        self.answers: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.client is None or state.global_step in (0, 1, STEPS):
            return
        told = self.told(state.global_step)
        shown = format(told, self.printed) if self.printed else told
        body = {"command": "update_optimizer", "time": 0, "uuid": str(uuid.uuid4()), "status": "requested"}
        args_text = json.dumps({"lr": {"name": "lr", "value": shown}})
        self.answers.append(self.client.post("/api/command/", json=body | {"args": args_text}).json()["status"])

    def told(self, step: int) -> float:
        """The rate of an earlier row, as a client reads it that thinks for a while."""
        assert self.client is not None
        while True:
            rows = [row["metrics"] for row in self.client.get("/api/get_logs/").json()["branched_logs"]["main"]]
            if rows and rows[-1]["global_step"] >= step - 1:  # they are written beside training
                rate: float = rows[-min(len(rows), self.late_rows + 1)]["learning_rate"]
                return rate
            time.sleep(0.002)


def train(folder: Path, kind: str, tuner: Tuner) -> None:
    settings: dict[str, Any] = {"lr_scheduler_type": kind, **SCHEDULES[kind]}
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=4,
        max_steps=STEPS,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **settings,
    )
    model: nn.Module = Net()
    first, rest = model.get_submodule("first"), model.get_submodule("second")
    groups = [{"params": first.parameters(), "lr": 1e-3}, {"params": rest.parameters(), "lr": 3e-5}]
    trainer = make_interactive(Trainer)(
        model=model,
        args=arguments,
        train_dataset=Sums(32),
        optimizers=(torch.optim.AdamW(groups), None),
        agenttune=Options(runs_dir=folder, server=False),
    )
    trainer.add_callback(tuner)
    trainer.train()


@pytest.mark.quick("linear with warm-up-*")
@pytest.mark.trainer
@pytest.mark.parametrize(
    ("kind", "printed", "late_rows"),
    [("linear", "", 0), ("cosine", "", 9), ("linear with warm-up", ".2e", 3), ("constant_with_warmup", "g", 0)],
)
def test_same_for_ever_leaves_the_rates_of_all_groups_alone(
    tmp_path: Path, kind: str, printed: str, late_rows: int
) -> None:
    torch.set_num_threads(1)
    alone = Tuner(None)
    train(tmp_path / "alone", kind, alone)
    with TestClient(create_app(tmp_path / "steered"), base_url="http://localhost") as client:
        tuner = Tuner(client, printed, late_rows)
        train(tmp_path / "steered", kind, tuner)
    assert tuner.answers == ["success"] * (STEPS - 2)
    assert tuner.rates == alone.rates


def test_the_answer_says_that_nothing_was_changed_and_why(client: V1Client, trainer: Playing) -> None:
    trainer.row(loss=1.0, learning_rate=0.00049876)
    done = client.ask("update_optimizer", {"lr": {"name": "lr", "value": 0.00049876}})
    assert (done["status"], args_of(done)) == ("success", {"lr": {"name": "lr", "value": 1e-3}})
    assert "0.00049876 is the rate in use" in done["message"]
    assert "stays 0.001" in done["message"]
    assert trainer.log.commands() == []


def test_what_else_was_asked_for_is_done(client: V1Client, trainer: Playing) -> None:
    trainer.row(loss=1.0, learning_rate=0.00049876)
    identity, _ = client.post("update_optimizer", {"lr": "0.00049876", "weight_decay": 0.1})
    assert trainer.queued().command.arguments() == {"weight_decay": 0.1, "lr_sets": "effective", "other": {}}
    trainer.apply()
    done = client.outcome(identity)
    assert args_of(done)["lr"]["value"] == 1e-3
    assert args_of(done)["weight_decay"]["value"] == 0.1
    assert "nothing is changed" in done["message"]


def test_an_answer_that_comes_some_rows_late_is_still_same(client: V1Client, trainer: Playing) -> None:
    for rate in (0.00049876, 0.00048765, 0.00047654):
        trainer.row(loss=1.0, learning_rate=rate)
    assert client.ask("update_optimizer", {"lr": 0.00049876})["status"] == "success"
    assert trainer.log.commands() == []


def test_other_rates_are_taken_as_what_they_are(client: V1Client, trainer: Playing) -> None:
    trainer.row(loss=1.0, learning_rate=0.00049876)
    for rate in (2 * 0.00049876, 0.00049876 / 2, 1e-3, 4e-4):
        client.post("update_optimizer", {"lr": rate})
        record = trainer.apply(changes=(Change(name="lr", previous=1e-3, requested=rate, effective=rate),))
        assert record.command.arguments()["lr"] == rate
    # Told before the change: a wish to go back to it.
    client.post("update_optimizer", {"lr": 0.00049876})
    assert trainer.queued().command.arguments()["lr"] == 0.00049876


RATES = st.floats(1e-9, 10.0)


@given(told=RATES, digits=st.integers(2, 17))
def test_a_rate_is_recognised_however_it_is_printed(told: float, digits: int) -> None:
    assert says(float(f"{told:.{digits}e}"), told)


@given(told=RATES, factor=st.floats(1.02, 10.0))
def test_another_rate_is_never_taken_for_it(told: float, factor: float) -> None:
    assert not says(told * factor, told)
    assert not says(told / factor, told)
