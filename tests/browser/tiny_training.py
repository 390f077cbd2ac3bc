"""A tiny model under the real Trainer, in a process of its own, while a browser looks at it; see `training.py`."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import agenttune

STEP_S = 0.02
"""Slow enough that a browser test takes no more than a few hundred steps, and leaves the processor to the browser."""


class Sums(Dataset[Any]):
    def __init__(self, count: int, shift: float) -> None:
        made = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 4, generator=made)
        self.y = self.x.sum(1) + shift

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.1)
        self.second = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training:
            time.sleep(STEP_S)
        y = self.second(self.drop(torch.relu(self.first(x)))).squeeze(-1)
        return {"logits": y} if labels is None else {"loss": ((y - labels) ** 2).mean(), "logits": y}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mixture = agenttune.Mixture({"near": Sums(64, 0.0), "far": Sums(64, 1.0)}, weights={"near": 0.5, "far": 0.5})
    arguments = TrainingArguments(
        output_dir=os.environ["TINY_OUTPUT"],
        max_steps=int(os.environ["TINY_STEPS"]),
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=20,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = agenttune.make_interactive(Trainer)(
        model=Tiny(), args=arguments, train_dataset=mixture, eval_dataset=Sums(32, 0.5)
    )
    trainer.train()


if __name__ == "__main__":
    main()
