"""The tiny model as Lightning's users write it."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tests.integrations.conftest import Desk, Witness
from tests.integrations.loops import LR, STEPS, Batch


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(**batch)["loss"]
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("val_loss", self.net(**batch)["loss"])

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR)
        scheduler = LambdaLR(optimizer, lambda t: max(0.0, (STEPS - t) / STEPS))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Clerk(Callback):  # type: ignore[misc]
    """Hands in commands at the end of steps, and shows the optimizer to the witness."""

    def __init__(self, desk: Desk, witness: Witness) -> None:
        self.desk, self.witness = desk, witness

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.witness.watch_optimizer(trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.desk.submit(trainer.global_step)
