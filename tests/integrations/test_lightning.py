"""Lightning's own ways: epochs, accumulation, validation, several optimizers, its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import agenttune
from agenttune.trainer import Options
from tests.integrations.conftest import Desk, Trained, Witness
from tests.integrations.lightning_module import Clerk, Module
from tests.trainer.conftest import At, Points, TinyModel

pytestmark = pytest.mark.trainer


class ByEpoch(Module):
    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, gamma=0.5)}


class ByHand(Module):
    """Manual optimization with two optimizers."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(**batch)["loss"]
        first, second = self.optimizers()
        self.manual_backward(loss)
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        return torch.optim.SGD(parameters[:2], lr=0.1), torch.optim.SGD(parameters[2:], lr=0.2)


class Unvalidated(Module):
    validation_step = lightning.LightningModule.validation_step


def fit(
    path: Path,
    orders: Sequence[At] = (),
    module: type[Module] = Module,
    attached: bool = True,
    callbacks: Sequence[Any] = (),
    fit_with: dict[str, Any] | None = None,
    **how: Any,
) -> tuple[Trained, Any]:
    torch.manual_seed(7)
    trained = Trained(TinyModel(), Witness(), path / "runs")
    ours = [agenttune.LightningCallback("mine", Options(runs_dir=trained.runs_dir, server=False))] if attached else []
    trained.witness.watch_model(trained.model)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given: dict[str, Any] = {"accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 2, **quiet}
    trainer = lightning.Trainer(
        **given | how,
        callbacks=[Clerk(Desk(trained.runs_dir, orders), trained.witness), *ours, *callbacks],
        default_root_dir=path,
    )
    loader = DataLoader(Points(24), batch_size=4, shuffle=True)
    trainer.fit(module(trained.model), loader, DataLoader(Points(8), batch_size=4), **fit_with or {})
    trained.steps = trainer.global_step
    return trained, trainer


def test_validations_of_its_own_are_recorded_under_the_shared_name(tmp_path: Path) -> None:
    trained, trainer = fit(tmp_path, max_epochs=2)
    events = trained.events("evaluated")
    assert [(event.step, event.command_id) for event in events] == [(6, None), (12, None)]
    assert trained.bodies("evaluated")[-1].metrics == {"eval_loss": trainer.callback_metrics["val_loss"].item()}
    info = trained.log().info()
    assert (info.status, info.step, info.max_steps) == ("finished", 12, None)
    assert info.run_id.startswith("mine-")


class Talkative(Module):
    """Logs metrics of its own while it trains, by step, by epoch and both."""

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = super().training_step(batch, index)
        self.log("reward", 1.0)
        self.log("accuracy", 0.5, on_step=False, on_epoch=True)
        self.log("doubled", 2 * loss, on_step=True, on_epoch=True)
        return loss


def test_what_a_module_logs_in_training_is_recorded_once(tmp_path: Path) -> None:
    trained, _ = fit(tmp_path, module=Talkative, max_epochs=2)
    points = trained.log().points(limit=1000)
    found = {
        (name, source): [p.values[name] for p in points if p.source == source and name in p.values]
        for name in ("reward", "accuracy", "doubled", "doubled_step", "doubled_epoch", "step_loss")
        for source in ("step", "log")
    }
    assert found["reward", "step"] == [1.0] * 12
    assert found["accuracy", "log"] == [0.5] * 2
    assert found["doubled", "step"] == pytest.approx([2 * loss for loss in found["step_loss", "step"]])
    assert len(found["doubled", "log"]) == 2
    assert not any(found[name, source] for name in ("doubled_step", "doubled_epoch") for source in ("step", "log"))


def test_an_evaluation_by_command_uses_up_no_patience_and_no_callback_metric(tmp_path: Path) -> None:
    orders = [At(step, {"kind": "do_evaluate"}, f"ask-{step}") for step in (2, 3, 4, 8)]
    losses = []
    for attached in (False, True):
        stopper = EarlyStopping("val_loss", patience=3, min_delta=100.0)
        path = tmp_path / str(attached)
        trained, _ = fit(path, orders if attached else (), ByEpoch, attached, [stopper], max_epochs=3)
        losses.append(trained.witness.losses)
        assert (trained.steps, stopper.wait_count) == (18, 2)
    assert losses[0] == losses[1]
    assert all(trained.ack(f"ask-{step}").result["eval_loss"] > 0 for step in (2, 3, 4, 8))


def test_without_validation_the_command_is_refused(tmp_path: Path) -> None:
    trained, _ = fit(tmp_path, [At(2, {"kind": "do_evaluate"}, "ask")], Unvalidated, max_steps=4)
    assert "validation_step" in trained.ack("ask").message
    assert "do_evaluate" not in trained.log().info().capabilities


@pytest.mark.parametrize("at", [3, 6])
def test_a_schedule_by_epochs_keeps_its_shape_from_the_new_rate(tmp_path: Path, at: int) -> None:
    """Six steps an epoch: at 6 the schedule has just stepped."""
    trained, _ = fit(tmp_path, [At(at, {"kind": "update_optimizer", "lr": 0.4}, "rate")], ByEpoch, max_epochs=3)
    ack = trained.ack("rate")
    assert (ack.outcome, ack.step) == ("applied", at)
    used = [rates[0] for rates in trained.witness.used]
    later = [0.4] * 3 + [0.2] * 6 + [0.1] * 6 if at == 3 else [0.4] * 6 + [0.2] * 6
    assert used[at:] == pytest.approx(later)


def test_accumulated_batches_are_one_step_with_their_mean_loss(tmp_path: Path) -> None:
    trained, _ = fit(tmp_path, max_epochs=2, accumulate_grad_batches=2)
    losses, rows = trained.witness.losses, trained.step_rows()
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert [row.values["step_loss"] for row in rows] == pytest.approx(means)


def test_clipping_accumulation_and_steps_change_in_the_loop(tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "update_training", "max_grad_norm": 0.5}, "clip"),
        At(6, {"kind": "update_training", "gradient_accumulation_steps": 3}, "gather"),
        At(7, {"kind": "update_training", "max_steps": 9}, "end"),
    ]
    trained, trainer = fit(tmp_path, orders, max_steps=20)
    assert [trained.ack(name).outcome for name in ("clip", "gather", "end")] == ["applied"] * 3
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.5, 3)
    assert trained.steps == 9
    assert len(trained.witness.losses) == 6 + 3 * 3
    assert trained.log().info().max_steps == 9


def test_manual_optimization_steers_the_first_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "update_optimizer", "lr": 0.05}, "rate"),
        At(2, {"kind": "update_training", "max_grad_norm": 0.5}, "clip"),
        At(2, {"kind": "save_checkpoint"}, "save"),
    ]
    trained, trainer = fit(tmp_path, orders, ByHand, max_steps=8)
    assert trained.ack("rate").outcome == "applied"
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05
    assert trainer.optimizers[1].param_groups[0]["lr"] == 0.2
    assert "manual optimization" in trained.ack("clip").message
    assert "one optimizer" in trained.ack("save").message


def test_its_own_checkpoint_lies_beside_ours_and_resumes(tmp_path: Path) -> None:
    trained, _ = fit(tmp_path, [At(4, {"kind": "save_checkpoint"}, "save")], max_steps=6)
    file = Path(trained.ack("save").result["path"]) / "lightning.ckpt"
    resumed, trainer = fit(tmp_path / "again", fit_with={"ckpt_path": str(file), "weights_only": False}, max_steps=6)
    assert trainer.global_step == 6
    assert [row.step for row in resumed.step_rows()] == [5, 6]
    assert resumed.witness.weights[0] == trained.witness.weights[4]


def test_a_fit_from_our_checkpoint_says_what_it_has_not_brought_back(tmp_path: Path) -> None:
    orders = [
        At(2, {"kind": "update_training", "max_grad_norm": 0.5}, "clip"),
        At(3, {"kind": "update_optimizer", "weight_decay": 0.3}, "decay"),
        At(4, {"kind": "save_checkpoint"}, "save"),
    ]
    trained, _ = fit(tmp_path, orders, max_steps=6)
    file = Path(trained.ack("save").result["path"]) / "lightning.ckpt"
    resumed, _ = fit(tmp_path / "again", fit_with={"ckpt_path": str(file), "weights_only": False}, max_steps=6)
    (note,) = [body.text for body in resumed.bodies("note_added") if "was trained under" in body.text]
    assert "max_grad_norm was 0.5, is " in note
    assert "In force again, with the checkpoint's states: weight_decay" in note
    saved = [event.body for event in resumed.log().events(kinds=["checkpoint_saved"])]
    assert "start" in [getattr(body, "kept_as") for body in saved], "the state of before its first step, as ever"
    own = tmp_path / "own.ckpt"
    own.write_bytes(file.read_bytes())
    elsewhere, _ = fit(tmp_path / "third", fit_with={"ckpt_path": str(own), "weights_only": False}, max_steps=6)
    assert elsewhere.bodies("note_added") == []


def test_a_stop_waits_for_the_minimum_of_steps(tmp_path: Path) -> None:
    trained, _ = fit(tmp_path, [At(3, {"kind": "stop_training", "save": False}, "stop")], max_steps=12, min_steps=5)
    assert trained.ack("stop").outcome == "applied"
    assert trained.steps == trained.ack("stop").step >= 5
